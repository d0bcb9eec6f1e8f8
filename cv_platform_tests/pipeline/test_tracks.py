"""Tracking over clips: whatever the order in which they arrive, the rows are those of clips that came in order."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.stage import Finished, StageReport, run_stage
from cv_platform.pipeline.tracks import Tracks
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.days import days_of
from cv_platform.storage.ledger.model import DECODED_FRAMES, DETECTIONS, RAW_CLIPS, Claim, Scope
from cv_platform.storage.ledger.registration import Upload, register_uploads
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform.storage.ledger.withdrawal import delete_rows
from cv_platform.storage.warehouse import DetectionRows, ensure_days, write_detections
from cv_platform.vision.tracking import make_tracker
from cv_platform_tests.pipeline.world import World

MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
GAP_S = 10.0
FRAME_S = 0.5


@dataclass(frozen=True)
class Scene:
    """What one camera saw: clips by their start and length, people by when and how they walked through.

    Attributes:
        clips: (start, length), seconds from midnight.
        people: (from, to, pixels a second), seconds from midnight.
    """

    clips: tuple[tuple[float, float], ...]
    people: tuple[tuple[float, float, float], ...]

    def start(self, clip: int) -> datetime:
        """When a clip begins."""
        return MIDNIGHT + timedelta(seconds=self.clips[clip][0])

    def rows_of(self, claim: Claim) -> tuple[list[int], DetectionRows]:
        """Frame times and detections of a clip: noise is the moment's own, so that overlapping clips agree."""
        start_s = (claim.clip.captured_at - MIDNIGHT).total_seconds()
        length_s = dict(self.clips)[start_s]
        offsets = [round(n * FRAME_S * 1e6) for n in range(round(length_s / FRAME_S))]
        frames, boxes = [], []
        for frame, offset in enumerate(offsets):
            at = start_s + offset / 1e6
            noise = np.random.default_rng(int.from_bytes(hashlib.sha256(repr(at).encode()).digest()[:4]))
            for lane, (first, last, speed) in enumerate(self.people):
                if first <= at < last and noise.random() > 0.1:
                    x, y = (100 + (at - first) * speed) / 2000, (40 + 110 * lane + noise.normal()) / 1000
                    frames.append(frame)
                    boxes.append([x, y, x + 0.04, y + 0.1])
        index = np.array(frames, np.int32)
        stamps = np.datetime64(claim.clip.captured_at.replace(tzinfo=None), "us") + np.array(offsets, "timedelta64[us]")
        return offsets, DetectionRows(
            frames=index,
            timestamps=stamps[index],
            class_ids=np.zeros(len(index), np.int16),
            confidences=np.full(len(index), 0.9, np.float32),
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            ids=[uuid.uuid5(claim.clip.clip_id, f"{claim.version}/{n}") for n in range(len(index))],
        )


@dataclass
class Told:
    """A stage before tracking that takes its result from the scene."""

    stage: str
    scene: Scene
    version: str = "v1"

    def work(self, platform: Platform, claim: Claim, lost: Event) -> Finished:
        """See `ClipStage.work`."""
        clip = claim.clip
        length_s = dict(self.scene.clips)[(clip.captured_at - MIDNIGHT).total_seconds()]
        if self.stage != DETECTIONS:

            def set_length(connection: Connection) -> None:
                connection.execute("UPDATE cv.clips SET duration_s = %s WHERE clip_id = %s", [length_s, clip.clip_id])

            return Finished(write=set_length)
        offsets, rows = self.scene.rows_of(claim)
        ensure_days(platform.database, days_of(clip.captured_at, length_s))

        def write(connection: Connection) -> None:
            delete_rows(connection, clip.clip_id, ("detections",))
            write_detections(connection, clip.camera_id, clip.published_key, rows)
            connection.execute("DELETE FROM warehouse.clip_facts WHERE clip_id = %s", [clip.clip_id])
            connection.execute(
                "INSERT INTO warehouse.clip_facts VALUES (%s, %s, %s, %s, %s, 2000, 1000, %s, %s)",
                [
                    clip.clip_id,
                    clip.site_id,
                    clip.camera_id,
                    clip.captured_at,
                    len(offsets),
                    offsets,
                    clip.published_key,
                ],
            )

        return Finished(write=write)


