"""What each asset's step may use: the one table of pools and Kubernetes resources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StepResources:
    """Resources of one step.

    Attributes:
        cpu: cores asked for.
        memory_mib: MiB asked for, and the limit.
        ephemeral_storage_mib: MiB of local disk.
        gpus: NVIDIA GPUs; more than 0 sends the step to a GPU node.
        pool: the concurrency pool whose slots it takes.
        deadline_s: seconds after which Kubernetes ends it.
    """

    cpu: float
    memory_mib: int
    ephemeral_storage_mib: int
    gpus: int = 0
    pool: str | None = None
    deadline_s: int = 6 * 3600


STEPS: dict[str, StepResources] = {
    "raw_clips": StepResources(cpu=0.5, memory_mib=1024, ephemeral_storage_mib=8192, pool="decode"),
    "decoded_frames": StepResources(cpu=2, memory_mib=4096, ephemeral_storage_mib=16384, pool="decode"),
    "detections": StepResources(cpu=4, memory_mib=8192, ephemeral_storage_mib=4096, gpus=1, pool="gpu"),
    "tracks": StepResources(cpu=1, memory_mib=2048, ephemeral_storage_mib=1024, pool="tracks"),
    "blurred_clips": StepResources(cpu=4, memory_mib=8192, ephemeral_storage_mib=16384, gpus=1, pool="gpu"),
}


def pool_of(asset: str) -> str | None:
    """The pool whose slots an asset's step takes."""
    return STEPS[asset].pool


def op_tags_of(asset: str) -> dict[str, Any]:
    """The asset's `op_tags`: Kubernetes reads them, a laptop does not."""
    step = STEPS[asset]
    requests = {
        "cpu": f"{step.cpu:g}",
        "memory": f"{step.memory_mib}Mi",
        "ephemeral-storage": f"{step.ephemeral_storage_mib}Mi",
    }
    limits = {"memory": requests["memory"], "ephemeral-storage": requests["ephemeral-storage"]}
    pod: dict[str, Any] = {}
    if step.gpus:
        limits["nvidia.com/gpu"] = str(step.gpus)
        pod = {
            "node_selector": {"nvidia.com/gpu.present": "true"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        }
    config: dict[str, Any] = {
        "container_config": {"resources": {"requests": requests, "limits": limits}},
        "job_spec_config": {"active_deadline_seconds": step.deadline_s, "backoff_limit": 0},
    }
    if pod:
        config["pod_spec_config"] = pod
    return {"dagster-k8s/config": config}
