"""Days that go cold and come back: nothing lost, doubled or half, whatever happens in between."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pyarrow.parquet as pq
import pytest

from cv_platform import faults
from cv_platform.governance.holds import HoldScope, place_hold, release_hold
from cv_platform.pipeline import cold_rows
from cv_platform.pipeline import warm_to_cold as module
from cv_platform.pipeline.cold_rows import (
    ColdFileDamaged,
    Unwanted,
    bring_back,
    expire_cold,
    remove_clips,
    remove_rows,
)
from cv_platform.pipeline.publishing import collect_garbage
from cv_platform.pipeline.row_query import query_rows
from cv_platform.pipeline.warm_to_cold import warm_to_cold
from cv_platform.storage.cold.kinds import COLUMNS, KINDS
from cv_platform.storage.ledger import cold_days
from cv_platform.storage.ledger.cold_removals import note_removed
from cv_platform.storage.ledger.model import STAGES, TRACKS
from cv_platform_tests.pipeline import workers
from cv_platform_tests.pipeline.warm_rows import (
    DAY,
    LATER,
    build,
    expire_leases,
    fill,
    key_of,
    start,
    union,
    warm,
    write_clip,
)
from cv_platform_tests.pipeline.world import World, short_clip, with_settings

POINTS = {
    point
    for part in (module, cold_rows, cold_days)
    for point in re.findall(r'faults\.point\("([^"]+)"\)', Path(str(part.__file__)).read_text())
}


def objects(world: World) -> set[str]:
    return {info.key for info in world.platform.cold.list("warehouse")}


def pointed_at(world: World) -> set[str]:
    return {key for (key,) in world.rows("SELECT object_key FROM cv.cold_files WHERE state <> 'expired'")}


def collect(world: World) -> None:
    world.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s', again_at = NULL")
    collect_garbage(world.platform)


def test_a_day_goes_cold_and_comes_back_bit_for_bit(world: World) -> None:
    fill(world)
    before, seen = warm(world), union(world)
    moved = warm_to_cold(world.platform, LATER)
    assert moved.cold == [DAY]
    assert (moved.files, moved.rows) == (6, sum(len(rows) for rows in before.values()))
    assert not any(warm(world).values())
    assert union(world) == seen
    for key, kind in world.rows("SELECT object_key, kind FROM cv.cold_files"):
        assert world.platform.cold.folder is not None
        table = pq.read_table(world.platform.cold.folder / key)
        assert table.schema.names == list(COLUMNS[kind])
        assert len(set(table["camera_id"].to_pylist())) == 1
        assert table["timestamp"].to_pylist() == sorted(table["timestamp"].to_pylist())
        assert "cam" not in key
        assert "2026" not in key
    again = warm_to_cold(world.platform, LATER)
    assert (again.cold, again.files) == ([], 0)
    for camera in ("cam1", "cam2"):
        assert bring_back(world.platform, camera, [DAY]).days == 1
    assert warm(world) == before
    collect(world)
    assert objects(world) == set()
    assert warm_to_cold(world.platform, LATER).behind == [DAY]  # brought back: the marts come first
    assert world.rows("SELECT details ->> 'files' FROM cv.audit_log WHERE action = 'rows.moved_to_cold'") == [("6",)]


def test_partitions_are_made_ahead_and_left_until_their_term(world: World) -> None:
    now = datetime(2026, 3, 1, 2, tzinfo=UTC)
    assert warm_to_cold(world.platform, now).cold == []
    with world.database.transaction() as connection:
        assert cold_days.warm_days(connection) == [date(2026, 3, n) for n in (1, 2, 3, 4)]
    fill(world)
    assert warm_to_cold(world.platform, now + timedelta(days=90)).cold == []
    assert warm_to_cold(world.platform, now + timedelta(days=91)).cold == [DAY]


@pytest.mark.slow
def test_a_run_killed_at_every_point_is_resumed(world: World) -> None:
    fill(world, clips=2, rows=10)
    seen = union(world)
    passed = set()

    def kill(what: str, point: str) -> None:
        assert workers.ended(start(world.settings, what, point)) == -signal.SIGKILL, f"{point} was not passed"
        expire_leases(world)
        passed.add(point)

    for point in ("claimed", "before_upload", "uploaded", "recorded", "exported", "switching", "switched"):
        kill("move", f"warm_to_cold.{point}")
        assert union(world) == seen, point  # each row in one place
    assert not any(warm(world).values())
    for point in ("fetched", "loaded", "done"):
        kill("bring_back", f"bring_back.{point}")
        assert union(world) == seen, point
    build(world, DAY)
    assert warm_to_cold(world.platform, LATER).cold == [DAY]
    assert union(world) == seen
    collect(world)
    assert objects(world) == pointed_at(world)
    for point in ("before_commit", "after_commit"):
        kill("expire", f"expire_cold.{point}")
    assert {row[1] for row in union(world)["detections"]} == {"cam2"}
    assert expire_cold(world.platform, LATER + timedelta(days=8 * 365)) == 3
    collect(world)
    assert objects(world) == pointed_at(world) == set()
    assert passed == POINTS


def test_what_changes_the_day_makes_its_export_void(world: World) -> None:
    fill(world)
    with faults.plan(warm_to_cold__exported="raise"), pytest.raises(faults.InjectedFault):
        warm_to_cold(world.platform, LATER)
    assert world.rows("SELECT state FROM cv.cold_days") == [("exported",)]
    with world.database.transaction() as connection:
        write_clip(connection, DAY, "cam2", 9)
    assert world.rows("SELECT state FROM cv.cold_days") == [("warm",)]
    seen = union(world)
    assert warm_to_cold(world.platform, LATER).cold == [DAY]
    assert union(world) == seen
    assert world.rows("SELECT sum(rows) FROM cv.cold_files WHERE kind = 'detections'") == [(350,)]
    collect(world)
    assert objects(world) == pointed_at(world)


@pytest.mark.slow
def test_a_change_while_files_are_written_is_seen(world: World) -> None:
    fill(world)
    stopped = start(world.settings, "move", "warm_to_cold.uploaded", "stop")
    workers.wait_stopped(stopped.pid or 0)
    world.execute("DELETE FROM warehouse.detections WHERE camera_id = 'cam2' AND clip_s3_key = %s", key_of("cam2", 1))
    assert workers.go_on(stopped) == 0
    assert len(warm(world)["detections"]) == 250
    assert warm_to_cold(world.platform, LATER).cold == [DAY]
    assert len(union(world)["detections"]) == 250
    collect(world)
    assert objects(world) == pointed_at(world)


def test_two_runs_at_once_and_readers_beside_them(world: World) -> None:
    fill(world, cameras=("cam1", "cam2", "cam3"))
    other = World.at(world.settings)
    done, wrong = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            with query_rows(other.platform, "SELECT count(*) AS n, count(DISTINCT id) AS d FROM detections") as answer:
                found = answer.batches.read_all().to_pylist()
            if found != [{"n": 450, "d": 450}]:
                wrong.append(found)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(3):
            build(world, DAY)
            both = [threading.Thread(target=warm_to_cold, args=(each.platform, LATER)) for each in (world, other)]
            for thread in both:
                thread.start()
            for thread in both:
                thread.join()
            assert not any(warm(world).values())
            for camera in ("cam1", "cam2", "cam3"):
                bring_back(world.platform, camera, [DAY])
    finally:
        done.set()
        reader.join()
    assert wrong == []
    other.database.close()


def test_cameras_with_a_shorter_term_go_first(world: World, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("sites: {north: {cameras: {cam1: {keep: {warm: 30d}}}}}")
    world = World.at(with_settings(world.settings, policy_file=policy))
    fill(world)
    seen = union(world)
    moved = warm_to_cold(world.platform, datetime(2026, 4, 2, tzinfo=UTC))
    assert (moved.cold, moved.partly, moved.files) == ([], [DAY], 3)
    assert {row[1] for row in warm(world)["detections"]} == {"cam2"}
    assert union(world) == seen
    assert warm_to_cold(world.platform, LATER).cold[0] == DAY
    assert union(world) == seen


@pytest.mark.parametrize(
    ("unwanted", "left"),
    [
        (Unwanted(clips=frozenset({key_of("cam1", 1)})), {"detections": 100, "tracks": 4, "events": 4}),
        (Unwanted(tracks=frozenset({(DAY, 2)})), {"detections": -1, "tracks": 5, "events": 5}),
        (
            Unwanted(start=datetime(2026, 3, 1, 1, tzinfo=UTC), end=datetime(2026, 3, 1, 2, tzinfo=UTC)),
            {"detections": 100, "tracks": 4, "events": 4},
        ),
        (Unwanted(end=datetime(2026, 3, 1, 2, tzinfo=UTC)), {"detections": 50, "tracks": 2, "events": 2}),
        (Unwanted(everything=True), {"detections": 0, "tracks": 0, "events": 0}),
    ],
)
def test_rows_taken_out_for_good(world: World, unwanted: Unwanted, left: dict[str, int]) -> None:
    fill(world)
    tracked = sum(row[6] == 2 and row[7] == key_of("cam1", 1) for row in warm(world)["detections"] if row[1] == "cam1")
    warm_to_cold(world.platform, LATER)
    neighbour = [row for row in union(world)["detections"] if row[1] == "cam2"]
    done = remove_rows(world.platform, "cam1", [DAY], unwanted)
    expected = {kind: (150 - tracked if count < 0 else count) for kind, count in left.items()}
    assert {kind: len(rows) for kind, rows in warm(world).items()} == expected
    assert done.removed.total() == 150 + 6 + 6 - sum(expected.values())
    assert len(done.keys) == 3
    collect_garbage(world.platform)  # due at once
    assert objects(world) == pointed_at(world)
    assert [row for row in union(world)["detections"] if row[1] == "cam2"] == neighbour
    build(world, DAY)
    warm_to_cold(world.platform, LATER)
    assert {kind: sum(row[1] == "cam1" for row in rows) for kind, rows in union(world).items()} == expected


def test_what_is_not_there_changes_nothing(world: World) -> None:
    fill(world)
    warm_to_cold(world.platform, LATER)
    before = world.rows("SELECT * FROM cv.cold_files ORDER BY 1")
    assert remove_clips(world.platform, "cam1", [DAY], ["blurred/no/clip.mp4"]).days == 0
    assert remove_rows(world.platform, "cam1", [DAY], Unwanted(start=LATER)).days == 0
    assert bring_back(world.platform, "cam9", [DAY]).days == 0
    assert world.rows("SELECT * FROM cv.cold_files ORDER BY 1") == before
    with pytest.raises(ValueError, match="nothing is unwanted"):
        remove_rows(world.platform, "cam1", [DAY], Unwanted())


def test_withdrawn_clips_are_left_out_at_once_and_taken_out_by_the_next_run(world: World) -> None:
    fill(world)
    warm_to_cold(world.platform, LATER)
    seen, gone = union(world), key_of("cam1", 2)
    with world.database.transaction() as connection:
        assert note_removed(connection, "cam1", gone, [DAY]) == 3
        assert note_removed(connection, "cam2", "blurred/of/nothing.mp4", [DAY], ["tracks"]) == 1
    left = {kind: [row for row in rows if row[-1] != gone] for kind, rows in seen.items()}
    assert union(world) == left
    assert warm_to_cold(world.platform, LATER).rewritten.removed.total() == 54
    assert union(world) == left
    assert world.rows("SELECT count(*) FROM cv.cold_removals") == [(0,)]
    collect_garbage(world.platform)
    assert objects(world) == pointed_at(world)


def test_what_a_later_clip_told_of_a_cold_day_is_found(world: World) -> None:
    fill(world)
    late = "blurred/ff/late.mp4"
    day_after = DAY + timedelta(days=40)
    world.execute(
        "INSERT INTO cv.clips (clip_id, site_id, camera_id, upload_key, etag, size_bytes, captured_at, capture_date,"
        " published_key) VALUES (%s, 'north', 'cam1', 'k', 'e', 1, %s, %s, %s)",
        uuid4(), day_after, day_after, late,
    )  # fmt: skip
    world.execute(
        "INSERT INTO warehouse.events VALUES (%s, 'cam1', %s, 'track_ended', 0, 1, '{}', %s)", uuid4(), DAY, late
    )
    warm_to_cold(world.platform, LATER)
    with world.database.transaction() as connection:
        assert note_removed(connection, "cam1", late, [day_after]) == 1
    assert late not in {row[-1] for row in union(world)["events"]}
    assert bring_back(world.platform, "cam1", [day_after], told_by=late).days == 1


def test_a_damaged_or_missing_file_changes_nothing(world: World) -> None:
    fill(world)
    warm_to_cold(world.platform, LATER)
    assert world.platform.cold.folder is not None
    ((key,),) = world.rows("SELECT object_key FROM cv.cold_files WHERE camera_id = 'cam1' AND kind = 'detections'")
    ((other,),) = world.rows("SELECT object_key FROM cv.cold_files WHERE camera_id = 'cam1' AND kind = 'tracks'")
    path = world.platform.cold.folder / key
    whole = path.read_bytes()
    fewer = pq.read_table(path).slice(1)
    for damage in (whole[: len(whole) // 2], b"", None, fewer):
        if damage is None:
            path.unlink()
        elif isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            pq.write_table(damage, path)
        with pytest.raises(ColdFileDamaged):
            bring_back(world.platform, "cam1", [DAY])
        assert not any(warm(world).values())
        assert {key, other} <= pointed_at(world)
    path.write_bytes(whole)
    assert bring_back(world.platform, "cam1", [DAY]).rows == 162


def test_cold_rows_expire_unless_they_are_held(world: World) -> None:
    fill(world)
    warm_to_cold(world.platform, LATER)
    end = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(days=7 * 365)
    assert expire_cold(world.platform, end - timedelta(hours=1)) == 0
    clip_id: UUID = uuid4()
    world.execute(
        "INSERT INTO cv.clips (clip_id, site_id, camera_id, upload_key, etag, size_bytes, captured_at, capture_date,"
        " published_key) VALUES (%s, 'north', 'cam1', 'k', 'e', 1, %s, %s, 'p')", clip_id, DAY, DAY,
    )  # fmt: skip
    of_clip, _ = place_hold(world.database, HoldScope(clip_id=clip_id), reason="case 1", by="officer")
    of_camera, _ = place_hold(
        world.database,
        HoldScope(camera_id="cam2", starts_at=datetime(2026, 3, 1, 23, 59, tzinfo=UTC)),
        reason="case 2",
        by="officer",
    )
    assert expire_cold(world.platform, end + timedelta(days=1)) == 0
    release_hold(world.database, of_clip, by="officer")
    assert expire_cold(world.platform, end + timedelta(days=1)) == 3
    assert {row[1] for row in union(world)["detections"]} == {"cam2"}
    release_hold(world.database, of_camera, by="officer")
    assert expire_cold(world.platform, end + timedelta(days=1)) == 3
    assert not any(union(world).values())
    collect_garbage(world.platform)
    assert objects(world) == set()


@pytest.mark.slow
def test_a_late_clip_of_a_cold_day_is_tracked_as_if_it_had_come_in_time(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    in_time, late = make_world(), make_world()
    at = datetime(2026, 3, 1, 8, tzinfo=UTC)
    paths = [short_clip(tmp_path / f"{n}.mp4", first_level=10 * n, frames=6) for n in range(3)]
    stages = STAGES[: STAGES.index(TRACKS) + 1]
    for n, path in enumerate(paths):
        in_time.upload(path, at + timedelta(seconds=1.2 * n))
        if n != 1:
            late.upload(path, at + timedelta(seconds=1.2 * n))
    for world in (in_time, late):
        world.ingest()
        world.run(*stages)
        build(world, DAY)
    assert warm_to_cold(late.platform, LATER).cold == [DAY]
    late.upload(paths[1], at + timedelta(seconds=1.2))
    late.ingest()
    late.run(*stages)
    tables, expected = late.tables(), in_time.tables()
    assert {kind: tables[kind] for kind in KINDS} == {kind: expected[kind] for kind in KINDS}
    assert late.rows("SELECT count(*) FROM cv.stages WHERE stage = 'tracks' AND state = 'done'") == [(3,)]
    assert warm_to_cold(late.platform, LATER).behind == [DAY]
    build(late, DAY)
    assert warm_to_cold(late.platform, LATER).cold == [DAY]
    assert union(late) == union(in_time)


def test_a_busy_table_is_waited_for_without_holding_up_others(world: World) -> None:
    fill(world)
    seen = union(world)
    with world.database.transaction() as reader:
        reader.execute("SELECT 1 FROM warehouse.detections LIMIT 1")  # holds off the switch until it ends
        mover = threading.Thread(target=warm_to_cold, args=(world.platform, LATER))
        mover.start()
        while world.rows("SELECT 1 FROM cv.cold_days WHERE state = 'exported'") == []:
            assert mover.is_alive()
        for _ in range(20):  # new readers and writers go on beside the one that waits
            with world.database.transaction() as connection:
                connection.execute("SET LOCAL lock_timeout = '5s'")
                write_clip(connection, LATER.date(), "cam1", 1, rows=5)
                connection.rollback()
    mover.join()
    assert not any(warm(world).values())
    assert union(world) == seen
