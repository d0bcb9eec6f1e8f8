"""Calls of the Kubernetes API are tried again for as long as it helps, and no longer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.rest import ApiException
from urllib3.exceptions import HTTPError

from cv_platform.resources.patience import PatientApi
from cv_platform_tests.stubs.cluster import Cluster
from cv_platform_tests.stubs.kubernetes_api import KubernetesApi


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    made = KubernetesApi(Cluster(tmp_path / "pods", environment={"PATH": "/usr/bin:/bin"}), tmp_path)
    yield made
    made.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def batch(api: KubernetesApi, clock: Clock) -> PatientApi:
    configuration = client.Configuration()
    config.load_kube_config(str(api.kubeconfig), client_configuration=configuration)
    configuration.retries = False  # urllib3 has a patience of its own, of three tries
    made = client.BatchV1Api(client.ApiClient(configuration))
    return PatientApi(made, reading_s=20.0, changing_s=300.0, sleep=clock.sleep, clock=clock)


def job(name: str) -> dict[str, Any]:
    """A job that does nothing."""
    container = {"name": "c", "image": "i", "command": ["sleep", "60"]}
    template = {"metadata": {"labels": {}}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    spec = {"backoffLimit": 0, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_passes_is_waited_for(api: KubernetesApi, batch: PatientApi, clock: Clock, status: int) -> None:
    with api.fault(status, times=5):
        batch.create_namespaced_job("cv", job("a"))
    assert batch.read_namespaced_job("a", "cv").metadata.name == "a"
    assert clock.now > 5.0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_what_does_not_pass_is_raised_at_once(api: KubernetesApi, batch: PatientApi, clock: Clock, status: int) -> None:
    with api.fault(status) as fault, pytest.raises(ApiException) as caught:
        batch.create_namespaced_job("cv", job("a"))
    assert (caught.value.status, fault.hit, clock.now) == (status, 1, 0.0)


def test_an_answer_that_got_lost_is_no_conflict(api: KubernetesApi, batch: PatientApi) -> None:
    with api.fault(500, method="POST", times=1, done_first=True):
        batch.create_namespaced_job("cv", job("a"))
    assert len(api.cluster.posted) == 1
    with api.fault(503, method="DELETE", times=1, done_first=True):
        batch.delete_namespaced_job("a", "cv")
    assert api.cluster.jobs() == []


def test_a_true_conflict_is_one(batch: PatientApi) -> None:
    batch.create_namespaced_job("cv", job("a"))
    with pytest.raises(ApiException, match="AlreadyExists"):
        batch.create_namespaced_job("cv", job("a"))


def test_questions_are_given_up_sooner_than_changes(api: KubernetesApi, batch: PatientApi, clock: Clock) -> None:
    with api.fault(500):
        with pytest.raises(ApiException):
            batch.list_namespaced_job("cv")
        asked, clock.now = clock.now, 0.0
        with pytest.raises(ApiException):
            batch.delete_namespaced_job("a", "cv")
    assert 5.0 < asked <= 35.0
    assert 200.0 < clock.now <= 310.0


def test_the_server_says_how_long(api: KubernetesApi, batch: PatientApi, clock: Clock) -> None:
    with api.fault(429, times=1, retry_after_s=7):
        batch.list_namespaced_job("cv")
    assert 7.0 <= clock.now <= 10.5


def test_a_server_that_is_gone(api: KubernetesApi, batch: PatientApi, clock: Clock) -> None:
    api._server.shutdown()
    api._server.server_close()
    with pytest.raises(HTTPError, match="refused"):
        batch.list_namespaced_job("cv")
    assert clock.now > 5.0
