"""What ended a step's pod is said in a sentence; the executor is the one that the setting names."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
from kubernetes.client import (
    V1Container,
    V1ContainerState,
    V1ContainerStateTerminated,
    V1ContainerStatus,
    V1Job,
    V1JobCondition,
    V1JobList,
    V1JobSpec,
    V1JobStatus,
    V1Pod,
    V1PodSpec,
    V1PodStatus,
    V1PodTemplateSpec,
    V1ResourceRequirements,
)

from cv_platform.definitions import build_definitions
from cv_platform.resources import kubernetes
from cv_platform.settings import Settings


def _pod(exit_code: int | None, reason: str = "Error", **status: Any) -> V1Pod:
    ended = None if exit_code is None else V1ContainerStateTerminated(exit_code=exit_code, reason=reason)
    container = V1ContainerStatus(
        name="dagster", image="i", image_id="", ready=False, restart_count=0, state=V1ContainerState(terminated=ended)
    )
    limits = V1ResourceRequirements(limits={"memory": "8192Mi"})
    return V1Pod(
        spec=V1PodSpec(containers=[V1Container(name="dagster", resources=limits)]),
        status=V1PodStatus(container_statuses=[container], **status),
    )


class Answers:
    """A client that has been asked already."""

    def __init__(self, job: V1JobStatus | None, *pods: V1Pod) -> None:
        template = V1PodTemplateSpec()
        spec = V1JobSpec(template=template, active_deadline_seconds=60)
        self._jobs = [] if job is None else [V1Job(spec=spec, status=job)]
        self._pods = list(pods)
        self.batch_api = self

    def list_namespaced_job(self, **_: Any) -> V1JobList:
        return V1JobList(items=self._jobs)

    def get_pods_in_job(self, job: str, namespace: str) -> list[V1Pod]:
        return self._pods


DEADLINE = V1JobStatus(conditions=[V1JobCondition(type="Failed", status="True", reason="DeadlineExceeded")])


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (
            Answers(V1JobStatus(), _pod(137, "OOMKilled")),
            "killed for memory (OOMKilled): the limit of tracks is 8192Mi",
        ),
        (Answers(V1JobStatus(), _pod(137)), "exit code 137 (SIGKILL, not for memory)"),
        (Answers(V1JobStatus(), _pod(1)), "exit code 1."),
        (Answers(DEADLINE, _pod(143)), "ran past its deadline of 60 s"),
        (Answers(None), None),
        (Answers(V1JobStatus(), _pod(0), _pod(None)), None),
    ],
)
def test_what_ended_a_pod(answers: Answers, said: str | None) -> None:
    cause = kubernetes._cause(answers, "job", "cv", "tracks")
    assert (cause is None) if said is None else (said in str(cause))


def test_an_eviction_is_named() -> None:
    pod = _pod(137)
    pod.status.reason, pod.status.message = "Evicted", "The node was low on resource: ephemeral-storage"
    cause = kubernetes._cause(Answers(V1JobStatus(), pod), "job", "cv", "tracks")
    assert cause == "Its pod ended with Evicted: The node was low on resource: ephemeral-storage."


@pytest.mark.parametrize(("setting", "name"), [("in_process", "in_process"), ("k8s", "k8s")])
def test_one_setting_decides_where_steps_run(setting: Any, name: str) -> None:
    definitions = build_definitions(Settings(executor=setting))
    assert definitions.resolve_job_def("process_clips").executor_def.name == name
    # Housekeeping is a pod less: its one op runs in the run's own.
    for job in ("reap_orphans", "prune_event_log"):
        if job in {found.name for found in definitions.resolve_all_job_defs()}:
            assert definitions.resolve_job_def(job).executor_def.name == "in_process"
    dg.Definitions.validate_loadable(definitions)
