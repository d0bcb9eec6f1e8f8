"""Workers that are killed, stopped, doubled or outdated: what they leave is what one undisturbed worker makes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from cv_platform.pipeline.publishing import collect_garbage
from cv_platform.pipeline.stage import MOST_IN_HAND
from cv_platform.storage.ledger.model import DECODED_FRAMES, DETECTIONS, RAW_CLIPS, STAGES, TRACKS
from cv_platform.storage.ledger.queries import balance
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform_tests.pipeline import workers
from cv_platform_tests.pipeline.world import MORNING, VERSIONS, World, short_clip

POINTS = {stage: [f"{stage}.{moment}" for moment in ("claimed", "before_commit", "after_commit")] for stage in STAGES}
POINTS[RAW_CLIPS] += ["vault.before_keep", "vault.before_removal"]
POINTS[workers.PUBLISH] = ["publish.before_copy", "publish.after_copy"]
BEFORE = dict(zip(STAGES, [STAGES[:n] for n in range(len(STAGES))], strict=True))


def two_clips(world: World, folder: Path) -> World:
    """Two clips of one camera without a gap, registered."""
    for n in range(2):
        world.upload(short_clip(folder / f"{n}.mp4", first_level=9 * n, frames=6), MORNING + timedelta(seconds=2 * n))
    world.ingest()
    return world


def objects_of(world: World) -> set[str]:
    """All objects but uploads."""
    return {
        info.key
        for store in (world.platform.cold, world.platform.restricted)
        for prefix in ("blurred", "staging", "detections", "frames", "previews", "vault")
        for info in store.list(prefix)
    }


def objects_pointed_at(world: World) -> set[str]:
    """What the ledger points at, with its certificates."""
    keys = {key for (key,) in world.rows("SELECT output_key FROM cv.stages WHERE output_key IS NOT NULL")}
    return keys | {f"{key}.certificate.json" for key in keys if key.startswith("blurred/")}


def collect_all(world: World) -> None:
    """Run the collector as if a day had passed."""
    world.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s', again_at = NULL")
    collect_garbage(world.platform)


@pytest.mark.slow
def test_a_worker_killed_at_every_point_leaves_what_an_undisturbed_one_makes(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    undisturbed, killed = (two_clips(make_world(), tmp_path) for _ in range(2))
    undisturbed.run()
    for stage, points in POINTS.items():
        for point in points:
            assert workers.ended(workers.start(killed.settings, stage, plan={point: "kill"})) == -signal.SIGKILL, point
            workers.expire_leases(killed)
    assert killed.picture() != undisturbed.picture()  # something was left to do
    killed.run()
    assert killed.picture() == undisturbed.picture()
    assert balance(killed.database).balances
    collect_all(killed)
    assert objects_of(killed) == objects_pointed_at(killed)  # nothing that a killed worker uploaded is forgotten


@pytest.mark.parametrize("stage", STAGES)
def test_a_worker_stopped_past_its_lease_commits_nothing(
    make_world: Callable[..., World], tmp_path: Path, stage: str
) -> None:
    world = two_clips(make_world(), tmp_path)
    if BEFORE[stage]:
        world.run(*BEFORE[stage])
    stopped = workers.start(world.settings, stage, plan={f"{stage}.before_commit": f"stop@{tmp_path / 'once'}"})
    workers.wait_stopped(stopped.pid or 0)
    workers.expire_leases(world)
    world.run()
    finished, fences = world.picture(), world.rows("SELECT clip_id, stage, fence FROM cv.stages ORDER BY 1, 2")
    assert world.states() == {"published": 2}
    assert workers.go_on(stopped) == 0
    assert world.picture() == finished
    assert world.rows("SELECT clip_id, stage, fence FROM cv.stages ORDER BY 1, 2") == fences
    collect_all(world)
    assert objects_of(world) == objects_pointed_at(world)


def test_the_lease_alone_takes_a_clip_from_a_stopped_process(make_world: Callable[..., World], tmp_path: Path) -> None:
    """As above, with a command of its own, the environment's faults, and a real second that passes."""
    world = two_clips(make_world(lease_s=2.0), tmp_path)
    world.run("raw_clips", DECODED_FRAMES)
    first = world.start_worker(DETECTIONS, faults=f"detections.before_commit=stop@{tmp_path / 'once'}")
    try:
        workers.wait_stopped(first.pid)
        assert world.run(DETECTIONS)[DETECTIONS].done == 1  # the other clip; the first is leased still
        time.sleep(2.1)
        assert world.run(DETECTIONS)[DETECTIONS].done == 1
        before = world.tables()
        os.kill(first.pid, signal.SIGCONT)
        assert first.wait(60) == 0
        assert world.tables() == before
    finally:
        first.kill()
        first.wait()
        if first.stderr is not None:
            first.stderr.close()


