"""Clips that were refused when they came are let in once the settings accept them, and only then."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cv_platform.pipeline.admission import replay_clips
from cv_platform.pipeline.ingest import ingest_listing
from cv_platform.pipeline.keys import upload_key
from cv_platform.pipeline.platform import open_platform
from cv_platform.storage.ledger.queries import balance, quarantined
from cv_platform_tests.pipeline.world import MORNING, World, short_clip, with_settings

KEY = upload_key("north", "cam1", MORNING)


@dataclass(frozen=True)
class Refusal:
    """A reason to refuse an upload: the settings that do, and those under which it may enter."""

    code: str
    refusing: dict[str, Any]
    accepting: dict[str, Any]
    captured_at: datetime = MORNING


REFUSALS = [
    Refusal("too_large", {"max_clip_bytes": 100}, {"max_clip_bytes": 10_000_000}),
    Refusal("before_first_day", {"partitions_start": date(2026, 4, 1)}, {"partitions_start": date(2026, 1, 1)}),
    Refusal(
        "in_the_future",
        {"max_clock_skew_s": 60.0},
        {"max_clock_skew_s": 7200.0},
        datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1),
    ),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.code)
def test_it_enters_once_the_settings_accept_it_and_is_processed(world: World, tmp_path: Path, refusal: Refusal) -> None:
    refusing = with_settings(world.platform.settings, **refusal.refusing)
    accepting = with_settings(world.platform.settings, **refusal.accepting)
    world.upload(short_clip(tmp_path / "a.mp4"), refusal.captured_at)
    ingest_listing(open_platform(refusing, world.database), limit=10)
    [clip] = quarantined(world.database)
    assert clip.code == refusal.code
    assert replay_clips(world.database, refusing, [clip.clip_id]) == 0
    assert [left.clip_id for left in quarantined(world.database)] == [clip.clip_id]

    assert replay_clips(world.database, accepting, [clip.clip_id]) == 1
    assert replay_clips(world.database, accepting, [clip.clip_id]) == 0
    assert quarantined(world.database) == []
    accepted = World(accepting, open_platform(accepting, world.database))
    assert accepted.ingest().new == 0
    accepted.run()
    books = balance(world.database)
    assert books.balances
    assert books.states["published"] == books.received == 1


@pytest.mark.parametrize("key", ["raw/north/cam1/clip.mp4", KEY.replace("/01/", "/02/"), KEY.replace(".mp4", ".txt")])
def test_a_key_that_no_setting_makes_readable_stays(world: World, key: str) -> None:
    world.platform.restricted.put_bytes(key, b"clip")
    world.ingest()
    [clip] = quarantined(world.database)
    assert replay_clips(world.database, world.platform.settings, [clip.clip_id]) == 0
    assert [left.code for left in quarantined(world.database)] == [clip.code]


def test_a_camera_of_another_site_stays(world: World) -> None:
    world.platform.restricted.put_bytes(KEY, b"clip")
    world.ingest()
    world.platform.restricted.put_bytes(upload_key("south", "cam1", MORNING), b"clip")
    world.ingest()
    [clip] = quarantined(world.database)
    assert clip.code == "camera_of_other_site"
    assert replay_clips(world.database, world.platform.settings, [clip.clip_id]) == 0
    assert balance(world.database).states["quarantined"] == 1


def test_one_whose_bytes_are_past_their_term_stays(world: World) -> None:
    world.platform.restricted.put_bytes(KEY, b"")
    world.ingest()
    [clip] = quarantined(world.database)
    with world.database.transaction() as connection:
        connection.execute("UPDATE cv.clips SET raw_deleted_at = now(), size_bytes = 4")
    assert replay_clips(world.database, world.platform.settings, [clip.clip_id]) == 0


def test_a_clip_that_is_not_there_is_left_alone(world: World) -> None:
    assert replay_clips(world.database, world.platform.settings, [uuid.uuid4()]) == 0
