"""Dagster's instance on the stub cluster: docker/k8s/values.yaml with the stub's addresses and short times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cv_platform_tests.conftest import REPOSITORY
from cv_platform_tests.stubs.kubernetes_api import KubernetesApi

VALUES = REPOSITORY / "docker" / "k8s" / "values.yaml"


def values() -> dict[str, Any]:
    """The chart's values as they are deployed."""
    loaded: dict[str, Any] = yaml.safe_load(VALUES.read_text())
    return loaded


def instance_config(api: KubernetesApi, home: Path, *, image: str) -> dict[str, Any]:
    """dagster.yaml of a deployment on the stub.

    The launcher's class and run config, monitoring and pools are the deployed ones; intervals are seconds.
    """
    deployed = values()
    launcher = deployed["runLauncher"]["config"]["customRunLauncher"]
    monitoring = deployed["dagsterDaemon"]["runMonitoring"]
    return {
        "storage": {"postgres": {"postgres_url": {"env": "CV_PLATFORM_DAGSTER_POSTGRES_URL"}}},
        "run_launcher": {
            "module": launcher["module"],
            "class": launcher["class"],
            "config": {
                **launcher["config"],
                "job_image": image,
                "job_namespace": api.cluster.namespace,
                "instance_config_map": "dagster-instance",
                "dagster_home": str(home),
                "load_incluster_config": False,
                "kubeconfig_file": str(api.kubeconfig),
            },
        },
        "run_coordinator": {
            "module": "dagster",
            "class": "QueuedRunCoordinator",
            "config": {"dequeue_interval_seconds": 1},
        },
        "concurrency": {
            "runs": {"max_concurrent_runs": 3},
            "pools": {"default_limit": 2, "granularity": deployed["concurrency"]["pools"]["granularity"]},
        },
        "run_monitoring": {
            "enabled": monitoring["enabled"],
            "start_timeout_seconds": 240,
            "cancel_timeout_seconds": 60,
            "max_resume_run_attempts": monitoring["maxResumeRunAttempts"],
            "poll_interval_seconds": 3,
            "free_slots_after_run_end_seconds": 3,
        },
        "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"},
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
    }
