"""What each asset's step may use: the one table of pools and Kubernetes resources."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

RESTRICTED_SECRET: Final = "cv-platform-restricted"
"""The Kubernetes secret with the restricted store's credentials: only the steps that read or write it are given it."""

SIGNING_SECRET: Final = "cv-platform-signing"
"""The secret with the key (key.pem) that signs certificates of erasure."""
_SIGNING_FOLDER: Final = "/etc/cv-platform/signing"

RESTRICTED_LABEL: Final = "cv-platform/restricted"
"""Label of pods that may reach the restricted store; docker/k8s/network-policies.yaml goes by it."""


@dataclass(frozen=True)
class StepResources:
    """Resources of one step.

    Attributes:
        cpu: cores asked for.
        memory_mib: MiB asked for, and the limit.
        ephemeral_storage_mib: MiB of local disk.
        gpus: NVIDIA GPUs; more than 0 sends the step to a GPU node.
        pool: the concurrency pool whose slots it takes.
        priority: which of the deployment's priority classes it has.
        restricted: whether it reads or writes what shows faces.
        signs: whether it signs certificates of erasure.
        deadline_s: seconds after which Kubernetes ends it.
        grace_s: seconds between SIGTERM and SIGKILL; the clip in hand is given back within them.
    """

    cpu: float
    memory_mib: int
    ephemeral_storage_mib: int
    gpus: int = 0
    pool: str | None = None
    priority: Literal["batch", "gpu"] = "batch"
    restricted: bool = False
    signs: bool = False
    deadline_s: int = 6 * 3600
    grace_s: int = 60


STEPS: dict[str, StepResources] = {
    "raw_clips": StepResources(cpu=0.5, memory_mib=1024, ephemeral_storage_mib=8192, pool="decode", restricted=True),
    "decoded_frames": StepResources(
        cpu=2, memory_mib=4096, ephemeral_storage_mib=16384, pool="decode", restricted=True
    ),
    "detections": StepResources(
        cpu=4, memory_mib=8192, ephemeral_storage_mib=4096, gpus=1, pool="gpu", priority="gpu", restricted=True
    ),
    "tracks": StepResources(cpu=1, memory_mib=2048, ephemeral_storage_mib=1024, pool="tracks"),
    "blurred_clips": StepResources(
        cpu=4, memory_mib=8192, ephemeral_storage_mib=16384, gpus=1, pool="gpu", priority="gpu", restricted=True
    ),
}


def pool_of(asset: str) -> str | None:
    """The pool whose slots an asset's step takes."""
    return STEPS[asset].pool


# Housekeeping: one op a job, which lists and deletes. Without the label it has no way into the restricted store.
OPERATION: Final = StepResources(cpu=0.25, memory_mib=1024, ephemeral_storage_mib=2048)
RESTRICTED_OPERATION: Final = replace(OPERATION, restricted=True)
ERASURE: Final = replace(RESTRICTED_OPERATION, memory_mib=2048, signs=True)


def op_tags_of(asset: str) -> dict[str, Any]:
    """The asset's `op_tags`: Kubernetes reads them, a laptop does not."""
    return tags_of(STEPS[asset])


def tags_of(step: StepResources) -> dict[str, Any]:
    """Tags of an op with these resources."""
    requests = {
        "cpu": f"{step.cpu:g}",
        "memory": f"{step.memory_mib}Mi",
        "ephemeral-storage": f"{step.ephemeral_storage_mib}Mi",
    }
    limits = {"memory": requests["memory"], "ephemeral-storage": requests["ephemeral-storage"]}
    container: dict[str, Any] = {"resources": {"requests": requests, "limits": limits}}
    pod: dict[str, Any] = {
        "priority_class_name": f"cv-platform-{step.priority}",
        "termination_grace_period_seconds": step.grace_s,
    }
    if step.gpus:
        limits["nvidia.com/gpu"] = str(step.gpus)
        pod |= {
            "node_selector": {"nvidia.com/gpu.present": "true"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        }
    config: dict[str, Any] = {
        "container_config": container,
        "pod_spec_config": pod,
        # No second pod by Kubernetes: the step's RetryPolicy and the ledger decide what is tried again.
        "job_spec_config": {"active_deadline_seconds": step.deadline_s, "backoff_limit": 0},
    }
    if step.restricted:
        container["env_from"] = [{"secret_ref": {"name": RESTRICTED_SECRET}}]
        config["pod_template_spec_metadata"] = {"labels": {RESTRICTED_LABEL: "true"}}
    if step.signs:
        container["env"] = [{"name": "CV_PLATFORM_SIGNING_KEY_FILE", "value": f"{_SIGNING_FOLDER}/key.pem"}]
        container["volume_mounts"] = [{"name": "signing", "mount_path": _SIGNING_FOLDER, "read_only": True}]
        pod["volumes"] = [{"name": "signing", "secret": {"secret_name": SIGNING_SECRET, "default_mode": 0o440}}]
    return {"dagster-k8s/config": config}
