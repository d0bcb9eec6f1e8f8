"""The loop of all clip stages: poison, failures that pass, failures that don't, and a database that stumbles."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import psycopg
import pytest

from cv_platform.pipeline.platform import Platform, sweep_scratch
from cv_platform.pipeline.stage import MOST_IN_HAND, ClipRefused, Finished, Pace, StageReport, run_stage
from cv_platform.storage.ledger.model import Claim, Scope
from cv_platform.storage.ledger.queries import balance
from cv_platform.storage.objects import ObjectMissing
from cv_platform.vision.gpu.lost import DeviceLost
from cv_platform_tests.pipeline import workers
from cv_platform_tests.pipeline.world import MORNING, World, short_clip


@dataclass
class Stub:
    """A first stage that does what a test says."""

    does: Callable[[Claim], Finished]
    stage: str = "raw_clips"
    version: str = "v1"

    def work(self, platform: Platform, claim: Claim, lost: Event) -> Finished:
        """See `ClipStage.work`."""
        return self.does(claim)


@pytest.fixture
def waiting(make_world: Callable[..., World], tmp_path: Path) -> World:
    """Two clips at the first stage, no delay between attempts."""
    world = make_world(retry_base_s=1e-6)
    world.platform.restricted.put_bytes("raw/north/cam1/2026/03/01/20260301T080000Z.mp4", b"x")
    world.platform.restricted.put_bytes("raw/north/cam1/2026/03/01/20260301T080100Z.mp4", b"y")
    world.ingest()
    return world


def failing(error: BaseException, times: int = 1_000) -> Callable[[Claim], Finished]:
    """Work that fails on the first clip, so many times."""
    left = [times]

    def does(claim: Claim) -> Finished:
        if claim.clip.captured_at == MORNING and left[0] > 0:
            left[0] -= 1
            raise error
        return Finished()

    return does


def run(world: World, does: Callable[[Claim], Finished]) -> StageReport:
    """One run of the stage."""
    return run_stage(world.platform, Stub(does), Scope())


def test_a_clip_at_fault_is_quarantined_and_the_next_goes_on(waiting: World) -> None:
    report = run(waiting, failing(ClipRefused("damaged", "too much of the clip is damaged")))
    assert (report.done, dict(report.quarantined)) == (1, {"damaged": 1})
    assert waiting.states() == {"in_progress": 1, "quarantined": 1}


def test_a_failure_that_passes_is_tried_again(waiting: World) -> None:
    report = run(waiting, failing(OSError("disk"), times=2))
    assert (report.done, report.postponed, dict(report.quarantined)) == (2, 2, {})
    assert waiting.rows("SELECT DISTINCT attempts, error FROM cv.stages WHERE stage = 'raw_clips'") == [(0, None)]


def test_each_failure_waits_twice_as_long(make_world: Callable[..., World], waiting: World) -> None:
    waiting.platform.settings = waiting.settings.model_copy(update={"retry_base_s": 100.0})
    waits = []
    for _ in range(2):
        run(waiting, failing(OSError("disk")))
        [(wait_s,)] = waiting.rows(
            "SELECT extract(epoch FROM next_attempt_at - now())::float8 FROM cv.stages WHERE attempts > 0"
        )
        waits.append(wait_s)
        waiting.execute("UPDATE cv.stages SET next_attempt_at = now()")
    assert 80 < waits[0] <= 100
    assert 180 < waits[1] <= 200


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (OSError("/secret/path"), "failed_repeatedly", "raw_clips failed 3 times, last with OSError"),
        (ObjectMissing("x"), "object_missing", "an object that it needs is not in the store"),
    ],
)
def test_a_failure_that_stays_ends_in_quarantine(waiting: World, error: Exception, code: str, reason: str) -> None:
    report = run(waiting, failing(error))
    assert (report.done, report.postponed, dict(report.quarantined)) == (1, 2, {code: 1})
    assert waiting.rows("SELECT quarantine_reason FROM cv.clips WHERE quarantine_code = %s", code) == [(reason,)]


def test_a_database_that_stumbles_counts_nothing_against_the_clip(waiting: World) -> None:
    for _ in range(5):
        with pytest.raises(psycopg.OperationalError):
            run(waiting, failing(psycopg.OperationalError("server closed the connection")))
    assert waiting.rows("SELECT max(attempts), bool_or(state = 'running') FROM cv.stages") == [(0, False)]
    assert run(waiting, failing(OSError(), times=0)).done == 2


def test_a_connection_broken_in_the_commit_counts_nothing_either(waiting: World) -> None:
    def breaks(connection: psycopg.Connection) -> None:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    for _ in range(4):
        with pytest.raises(psycopg.OperationalError):
            run(waiting, lambda claim: Finished(write=breaks))
    assert run(waiting, lambda claim: Finished()).done == 2
    assert waiting.states() == {"in_progress": 2}


def test_an_interrupted_run_gives_its_clip_back(waiting: World) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(waiting, failing(KeyboardInterrupt()))
    assert waiting.rows("SELECT DISTINCT state, attempts FROM cv.stages WHERE stage = 'raw_clips'") == [("pending", 0)]


@pytest.mark.parametrize(
    ("seconds", "lease_s", "expected"),
    [
        ([], 120.0, 1),  # nothing is known yet
        ([0.1], 120.0, MOST_IN_HAND),
        ([20.0], 120.0, 3),  # a minute's worth
        ([61.0], 120.0, 1),
        ([0.1, 0.1, 25.0, 0.1], 120.0, 2),  # the slowest of the last ones
        ([90.0, *[0.1] * 20], 120.0, MOST_IN_HAND),
        ([20.0], 60.0, 1),  # half a lease
        ([0.0], 120.0, MOST_IN_HAND),
    ],
)
def test_quick_clips_are_taken_a_few_at_a_time(seconds: list[float], lease_s: float, expected: int) -> None:
    pace = Pace(lease_s=lease_s)
    for each in seconds:
        pace.took(each)
    assert pace.how_many() == expected


@pytest.mark.parametrize("how", ["asked", "interrupted", "database"])
def test_a_run_that_ends_gives_back_what_it_had_not_begun(make_world: Callable[..., World], how: str) -> None:
    world = make_world()
    for minute in range(6):
        world.platform.restricted.put_bytes(f"raw/north/cam1/2026/03/01/20260301T08{minute:02}00Z.mp4", b"x%d" % minute)
    world.ingest()
    held = "SELECT count(*) FROM cv.stages WHERE stage = 'raw_clips' AND state = 'running'"
    seen: list[int] = []

    def does(claim: Claim) -> Finished:
        seen.append(world.rows(held)[0][0])
        if len(seen) == 3 and how == "interrupted":
            raise KeyboardInterrupt
        if len(seen) == 3 and how == "database":
            raise psycopg.OperationalError("the connection is lost")
        return Finished()

    if how == "asked":
        world.platform.should_stop = lambda: len(seen) == 3
        assert run(world, does).done == 3
    else:
        with pytest.raises(KeyboardInterrupt if how == "interrupted" else psycopg.OperationalError):
            run(world, does)
    assert seen == [1, MOST_IN_HAND, MOST_IN_HAND - 1]
    left = world.rows("SELECT state, attempts, count(*) FROM cv.stages WHERE stage = 'raw_clips' GROUP BY 1, 2")
    done = 3 if how == "asked" else 2
    assert sorted(left) == [("done", 0, done), ("pending", 0, 6 - done)]


def test_what_follows_a_commit_may_fail(waiting: World) -> None:
    def fails() -> None:
        raise OSError("the store stumbles")

    report = run(waiting, lambda claim: Finished(after_commit=fails))
    assert (report.done, report.postponed, report.stale) == (2, 0, 0)


@pytest.mark.parametrize("stage", ["detections", "tracks"])
def test_a_clip_that_kills_its_workers_is_quarantined(
    make_world: Callable[..., World], tmp_path: Path, stage: str
) -> None:
    world = make_world()
    for n, name in enumerate(("a", "b")):
        world.upload(short_clip(tmp_path / f"{name}.mp4", frames=3, first_level=n), MORNING.replace(minute=n))
    world.ingest()
    world.run("raw_clips", "decoded_frames")
    if stage == "tracks":
        world.run("detections")
    for _ in range(3):
        assert workers.ended(workers.start(world.settings, stage, plan={f"{stage}.claimed": "kill"})) == -signal.SIGKILL
        workers.expire_leases(world)
    report = world.run(stage)[stage]
    assert (report.done, dict(report.quarantined)) == (1, {"worker_died": 1})
    reason = f"{stage}: 3 workers died on it"
    assert world.rows("SELECT quarantine_reason FROM cv.clips WHERE state = 'quarantined'") == [(reason,)]
    assert balance(world.database).balances


def test_killed_workers_leave_no_raw_bytes_behind(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world()
    world.upload(short_clip(tmp_path / "a.mp4", frames=3))
    world.ingest()
    with world.platform.scratch() as mine:
        assert oct(mine.parent.stat().st_mode & 0o777) == "0o700"
        dead = mine.parent / "999999999-left"
        dead.mkdir()
        (dead / "clip").write_bytes(b"faces")
        assert sweep_scratch(world.settings) == 1
        assert mine.is_dir()
    assert list(world.settings.scratch.iterdir()) == []


def test_a_lost_gpu_ends_the_run_with_the_clip_given_back_and_counted(waiting: World) -> None:
    """The clip may be what did it: it counts as tried, and is set aside once it was tried too often."""
    most = waiting.platform.settings.max_attempts
    for _ in range(most):
        with pytest.raises(DeviceLost):
            run(waiting, failing(DeviceLost("the GPU is lost")))
    assert waiting.states() == {"in_progress": 1, "quarantined": 1}
    assert run(waiting, lambda claim: Finished()).done == 1
