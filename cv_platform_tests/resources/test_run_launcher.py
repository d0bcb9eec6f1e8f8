"""A run whose code server is gone is seen, and no other is taken for one."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

from cv_platform.resources import run_launcher
from cv_platform.resources.run_launcher import LocalRunLauncher
from cv_platform_tests.conftest import REPOSITORY


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def _status(instance: dg.DagsterInstance, tags: dict[str, str]) -> WorkerStatus:
    run = instance.add_run(dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus.STARTED, tags=tags))
    launcher = LocalRunLauncher()
    launcher.register_instance(instance)
    assert launcher.supports_check_run_worker_health
    return launcher.check_run_worker_health(run).status


def test_a_code_server_that_is_gone(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    address = {"host": "localhost", "socket": str(tmp_path / "gone")}
    assert _status(instance, {GRPC_INFO_TAG: json.dumps(address)}) is WorkerStatus.NOT_FOUND


def test_a_code_server_that_is_slow(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_launcher, "_TIMEOUT_S", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = {"host": "127.0.0.1", "port": silent.getsockname()[1]}
        assert _status(instance, {GRPC_INFO_TAG: json.dumps(address)}) is WorkerStatus.RUNNING


def test_a_run_that_no_code_server_started(instance: dg.DagsterInstance) -> None:
    assert _status(instance, {}) is WorkerStatus.RUNNING


def test_the_clones_dagster_yaml_uses_it() -> None:
    configured = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
    assert configured["run_launcher"] == {"module": run_launcher.__name__, "class": LocalRunLauncher.__name__}
    assert configured["run_monitoring"]["enabled"] is True
