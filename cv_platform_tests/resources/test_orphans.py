"""What outlives its run is ended; nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from kubernetes import client, config

from cv_platform.resources.orphans import Reaped, reap_orphans
from cv_platform_tests.resources.test_patience import job
from cv_platform_tests.stubs.cluster import Cluster
from cv_platform_tests.stubs.kubernetes_api import KubernetesApi

ENDED, UNDER_WAY = dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.STARTED


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    made = KubernetesApi(Cluster(tmp_path / "pods", environment={"PATH": "/usr/bin:/bin"}), tmp_path)
    yield made
    made.stop()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def _wait(condition: Any) -> None:
    import time

    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _start(api: KubernetesApi, name: str, run_id: str, command: list[str]) -> None:
    manifest = job(name)
    manifest["metadata"]["labels"] = {"dagster/run-id": run_id}
    manifest["spec"]["template"]["metadata"]["labels"] = {"dagster/run-id": run_id}
    manifest["spec"]["template"]["spec"]["containers"][0]["command"] = command
    api.cluster.create_job(manifest)


def _run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> str:
    return instance.add_run(dg.DagsterRun(job_name="any", status=status)).run_id


def _reap(api: KubernetesApi, instance: dg.DagsterInstance, grace_s: float = 0.0) -> Reaped:
    made = config.new_client_from_config(str(api.kubeconfig))
    return reap_orphans(instance, client.BatchV1Api(made), client.CoreV1Api(made), namespace="cv", grace_s=grace_s)


def test_what_belongs_to_an_ended_run_goes(api: KubernetesApi, instance: dg.DagsterInstance) -> None:
    _start(api, "orphan", _run(instance, ENDED), ["sleep", "60"])
    _start(api, "at-work", _run(instance, UNDER_WAY), ["sleep", "60"])
    _start(api, "of-another-deployment", "no-run-of-ours", ["sleep", "60"])
    _wait(lambda: len(api.cluster.running({})) == 3)
    assert _reap(api, instance, grace_s=3600.0) == Reaped(0, 0), "its pods may still be ending by themselves"
    assert _reap(api, instance).jobs == 1
    assert {found["metadata"]["name"] for found in api.cluster.jobs()} == {"at-work", "of-another-deployment"}
    _wait(lambda: len(api.cluster.pods()) == 2)
    assert _reap(api, instance) == Reaped(0, 0)


def test_a_pod_whose_job_is_gone_goes_too(api: KubernetesApi, instance: dg.DagsterInstance) -> None:
    """Deleting a job leaves its pods, unless one asks for them."""
    _start(api, "orphan", _run(instance, ENDED), ["sleep", "60"])
    _wait(lambda: api.cluster.running({}))
    api.cluster.delete_job("orphan", propagation=None)
    assert len(api.cluster.pods()) == 1
    assert _reap(api, instance) == Reaped(0, 1)
    _wait(lambda: api.cluster.pods() == [])


def test_what_has_ended_is_left_to_its_ttl(api: KubernetesApi, instance: dg.DagsterInstance) -> None:
    _start(api, "finished", _run(instance, ENDED), ["true"])
    _wait(lambda: api.cluster.job("finished")["status"].get("conditions"))
    assert _reap(api, instance) == Reaped(0, 0)
    assert len(api.cluster.jobs()) == 1
