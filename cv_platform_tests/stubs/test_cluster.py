"""The stub cluster does what a cluster does, where Dagster can tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cv_platform_tests.resources.test_patience import job
from cv_platform_tests.stubs.cluster import Cluster, Node, Refused


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(
        tmp_path / "pods",
        environment={"PATH": "/usr/bin:/bin"},
        secrets={"s": {"SECRET": "told"}},
        nodes=(Node("cpu"), Node("gpu", {"kind": "gpu"}, gpus=1, taint="gpu")),
    )
    yield made
    made.stop()


def _wait(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def _job(name: str, *command: str, **pod: Any) -> dict[str, Any]:
    made = job(name)
    made["spec"]["template"]["spec"]["containers"][0]["command"] = list(command)
    made["spec"]["template"]["spec"] |= pod
    return made


def _conditions(cluster: Cluster, name: str) -> list[tuple[str, str | None]]:
    found = cluster.job(name)["status"].get("conditions", [])
    return [(condition["type"], condition.get("reason")) for condition in found]


def test_a_command_runs_with_its_pods_name_and_secrets(cluster: Cluster) -> None:
    manifest = _job("a", "sh", "-c", "echo $HOSTNAME $SECRET")
    manifest["spec"]["template"]["spec"]["containers"][0]["envFrom"] = [{"secretRef": {"name": "s"}}]
    cluster.create_job(manifest)
    assert _wait(lambda: _conditions(cluster, "a")) == [("Complete", None)]
    (pod,) = cluster.pods()
    assert cluster.pod(pod["metadata"]["name"]).log.read_text() == f"{pod['metadata']['name']} told\n"


@pytest.mark.parametrize(("command", "code"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_a_command_that_fails_fails_the_job(cluster: Cluster, command: str, code: int) -> None:
    cluster.create_job(_job("a", "sh", "-c", command))
    assert _wait(lambda: _conditions(cluster, "a")) == [("Failed", "BackoffLimitExceeded")]
    (pod,) = cluster.pods()
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == code


def test_a_deadline(cluster: Cluster) -> None:
    manifest = _job("a", "sleep", "60")
    manifest["spec"]["activeDeadlineSeconds"] = 1
    cluster.create_job(manifest)
    assert _wait(lambda: _conditions(cluster, "a")) == [("Failed", "DeadlineExceeded")]
    _wait(lambda: cluster.processes() == [])


def test_a_pod_has_its_grace_period_and_no_more(cluster: Cluster) -> None:
    stubborn = ("sh", "-c", "trap '' TERM; echo ready; while true; do sleep 0.1; done")
    cluster.create_job(_job("a", *stubborn, terminationGracePeriodSeconds=1))
    pod = _wait(lambda: cluster.running({}))[0]
    _wait(lambda: "ready" in pod.log.read_text())
    cluster.delete_pod(pod.name)
    assert cluster.pods() != [], "it is there until its process is gone"
    _wait(lambda: cluster.pods() == [])
    assert pod.exit_code == 137


def test_a_deleted_jobs_pods_live_on_and_what_a_pod_owns_goes_with_it(cluster: Cluster) -> None:
    cluster.create_job(_job("run", "sleep", "60"))
    run = _wait(lambda: cluster.running({}))[0]
    step = _job("step", "sleep", "60")
    step["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": run.name, "uid": run.uid}]
    cluster.create_job(step)
    _wait(lambda: len(cluster.running({})) == 2)
    cluster.delete_job("run", propagation=None)
    assert len(cluster.running({})) == 2
    cluster.delete_pod(run.name)
    _wait(lambda: cluster.pods() == [] and cluster.jobs() == [])


def test_a_gpu_goes_to_one_at_a_time_where_it_is_tolerated(cluster: Cluster) -> None:
    limits = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    for name in ("a", "b"):
        manifest = _job(name, "sleep", "60", nodeSelector={"kind": "gpu"}, tolerations=[{"key": "gpu"}])
        manifest["spec"]["template"]["spec"]["containers"][0] |= limits
        cluster.create_job(manifest)
    cluster.create_job(_job("intolerant", "sleep", "60", nodeSelector={"kind": "gpu"}))
    _wait(lambda: len(cluster.events) == 2)
    assert len(cluster.running({})) == 1
    cluster.running({})[0].kill()
    _wait(lambda: [pod.object["metadata"]["labels"]["job-name"] for pod in cluster.running({})] == ["b"])


def test_what_is_no_job_is_refused(cluster: Cluster) -> None:
    manifest = _job("a", "true")
    manifest["spec"]["backofLimit"] = 0
    with pytest.raises(Refused, match="backofLimit: unknown field"):
        cluster.create_job(manifest)
