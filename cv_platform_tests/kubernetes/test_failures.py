"""What goes wrong on a cluster, and that nothing is stuck, lost, doubled or left behind afterwards.

Each test has a day of its own. `pending_work` asks for its run; a step stands still at a fault point, once, while the
test does what it does; then the sensor asks again, until every clip is published.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from cv_platform.defs.op_tags import STEPS
from cv_platform.faults import VARIABLE
from cv_platform.resources.orphans import reap_orphans
from cv_platform.resources.patience import patient_apis
from cv_platform_tests.kubernetes.conftest import LAST_DAYS
from cv_platform_tests.kubernetes.deployment import Deployment
from cv_platform_tests.stubs.pod import Pod

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]
FAILED, SUCCESS, CANCELED = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED
STEP = "detections"


class Stage:
    """A day of one site, whose first `detections` step stands still in the middle of a clip."""

    def __init__(self, deployed: Deployment, day: int, once: Path) -> None:
        self.deployed, self.day, self.once = deployed, LAST_DAYS[day], once
        deployed.cluster.environment[VARIABLE] = f"{STEP}.before_commit=sleep:600@{once}"
        deployed.register([self.day], [f"site{day}"], clips=2)
        deployed.wait("a step stands still", lambda: once.exists())
        deployed.cluster.environment.pop(VARIABLE)

    def pod(self, component: str) -> Pod:
        """The pod of the run (`run_worker`) or of the step that stands still (`step_worker`)."""
        labels = {"app.kubernetes.io/component": component, "dagster/run-id": self.runs()[-1].run_id}
        if component == "step_worker":
            labels["dagster/op"] = STEP
        (found,) = self.deployed.cluster.running(labels)
        return found

    def runs(self) -> list[dg.DagsterRun]:
        """The day's runs, newest first."""
        return [run for run in self.deployed.runs() if run.tags.get("dagster/partition") == self.day.isoformat()]

    def wait_first(self, *statuses: dg.DagsterRunStatus) -> dg.DagsterRun:
        """Wait until the first run has ended so."""
        self.deployed.wait(f"the first run is one of {statuses}", lambda: self.runs()[-1].status in statuses)
        return self.runs()[-1]

    def wait_done(self) -> None:
        """Wait until every clip is published and tracked, and all runs have ended."""
        query = "SELECT count(*) FROM cv.stages WHERE state <> 'done'"
        self.deployed.wait("every stage is done", lambda: self.deployed.world.rows(query) == [(0,)])
        self.deployed.wait("all runs have ended", lambda: all(run.is_finished for run in self.runs()))
        self.deployed.expect_rest()


@pytest.fixture
def stage(lively: Deployment, tmp_path: Path) -> Callable[[int], Stage]:
    return lambda day: Stage(lively, day, tmp_path / "once")


def test_the_runs_pod_is_killed(lively: Deployment, stage: Callable[[int], Stage]) -> None:
    """The monitor sees it; the step that works on is ended, and gives its clip back."""
    at = stage(0)
    step = at.pod("step_worker")
    at.pod("run_worker").kill()
    run = at.wait_first(FAILED)
    assert not step.finished.is_set(), "nobody else ends it"
    reaped = reap_orphans(lively.instance, *patient_apis(), namespace=lively.cluster.namespace, grace_s=0.0)
    assert (reaped.jobs, reaped.pods) >= (1, 0)
    lively.wait("the orphan is gone", step.finished.is_set)
    assert lively.world.rows("SELECT count(*) FROM cv.stages WHERE state = 'running' AND run_id = %s", run.run_id) == [
        (0,)
    ], "SIGTERM gives the clip in hand back"
    at.wait_done()
    assert at.runs()[0].status is SUCCESS
    assert reap_orphans(lively.instance, *patient_apis(), namespace=lively.cluster.namespace, grace_s=0.0).jobs == 0


@pytest.mark.parametrize(
    ("day", "reason", "said"),
    [
        (1, None, ["exit code 137", "not for memory"]),
        (2, "OOMKilled", ["killed for memory (OOMKilled)", f"{STEPS[STEP].memory_mib}Mi", STEP]),
    ],
)
def test_a_steps_pod_is_killed(
    lively: Deployment, stage: Callable[[int], Stage], day: int, reason: str | None, said: list[str]
) -> None:
    """The step is tried again by its retry policy; the run's log says what ended the pod."""
    at = stage(day)
    run = at.runs()[-1]
    at.pod("step_worker").kill(reason=reason)
    at.wait_done()
    found = lively.failures(run.run_id)
    for words in said:
        assert words in found
    assert lively.instance.get_run_by_id(run.run_id).status is SUCCESS  # type: ignore[union-attr]


def test_the_api_answers_429_and_500_for_half_a_minute(
    lively: Deployment, stage: Callable[[int], Stage], tmp_path: Path
) -> None:
    """Nothing ends for it: the run that was under way succeeds, and it is the only one."""
    import time

    at = stage(3)
    before = len(lively.api.requests)
    with lively.api.fault(429, retry_after_s=1):
        time.sleep(15.0)  # what is tested is a stretch of time
    with lively.api.fault(500):
        time.sleep(15.0)
    refused = [request for request in lively.api.requests[before:] if request[2] in (429, 500)]
    assert refused, "nobody asked: the test proves nothing"
    assert at.runs()[-1].status is dg.DagsterRunStatus.STARTED
    # The sleeping step goes on, as if it had waited for a slow disk.
    at.pod("step_worker").kill()
    at.wait_done()
    assert at.runs()[-1].status is SUCCESS


def test_a_run_is_cancelled_in_mid_step(lively: Deployment, stage: Callable[[int], Stage]) -> None:
    """Run and step end within their grace period; the clip in hand is there for the next run at once."""
    at = stage(4)
    run = at.runs()[-1]
    step = at.pod("step_worker")
    assert lively.instance.run_launcher.terminate(run.run_id)
    at.wait_first(CANCELED)
    lively.wait("the step's pod is gone", step.finished.is_set)
    assert step.exit_code != 137, "it ended by itself"
    held = "SELECT count(*) FROM cv.stages WHERE state = 'running' AND run_id = %s"
    assert lively.world.rows(held, run.run_id) == [(0,)]
    at.wait_done()
    assert at.runs()[0].status is SUCCESS


def test_a_node_is_lost(lively: Deployment, stage: Callable[[int], Stage]) -> None:
    """Its pods end without a word; the step is tried again on another node."""
    at = stage(5)
    run = at.runs()[-1]
    lively.cluster.lose_node("gpu-1")
    at.wait_done()
    assert "NodeLost" in lively.failures(run.run_id)
