"""Dagster's launcher and executor for Kubernetes, with what they lack: patience, and a name for what ended a pod.

Both are dagster-k8s's own. The launcher here does not count a run as dead because the API did not answer; the executor
says in the run's failure whether a step was killed for memory, ran past its deadline or lost its node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import dagster as dg
from dagster import DagsterRun
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.events import DagsterEvent
from dagster._core.executor.base import Executor
from dagster._core.executor.init import InitExecutorContext
from dagster._core.executor.step_delegating import (
    CheckStepHealthResult,
    StepDelegatingExecutor,
    StepHandler,
    StepHandlerContext,
)
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster_k8s import K8sRunLauncher, k8s_job_executor
from dagster_k8s.client import DagsterKubernetesClient
from dagster_k8s.executor import K8sStepHandler

from cv_platform.resources.patience import patient_apis
from cv_platform.resources.pools import make_pools

_NOT_FOUND: Final = "could not be found"
STEP_ACCOUNT: Final = "cv-platform"
"""The service account of a step's pod (docker/k8s/access.yaml): without rights, and its token is not mounted."""


class KubernetesRunLauncher(K8sRunLauncher):
    """A run is a Kubernetes job; an API that cannot be asked says nothing about it."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._api_client = _patient_client()

    def launch_run(self, context: LaunchRunContext) -> None:
        """Make the run's job, after the pools that its steps take slots of."""
        make_pools(self._instance, context.dagster_run)
        super().launch_run(context)

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's pod is alive.

        Dagster's own answers UNKNOWN where the API server does, and run monitoring takes that for dead: every run
        under way would fail in a minute in which the control plane restarts, its pods working on.
        """
        found: CheckRunHealthResult = super().check_run_worker_health(run)
        if found.status is WorkerStatus.UNKNOWN and _NOT_FOUND not in (found.msg or ""):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the Kubernetes API does not answer: ask again")
        return found


class ExplainedSteps(StepHandler):
    """dagster-k8s's step handler, and why a pod ended."""

    def __init__(self, steps: K8sStepHandler) -> None:
        super().__init__()
        self._steps = steps
        self._client = _patient_client()
        steps._api_client = self._client

    @property
    def name(self) -> str:
        """As it stands in the run's log."""
        return str(self._steps.name)

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        """See `StepHandler.launch_step`."""
        yield from self._steps.launch_step(step_handler_context)

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        """Whether the step's pod is alive; where it is not, what ended it."""
        found = self._steps.check_step_health(step_handler_context)
        if found.is_healthy:
            return found
        job = self._steps._get_k8s_step_job_name(step_handler_context)
        namespace = self._steps._get_container_context(step_handler_context).namespace
        (step,) = step_handler_context.execute_step_args.step_keys_to_execute or ["?"]
        cause = _cause(self._client, job, namespace, step)
        return CheckStepHealthResult.unhealthy(" ".join(filter(None, [found.unhealthy_reason, cause])))

    def terminate_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        """See `StepHandler.terminate_step`."""
        yield from self._steps.terminate_step(step_handler_context)


# `Any`: dagster's decorator takes such a schema, and its annotation does not say so.
_SCHEMA: Any = k8s_job_executor.config_schema


@dg.executor(name="k8s", config_schema=_SCHEMA, requirements=multiple_process_executor_requirements())
def kubernetes_executor(init_context: InitExecutorContext) -> Executor:
    """dagster-k8s's `k8s_job_executor`: each step in a pod of its own.

    A step's job belongs to its run's pod and is collected with it; a step's failure says what ended its pod. A step
    decodes what strangers sent: it gets no way to the API, which dagster-k8s would give it as it does its run.
    """
    config = {
        "service_account_name": STEP_ACCOUNT,
        "step_k8s_config": {"pod_spec_config": {"automount_service_account_token": False}},
        **init_context.executor_config,
        "enable_owner_references": True,
    }
    make: Any = k8s_job_executor.executor_creation_fn
    made = make(init_context._replace(executor_config=config))
    assert isinstance(made, StepDelegatingExecutor)
    assert isinstance(made._step_handler, K8sStepHandler)
    made._step_handler = ExplainedSteps(made._step_handler)
    return made


def _patient_client() -> Any:
    batch, core = patient_apis()
    make: Any = DagsterKubernetesClient.production_client
    return make(batch_api_override=batch, core_api_override=core)


def _cause(client: Any, job: str, namespace: str | None, step: str) -> str | None:
    """What ended a step's pod, in one sentence; None where Kubernetes does not say."""
    found = client.batch_api.list_namespaced_job(namespace=namespace, field_selector=f"metadata.name={job}").items
    for condition in (found[0].status.conditions or []) if found else []:
        if condition.type == "Failed" and condition.reason == "DeadlineExceeded":
            return f"It ran past its deadline of {found[0].spec.active_deadline_seconds} s."
    return next(filter(None, (_cause_of(pod, step) for pod in client.get_pods_in_job(job, namespace))), None)


def _cause_of(pod: Any, step: str) -> str | None:
    if pod.status.reason:
        return f"Its pod ended with {pod.status.reason}: {pod.status.message or 'no more is known'}."
    limits = {container.name: container.resources.limits or {} for container in pod.spec.containers}
    statuses: Sequence[Any] = pod.status.container_statuses or []
    for status in statuses:
        ended = status.state.terminated if status.state else None
        if ended is None or ended.exit_code == 0:
            continue
        if ended.reason == "OOMKilled":
            return (
                f"It was killed for memory (OOMKilled): the limit of {step} is"
                f" {limits[status.name].get('memory', 'not set')}; raise it in defs/op_tags.py, or lower the limits of"
                " what a clip may be."
            )
        killed = " (SIGKILL, not for memory)" if ended.exit_code == 137 else ""
        return f"Its pod ended with exit code {ended.exit_code}{killed}."
    return None