def clear(world: World) -> None:
    """Forget all clips."""
    world.execute(
        "TRUNCATE cv.clips, cv.stages, cv.track_states, cv.camera_heads, cv.mart_days, warehouse.detections,"
        " warehouse.tracks, warehouse.events, warehouse.clip_facts, cv.stage_versions CASCADE"
    )
    world.execute("DELETE FROM cv.cameras")


def arrive(world: World, scene: Scene, clips: Sequence[int]) -> None:
    """Clips are uploaded and come as far as their detections."""
    uploads = [Upload(f"raw/n/c/{scene.clips[clip][0]}", "e", 1, "n", "c", scene.start(clip)) for clip in clips]
    register_uploads(world.database, uploads)
    for stage in (RAW_CLIPS, DECODED_FRAMES, DETECTIONS):
        run_stage(world.platform, Told(stage, scene), Scope())


def track(world: World, version: str = "v1") -> StageReport:
    """Track all that is ready."""
    report = Tracks(version, lambda: make_tracker("sort", max_age=3)).run(world.platform, Scope())
    assert not report.quarantined
    assert not report.postponed
    return report


def in_order(world: World, scene: Scene) -> dict[str, Any]:
    """What clips make that come in order of their capture, tracked one by one."""
    clear(world)
    for clip in sorted(range(len(scene.clips)), key=lambda n: scene.clips[n]):
        arrive(world, scene, [clip])
        track(world)
    return world.tables()


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Clips around midnight: some follow without a gap, some after one under or over `GAP_S`, some overlap."""
    at = draw(st.sampled_from([-30.0, -14.0, -4.0]))
    clips = []
    for _ in range(draw(st.integers(3, 6))):
        length = draw(st.sampled_from([2.0, 4.0, 8.0]))
        clips.append((at, length))
        at += max(0.5, length + draw(st.sampled_from([0.0, 0.0, 0.5, 4.0, GAP_S + 4.0, -1.5, -length + 0.5])))
    people = []
    for _ in range(draw(st.integers(1, 5))):
        first = draw(st.sampled_from([-40.0, -12.0, -3.0, 0.0, 6.0, 15.0]))
        people.append((first, first + draw(st.sampled_from([5.0, 14.0, 90.0])), draw(st.sampled_from([0.0, 12.0]))))
    return Scene(tuple(clips), tuple(people))


@pytest.mark.slow
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(scene=scenes(), data=st.data())
def test_clips_in_any_order_give_the_rows_of_clips_in_order(world: World, scene: Scene, data: st.DataObject) -> None:
    expected = in_order(world, scene)
    order = data.draw(st.permutations(range(len(scene.clips))), label="arrival")
    tracked = data.draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order)), label="tracked between")
    clear(world)
    waiting: list[int] = []
    for clip, now in zip(order, tracked, strict=True):
        waiting.append(clip)
        if now:
            arrive(world, scene, waiting)
            waiting = []
            track(world)
    arrive(world, scene, waiting)
    track(world)
    assert world.tables() == expected
    assert track(world).done == 0


def stream(first_s: float, clips: int, length_s: float = 4.0) -> tuple[tuple[float, float], ...]:
    """Clips that follow each other without a gap."""
    return tuple((first_s + n * length_s, length_s) for n in range(clips))


def test_tracks_cross_clips_and_midnight(world: World) -> None:
    scene = Scene(stream(-8.0, 4), ((-8.0, 8.0, 10.0),))
    tables = in_order(world, scene)
    assert {(row[3].isoformat(), row[4]) for row in tables["tracks"]} == {("2026-03-01", 1)}  # by its first sighting
    assert len(tables["tracks"]) == 4
    assert [row[3] for row in tables["events"]] == ["track_started"]


def test_ids_count_on_over_gaps_and_anew_each_day(world: World) -> None:
    scene = Scene(((-60.0, 4.0), (-30.0, 4.0), (30.0, 4.0)), ((-90.0, 90.0, 0.0),))
    found = {(row[3].isoformat(), row[4]) for row in in_order(world, scene)["tracks"]}
    assert found == {("2026-03-01", 1), ("2026-03-01", 2), ("2026-03-02", 1)}


def test_a_late_clip_in_which_nobody_is_tracks_no_other_anew(world: World) -> None:
    """A stream without gaps in which all is quiet at the place of the late clip: the states meet at once."""
    scene = Scene(stream(-40.0, 20), ((-40.0, -30.0, 5.0), (-8.0, 30.0, 5.0)))
    expected = in_order(world, scene)
    clear(world)
    late = 4  # from -24 s
    arrive(world, scene, [clip for clip in range(20) if clip != late])
    track(world)
    arrive(world, scene, [late])
    assert track(world).done <= 2
    assert world.tables() == expected


def test_a_late_clip_reaches_no_further_than_its_day_and_who_walks_out_of_it(world: World) -> None:
    """Its new track moves the ids of its day; the next day counts for itself, though no gap parts the two."""
    scene = Scene(stream(-40.0, 24), ((-24.0, -20.0, 0.0), (-12.0, -6.0, 5.0), (10.0, 40.0, 5.0)))
    expected = in_order(world, scene)
    clear(world)
    arrive(world, scene, [clip for clip in range(24) if clip != 4])
    track(world)
    arrive(world, scene, [4])
    # Six clips up to midnight, and until the tracks of before are past `track_gap_s`.
    assert track(world).done <= 10
    assert world.tables() == expected


def test_a_clip_that_leaves_takes_its_part_of_the_tracks_along(world: World) -> None:
    scene = Scene(stream(-12.0, 5), ((-12.0, -8.0, 0.0), (-7.0, 20.0, 5.0)))
    without = Scene(scene.clips[:1] + scene.clips[2:], scene.people)
    expected = in_order(world, without)
    in_order(world, scene)
    new = Upload("raw/n/c/-8.0", "other", 0, "n", "c", scene.start(1), problem=("empty_file", "the file is empty"))
    assert register_uploads(world.database, [new]).superseded == 1
    track(world)
    assert world.tables() == expected


def test_frozen_clips_keep_their_ids_and_nobody_gets_them_again(world: World) -> None:
    """Detections of the first clip are gone when a new version of the tracker comes."""
    scene = Scene(stream(10.0, 3), ((10.0, 40.0, 5.0), (11.0, 40.0, 5.0)))
    adopt_versions(world.database, {"tracks": "v1"})
    arrive(world, scene, [0, 1])
    track(world)
    world.execute(
        "UPDATE cv.stages SET output_deleted_at = now() WHERE stage = 'detections' AND captured_at = %s", scene.start(0)
    )
    assert adopt_versions(world.database, {"tracks": "v2"}) == {"tracks": 1}
    arrive(world, scene, [2])
    track(world, "v2")
    by_version = world.rows(
        "SELECT s.version, s.state, array_agg(DISTINCT t.track_id ORDER BY t.track_id) FROM warehouse.tracks t"
        " JOIN cv.clips c ON c.published_key = t.clip_s3_key JOIN cv.stages s USING (clip_id)"
        " WHERE s.stage = 'tracks' GROUP BY 1, 2 ORDER BY 1"
    )
    assert by_version == [("v1", "frozen", [1, 2]), ("v2", "done", [3, 4])]
    assert adopt_versions(world.database, {"tracks": "v1"}) == {"tracks": 2}
    assert world.rows("SELECT state FROM cv.stages WHERE stage = 'tracks' ORDER BY captured_at") == [
        ("done",),
        ("pending",),
        ("pending",),
    ]


def test_a_clip_that_cannot_be_tracked_is_quarantined_and_the_next_ones_go_on(make_world: Callable[..., World]) -> None:
    world = make_world(retry_base_s=1e-6)
    scene = Scene(stream(10.0, 3), ((10.0, 40.0, 5.0),))
    arrive(world, scene, [0, 1, 2])
    world.execute(
        "UPDATE warehouse.clip_facts SET frame_offsets_us = '{1,NULL}' WHERE captured_at = %s", scene.start(1)
    )
    reports = [Tracks("v1", lambda: make_tracker("sort")).run(world.platform, Scope()) for _ in range(3)]
    assert sum(report.postponed for report in reports) == 2
    assert [dict(report.quarantined) for report in reports] == [{}, {}, {"failed_repeatedly": 1}]
    assert world.rows("SELECT quarantine_reason FROM cv.clips WHERE state = 'quarantined'") == [
        ("tracks failed 3 times, last with TypeError",)
    ]
    assert world.rows("SELECT count(*) FROM cv.stages WHERE stage = 'tracks' AND state = 'done'") == [(2,)]