def _six_decoded(world: World, folder: Path) -> World:
    """Six clips of one camera that wait for `detections`."""
    for n in range(6):
        path = short_clip(folder / f"{n}.mp4", first_level=5 * n, frames=3)
        world.upload(path, MORNING + timedelta(seconds=2 * n))
    world.ingest()
    world.run(RAW_CLIPS, DECODED_FRAMES)
    return world


_IN_HAND = "SELECT count(*), sum(attempts) FROM cv.stages WHERE stage = 'detections' AND state = 'running'"


def test_a_worker_killed_with_several_clips_in_hand_loses_none(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    """The first clip is taken alone; the worker dies when it has taken the next ones at once."""
    undisturbed, killed = (_six_decoded(make_world(), tmp_path) for _ in range(2))
    undisturbed.run(DETECTIONS, TRACKS)
    for done in (1, 2):
        worker = workers.start(killed.settings, DETECTIONS, plan={f"{DETECTIONS}.several_claimed": "kill"})
        assert workers.ended(worker) == -signal.SIGKILL
        assert killed.rows(_IN_HAND) == [(MOST_IN_HAND, 0)], "none of them was begun"
        assert killed.rows("SELECT count(*) FROM cv.stages WHERE stage = 'detections' AND state = 'done'") == [(done,)]
        workers.expire_leases(killed)
    killed.run(DETECTIONS, TRACKS)
    assert killed.picture() == undisturbed.picture()


def test_a_worker_stopped_with_several_clips_in_hand_begins_none_that_is_anothers(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = _six_decoded(make_world(), tmp_path)
    plan = {f"{DETECTIONS}.several_claimed": f"stop@{tmp_path / 'once'}"}
    stopped = workers.start(world.settings, DETECTIONS, plan=plan)
    workers.wait_stopped(stopped.pid or 0)
    assert world.rows(_IN_HAND) == [(MOST_IN_HAND, 0)]
    workers.expire_leases(world)
    assert world.run(DETECTIONS)[DETECTIONS].done == 5
    finished, fences = world.picture(), world.rows("SELECT clip_id, stage, fence FROM cv.stages ORDER BY 1, 2")
    assert workers.go_on(stopped) == 0
    assert world.picture() == finished
    assert world.rows("SELECT clip_id, stage, fence FROM cv.stages ORDER BY 1, 2") == fences


def test_a_clip_that_kills_its_workers_takes_no_other_with_it(make_world: Callable[..., World], tmp_path: Path) -> None:
    """Those in hand with it are blamed for nothing, however often their worker dies."""
    world = _six_decoded(make_world(), tmp_path)
    poison = world.rows("SELECT clip_id FROM cv.clips ORDER BY captured_at OFFSET 2 LIMIT 1")[0][0]
    for death in range(1, 4):
        assert workers.ended(workers.start_poisoned(world.settings, DETECTIONS, poison=poison)) == -signal.SIGKILL
        counted = world.rows("SELECT clip_id, attempts FROM cv.stages WHERE stage = 'detections' AND attempts > 0")
        assert counted == [(poison, death)]
        workers.expire_leases(world)
    report = world.run(DETECTIONS)[DETECTIONS]
    assert dict(report.quarantined) == {"worker_died": 1}
    assert world.states() == {"in_progress": 5, "quarantined": 1}
    assert world.rows("SELECT count(*) FROM cv.stages WHERE stage = 'detections' AND state = 'done'") == [(5,)]


@pytest.mark.slow
def test_two_workers_at_once_make_the_same_tables_as_one(make_world: Callable[..., World], tmp_path: Path) -> None:
    alone, together = make_world(), make_world()
    for world in (alone, together):
        for n in range(4):
            path = short_clip(tmp_path / f"{n}.mp4", first_level=7 * n, frames=6)
            world.upload(path, MORNING + timedelta(seconds=2 * (n // 2)), camera=f"cam{n % 2}")
        world.ingest()
    alone.run()
    for stages in (STAGES[:2], STAGES[2:]):
        pair = [workers.start(together.settings, *stages) for _ in range(2)]
        assert [workers.ended(worker) for worker in pair] == [0, 0]
    together.run()  # the last clip of a stage may have been in the other worker's hands
    assert together.picture() == alone.picture()


@pytest.mark.parametrize("recommitted", [False, True])
@pytest.mark.parametrize("stage", [DETECTIONS, TRACKS])
def test_output_made_from_an_older_version_is_refused(
    make_world: Callable[..., World], tmp_path: Path, stage: str, recommitted: bool
) -> None:
    world = two_clips(make_world(), tmp_path)
    adopt_versions(world.database, VERSIONS)
    world.run(*BEFORE[stage])
    stopped = workers.start(world.settings, stage, plan={f"{stage}.before_commit": f"stop@{tmp_path / 'once'}"})
    workers.wait_stopped(stopped.pid or 0)
    held = "SELECT state, fence FROM cv.stages WHERE stage = %s ORDER BY captured_at LIMIT 1"
    fence = world.rows(held, stage)[0][1]
    upstream = BEFORE[stage][-1]
    newer = {**VERSIONS, upstream: "v2"}
    assert adopt_versions(world.database, newer)[upstream] == 2
    if recommitted:
        world.run(upstream, versions=newer)
    assert workers.go_on(stopped) == 0
    # Adopted, recommitted and claimed again: the same worker has done it anew. Else there is nothing to work on yet.
    assert world.rows(held, stage) == [("done", fence + 3) if recommitted else ("blocked", fence + 1)]
    world.run(versions=newer)
    assert {state for (state,) in world.rows("SELECT state FROM cv.stages")} == {"done"}
    assert world.rows("SELECT DISTINCT version FROM cv.stages WHERE stage = %s", upstream) == [("v2",)]


def test_a_worker_of_a_version_that_was_left_gets_nothing(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = two_clips(make_world(), tmp_path)
    adopt_versions(world.database, VERSIONS)
    world.run("raw_clips", DECODED_FRAMES, DETECTIONS)
    newer = {stage: "v2" for stage in STAGES}
    adopt_versions(world.database, newer)
    assert all(report.done == 0 for report in world.run(versions=VERSIONS).values())
    world.run(versions=newer)
    assert world.rows("SELECT DISTINCT version, state FROM cv.stages") == [("v2", "done")]


def test_a_version_adopted_after_the_claim_refuses_the_commit(make_world: Callable[..., World], tmp_path: Path) -> None:
    """The row was claimed in the very moment of adoption: nothing but the commit can notice."""
    world = two_clips(make_world(), tmp_path)
    world.run("raw_clips")
    stopped = workers.start(
        world.settings, DECODED_FRAMES, plan={"decoded_frames.before_commit": f"stop@{tmp_path / 'once'}"}
    )
    workers.wait_stopped(stopped.pid or 0)
    world.execute("INSERT INTO cv.stage_versions (stage, version) VALUES ('decoded_frames', 'v2')")
    assert workers.go_on(stopped) == 0
    assert world.rows("SELECT count(*) FROM cv.stages WHERE stage = 'decoded_frames' AND state = 'done'") == [(0,)]
