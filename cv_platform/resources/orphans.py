"""Kubernetes jobs and pods that outlive the run they belong to.

A run that is cancelled, or whose own pod is killed, may leave its steps working (dagster#33923), and one that took too
long to start leaves a pod that still waits for a node (dagster#16535). Each holds what it asked for: a GPU, above all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg

from cv_platform import faults

RUN_LABEL: Final = "dagster/run-id"
_PAGE: Final = 500


@dataclass(frozen=True)
class Reaped:
    """How many were ended."""

    jobs: int = 0
    pods: int = 0


def reap_orphans(
    instance: dg.DagsterInstance, batch: Any, core: Any, *, namespace: str, grace_s: float = 120.0
) -> Reaped:
    """End jobs and pods that carry the label of a run that ended at least `grace_s` seconds ago.

    What has ended by itself is left to its TTL, and so is what belongs to a run that this instance does not know:
    another deployment may share the namespace. Safe to repeat, and to run twice at once.
    """
    jobs = [job for job in _listed(batch.list_namespaced_job, namespace) if not _has_ended(job)]
    pods = [pod for pod in _listed(core.list_namespaced_pod, namespace) if _lives(pod)]
    ended = _ended_runs(instance, {_run_of(item) for item in [*jobs, *pods]}, grace_s)
    reaped_jobs = 0
    for job in jobs:
        if _run_of(job) in ended:
            faults.point("orphans.before_job")
            name = job.metadata.name
            reaped_jobs += _gone(batch.delete_namespaced_job, name, namespace, propagation_policy="Background")
    reaped_pods = 0
    for pod in pods:
        if _run_of(pod) in ended:
            faults.point("orphans.before_pod")
            reaped_pods += _gone(core.delete_namespaced_pod, pod.metadata.name, namespace)
    return Reaped(reaped_jobs, reaped_pods)


def _listed(method: Callable[..., Any], namespace: str) -> Iterator[Any]:
    token = None
    while True:
        page = method(namespace=namespace, label_selector=RUN_LABEL, limit=_PAGE, _continue=token)
        yield from page.items
        token = page.metadata._continue
        if not token:
            return


def _run_of(item: Any) -> str:
    return str(item.metadata.labels[RUN_LABEL])


def _has_ended(job: Any) -> bool:
    conditions = (job.status.conditions if job.status else None) or []
    return any(condition.type in ("Complete", "Failed") and condition.status == "True" for condition in conditions)


def _lives(pod: Any) -> bool:
    return pod.status.phase in ("Pending", "Running") and pod.metadata.deletion_timestamp is None


def _ended_runs(instance: dg.DagsterInstance, run_ids: set[str], grace_s: float) -> set[str]:
    ended: set[str] = set()
    ordered = sorted(run_ids)
    for start in range(0, len(ordered), _PAGE):
        records = instance.get_run_records(dg.RunsFilter(run_ids=ordered[start : start + _PAGE]))
        for record in records:
            since = record.end_time or record.update_timestamp.timestamp()
            if record.dagster_run.is_finished and since <= time.time() - grace_s:
                ended.add(record.dagster_run.run_id)
    return ended


def _gone(delete: Callable[..., Any], name: str, namespace: str, **options: Any) -> int:
    from kubernetes.client.rest import ApiException

    try:
        delete(name=name, namespace=namespace, **options)
    except ApiException as error:
        if error.status != 404:  # another was faster
            raise
        return 0
    return 1
