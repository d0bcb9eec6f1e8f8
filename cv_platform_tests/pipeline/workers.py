"""Workers in processes of their own that start at once: forked from a server that has everything loaded."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from threading import Event

from cv_platform import faults
from cv_platform.pipeline import erasure
from cv_platform.pipeline.expiry import expire
from cv_platform.pipeline.hot_to_warm import drain
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.publishing import publish_due
from cv_platform.pipeline.stage import ClipStage, Finished, run_stage
from cv_platform.settings import Settings
from cv_platform.storage.ledger.model import Claim, Scope
from cv_platform.vision.tracking import make_tracker
from cv_platform_tests.pipeline.world import VERSIONS, World, work_of

# Compiled code is loaded in the server, before it forks.
if multiprocessing.current_process().name != "MainProcess" or os.environ.get("CV_TEST_PRELOAD"):
    from cv_platform.vision.detections import Detections

    make_tracker("sort").update(Detections.empty())


PUBLISH = "publish"
"""In place of a stage: only the copies that are due."""


def context() -> ForkServerContext:
    """Processes that begin with this module loaded."""
    found = multiprocessing.get_context("forkserver")
    os.environ["CV_TEST_PRELOAD"] = "1"
    found.set_forkserver_preload([__name__])
    return found


def start(
    settings: Settings,
    *stages: str,
    plan: dict[str, str] | None = None,
    versions: dict[str, str] | None = None,
) -> ForkServerProcess:
    """Start a worker on stages, with a plan of faults."""
    worker = context().Process(target=_work, args=(settings, stages, plan or {}, versions or VERSIONS), daemon=True)
    worker.start()
    return worker


def start_poisoned(settings: Settings, stage: str, *, poison: uuid.UUID) -> ForkServerProcess:
    """Start a worker on a stage that one clip kills in the middle of its work."""
    worker = context().Process(target=_work_poisoned, args=(settings, stage, poison), daemon=True)
    worker.start()
    return worker


def start_erasure(settings: Settings, request_id: uuid.UUID, *, plan: dict[str, str]) -> ForkServerProcess:
    """Start the execution of an erasure, with a plan of faults."""
    worker = context().Process(target=_erase, args=(settings, request_id, plan), daemon=True)
    worker.start()
    return worker


def start_drain(settings: Settings, *, plan: dict[str, str]) -> ForkServerProcess:
    """Start a drain of the live stream that takes over at once what others have read, with a plan of faults."""
    return _start(_drain, settings, plan)


def start_expiry(settings: Settings, *, plan: dict[str, str]) -> ForkServerProcess:
    """Start an expiry, with a plan of faults."""
    return _start(_expire, settings, plan)


def _start(
    work: Callable[[Settings, dict[str, str]], None], settings: Settings, plan: dict[str, str]
) -> ForkServerProcess:
    worker = context().Process(target=work, args=(settings, plan), daemon=True)
    worker.start()
    return worker


def ended(worker: ForkServerProcess, *, within_s: float = 60.0) -> int | None:
    """The worker's exit code; negative the signal that ended it."""
    worker.join(within_s)
    assert not worker.is_alive(), "the worker did not end"
    return worker.exitcode


def wait_stopped(pid: int, *, within_s: float = 60.0) -> None:
    """Wait until SIGSTOP holds a process."""
    deadline = time.monotonic() + within_s
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "the worker never came to the point where it stops"
        time.sleep(0.02)


def go_on(worker: ForkServerProcess) -> int | None:
    """SIGCONT, and the exit code."""
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGCONT)
    return ended(worker)


def expire_leases(world: World) -> None:
    """What time does to a worker that is gone."""
    world.execute("UPDATE cv.stages SET lease_expires_at = now() - interval '1 s' WHERE state = 'running'")
    world.execute("UPDATE cv.camera_heads SET lease_expires_at = now() - interval '1 s' WHERE state = 'running'")


def _work(settings: Settings, stages: tuple[str, ...], plan: dict[str, str], versions: dict[str, str]) -> None:
    with faults.plan(**{name.replace(".", "__"): action for name, action in plan.items()}):
        world = World.at(settings)
        if stages == (PUBLISH,):
            publish_due(world.platform, Scope())
        else:
            world.run(*stages, versions=versions)


@dataclass
class _Poisoned:
    """A stage's work, but for the clip that kills its worker."""

    inner: ClipStage
    poison: uuid.UUID

    @property
    def stage(self) -> str:
        return self.inner.stage

    @property
    def version(self) -> str:
        return self.inner.version

    def work(self, platform: Platform, claim: Claim, lost: Event) -> Finished:
        if claim.clip.clip_id == self.poison:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.work(platform, claim, lost)


def _work_poisoned(settings: Settings, stage: str, poison: uuid.UUID) -> None:
    run_stage(World.at(settings).platform, _Poisoned(work_of(stage, VERSIONS[stage]), poison), Scope())


def _erase(settings: Settings, request_id: uuid.UUID, plan: dict[str, str]) -> None:
    with faults.plan(**{name.replace(".", "__"): action for name, action in plan.items()}):
        erasure.execute(World.at(settings).platform, request_id, actor="job")


def _drain(settings: Settings, plan: dict[str, str]) -> None:
    with faults.plan(**{name.replace(".", "__"): action for name, action in plan.items()}):
        drain(World.at(settings).platform, dead_after_s=0.0)


def _expire(settings: Settings, plan: dict[str, str]) -> None:
    with faults.plan(**{name.replace(".", "__"): action for name, action in plan.items()}):
        expire(World.at(settings).platform)
