"""The plan: two sites, three cameras, two days, the same at every run."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from cv_platform.demo import plan
from cv_platform.demo.plan import DemoClip, own_clips, sample_clips
from cv_platform.pipeline.keys import parse_key
from cv_platform.settings import Settings


@pytest.fixture
def quick_footage(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Writes a byte in place of each clip, and remembers which were made."""
    made: list[Path] = []

    def make(path: Path, shot: object) -> None:
        made.append(path)
        path.write_bytes(b"x")

    monkeypatch.setattr(plan, "_make", make)
    return made


def clips_of(
    folder: Path, today: date, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[DemoClip]:
    return sample_clips(folder, today=today, progress=progress)


def test_it_covers_what_the_demonstration_promises(tmp_path: Path, quick_footage: list[Path]) -> None:
    clips = clips_of(tmp_path, date(2026, 3, 2))
    keys = [parse_key(clip.key) for clip in clips]
    assert len({key.site_id for key in keys}) == 2
    assert len({key.camera_id for key in keys}) == 3
    assert {key.captured_at.date() for key in keys} == {date(2026, 2, 28), date(2026, 3, 1)}
    assert sum(clip.corrupt for clip in clips) == 1
    assert sum(not clip.corrupt for clip in clips) >= 8
    assert len({clip.key for clip in clips}) == len(clips)


def test_one_camera_films_over_midnight_without_a_gap(tmp_path: Path, quick_footage: list[Path]) -> None:
    clips = clips_of(tmp_path, date(2026, 3, 2))
    times = sorted(
        key.captured_at for key in (parse_key(clip.key) for clip in clips) if key.camera_id == "harbour-quay"
    )
    assert [b - a for a, b in pairwise(times)] == [timedelta(seconds=plan.CLIP_S)] * 2
    assert times[-1] == datetime(2026, 3, 1, tzinfo=UTC)


def test_a_later_run_changes_nothing_even_on_another_day(tmp_path: Path, quick_footage: list[Path]) -> None:
    first = clips_of(tmp_path, date(2026, 3, 2))
    made = len(quick_footage)
    assert clips_of(tmp_path, date(2026, 3, 9)) == first
    assert len(quick_footage) == made


def test_a_clip_that_is_missing_is_made_again(tmp_path: Path, quick_footage: list[Path]) -> None:
    first = clips_of(tmp_path, date(2026, 3, 2))
    first[2].path.unlink()
    assert clips_of(tmp_path, date(2026, 3, 9)) == first
    assert quick_footage[-1] == first[2].path


def test_progress_is_told_to_the_end(tmp_path: Path, quick_footage: list[Path]) -> None:
    told: list[tuple[int, int]] = []
    clips = clips_of(tmp_path, date(2026, 3, 2), lambda done, total: told.append((done, total)))
    assert told[0] == (0, len(clips))
    assert told[-1] == (len(clips), len(clips))


class TestOwnClips:
    NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)

    def clips(self, folder: Path, paths: list[Path]) -> list[DemoClip]:
        return own_clips(folder, paths, settings=Settings(), now=self.NOW)

    def test_the_files_time_is_its_capture_time_and_its_name_goes_nowhere(self, tmp_path: Path) -> None:
        path = tmp_path / "Anna at home.MKV"
        path.write_bytes(b"one")
        when = datetime(2026, 2, 1, 8, 30, 5, tzinfo=UTC)
        os.utime(path, (when.timestamp(), when.timestamp()))
        [clip] = self.clips(tmp_path / "demo", [path])
        key = parse_key(clip.key)
        assert (key.site_id, key.captured_at) == ("own", when)
        assert clip.key.endswith(".mkv")
        assert "anna" not in clip.key.lower()

    @pytest.mark.parametrize("when", [datetime(2027, 1, 1, tzinfo=UTC), datetime(1999, 1, 1, tzinfo=UTC)])
    def test_a_time_that_would_be_refused_becomes_now(self, tmp_path: Path, when: datetime) -> None:
        path = tmp_path / "a.mp4"
        path.write_bytes(b"one")
        os.utime(path, (when.timestamp(), when.timestamp()))
        [clip] = self.clips(tmp_path / "demo", [path])
        assert parse_key(clip.key).captured_at == self.NOW

    def test_the_same_content_is_the_same_clip_in_every_run(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        path.write_bytes(b"one")
        first = self.clips(tmp_path / "demo", [path])
        os.utime(path, (1_770_000_000, 1_770_000_000))
        copy = path.rename(tmp_path / "b.mp4")
        assert [clip.key for clip in self.clips(tmp_path / "demo", [copy])] == [clip.key for clip in first]
        copy.write_bytes(b"two")
        assert [clip.key for clip in self.clips(tmp_path / "demo", [copy])] != [clip.key for clip in first]

    def test_different_files_are_different_cameras(self, tmp_path: Path) -> None:
        paths = [tmp_path / name for name in ("a.mp4", "b.mp4")]
        for path in paths:
            path.write_bytes(path.name.encode())
        keys = [parse_key(clip.key) for clip in self.clips(tmp_path / "demo", paths)]
        assert len({key.camera_id for key in keys}) == 2
