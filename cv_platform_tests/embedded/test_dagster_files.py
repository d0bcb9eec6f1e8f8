"""The clone's dagster.yaml and workspace.yaml work as they stand, on any PostgreSQL and on the embedded one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cv_platform.embedded.processes import ProcessRecord, descendants, record_of, spawn, stop
from cv_platform.embedded.stack import location_problem
from cv_platform_tests.conftest import REPOSITORY

BIN = Path(sys.executable).parent
ASSETS = {"raw_clips", "decoded_frames", "detections", "tracks", "blurred_clips"}


def graphql(address: str, query: str) -> Any:
    """Ask a Dagster webserver."""
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    assert "errors" not in answer, answer
    return answer["data"]


def wait_for(what: str, ready: Callable[[], bool], log: Path, timeout_s: float = 120.0) -> None:
    """Wait until `ready`, or say what the log says."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"{what} not after {timeout_s} s:\n{log.read_text()[-3000:]}"
        time.sleep(0.25)


def asset_names(address: str) -> set[str]:
    """The assets in the graph, by the last part of their key."""
    nodes = graphql(address, "{ assetNodes { assetKey { path } } }")["assetNodes"]
    return {node["assetKey"]["path"][-1] for node in nodes}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The root's two files in a folder of their own, as DAGSTER_HOME and current folder."""
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


@pytest.fixture
def variables(clone: Path, database_url: str, empty_database_url: str, redis_url: str) -> dict[str, str]:
    """All that a process is told: where things are. Dagster's database has no tables yet."""
    return {
        "PATH": os.environ["PATH"],
        "DAGSTER_HOME": str(clone),
        "CV_PLATFORM_STATE_DIR": str(clone / "state"),
        "CV_PLATFORM_POSTGRES_URL": database_url,
        "CV_PLATFORM_DAGSTER_POSTGRES_URL": empty_database_url.replace("postgresql://", "postgresql+psycopg2://"),
        "CV_PLATFORM_REDIS_URL": redis_url,
        "CV_PLATFORM_SENSOR_INTERVAL_S": "5",
    }


@pytest.fixture
def start(clone: Path, variables: dict[str, str]) -> Iterator[Callable[..., ProcessRecord]]:
    """Start a program in the clone; it ends with the test."""
    records = []

    def started(name: str, *arguments: str) -> ProcessRecord:
        child = spawn([str(BIN / name), *arguments], log=clone / f"{name}.log", environment=variables, cwd=clone)
        records.append(record_of(name, child.pid))
        return records[-1]

    yield started
    for record in records:
        stop(record, grace_s=5.0)


@pytest.mark.slow
def test_webserver_and_daemon_start_with_nothing_but_variables(
    clone: Path, variables: dict[str, str], start: Callable[..., ProcessRecord]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    webserver = start("dagster-webserver", "-w", "workspace.yaml", "-p", str(port))
    daemon = start("dagster-daemon", "run")
    log = clone / "dagster-webserver.log"
    wait_for("the code location", lambda: location_problem(address) is None, log)
    assert asset_names(address) >= ASSETS

    instance = graphql(
        address,
        "{ instance { runLauncher { name } runQueuingSupported daemonHealth { allDaemonStatuses { daemonType healthy"
        " required } } concurrencyLimits { concurrencyKey } info } }",
    )["instance"]
    assert instance["runQueuingSupported"] is True
    assert "PostgresRunStorage" in instance["info"] or "DagsterPostgresStorage" in instance["info"]

    def all_healthy() -> bool:
        query = "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy required } } } }"
        statuses = graphql(address, query)["instance"]["daemonHealth"]["allDaemonStatuses"]
        return bool(statuses) and all(status["healthy"] for status in statuses if status["required"])

    wait_for("a healthy daemon", all_healthy, clone / "dagster-daemon.log")

    def ticking_sensors() -> int:
        url = variables["CV_PLATFORM_DAGSTER_POSTGRES_URL"].replace("+psycopg2", "")
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT count(DISTINCT selector_id) FROM job_ticks WHERE type = 'SENSOR'"
            ).fetchone()
        return row[0] if row else 0

    # Sensors run by default: nobody has to switch them on.
    wait_for("ticks of the sensors", lambda: ticking_sensors() >= 3, clone / "dagster-daemon.log")
    for record in (webserver, daemon):
        family = [record, *descendants(record)]
        assert stop(record, grace_s=15.0)
        assert not any(member.alive for member in family)


@pytest.mark.slow
def test_up_runs_once_and_down_ends_everything(tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        environment = {**os.environ, "CV_PLATFORM_STATE_DIR": str(tmp_path / "state"), "CV_PLATFORM_UI_PORT": "3917"}
        command = [str(BIN / "cv-platform"), *arguments, "--json"]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    try:
        first = run("up")
        assert asset_names(first["ui"]) >= ASSETS
        assert sorted(first["processes"]) == ["daemon", "postgres", "redis", "webserver"]
        assert run("up") == first, "a second `up` starts nothing"
        records = [record_of(name, pid) for name, pid in first["processes"].items()]
        family = [member for record in records for member in (record, *descendants(record))]
        assert len(family) > len(records), "Dagster runs code servers below its processes"
    finally:
        stopped = run("down")["stopped"]
    assert stopped == first["processes"]
    assert [member for member in family if member.alive] == []
    assert run("down") == {"stopped": {}}
