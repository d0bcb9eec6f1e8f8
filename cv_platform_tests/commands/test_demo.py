"""The demo from the command line: the daemon does the work, Dagster remembers it, nothing personal is left there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cv_platform.demo.footage import Scene, write_clip
from cv_platform.embedded.stack import Stack
from cv_platform.settings import Settings
from cv_platform_tests.commands.test_cli import cv_platform
from cv_platform_tests.conftest import REPOSITORY, SHARED_DATA

TIMEOUT_S = 500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two short clips of one's own in a state folder whose processes end with the tests."""
    folder = tmp_path_factory.mktemp("demo")
    for name, start_s in (("a.mp4", 0.0), ("b.mp4", 50.0)):
        write_clip(folder / name, Scene(seed=3), start_s=start_s, duration_s=1.0)
        os.utime(folder / name, (time.time() - 90_000, time.time() - 90_000))
    yield folder
    Stack(Settings(state_dir=folder / "state")).stop()


@pytest.fixture(scope="module")
def first(folder: Path) -> dict[str, Any]:
    """The outcome of a demo of one's own clips."""
    return run_demo(folder, "a.mp4", "b.mp4")


def run_demo(folder: Path, *clips: str) -> dict[str, Any]:
    variables = {**os.environ, "CV_PLATFORM_STATE_DIR": str(folder / "state")}
    if SHARED_DATA.is_dir():
        variables["CV_PLATFORM_MODEL_DIR"] = str(SHARED_DATA / "models")
    command = [str(Path(sys.executable).with_name("cv-platform")), "demo", "--json", "--timeout", str(TIMEOUT_S)]
    command += [str(folder / clip) for clip in clips]
    result = subprocess.run(
        command, env=variables, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_S + 60
    )
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    assert result.stdout, result.stderr[-3000:]
    document: dict[str, Any] = json.loads(result.stdout)
    assert document == json.loads((folder / "state" / "demo" / "summary.json").read_text())
    return document


def dagster(folder: Path) -> psycopg.Connection[tuple[Any, ...]]:
    url = Stack(Settings(state_dir=folder / "state")).settings.dagster_postgres_url
    return psycopg.connect(str(url).replace("+psycopg2", ""))


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 100)
class TestOwnClips:
    def test_they_are_published_and_the_ledger_balances(self, first: dict[str, Any], folder: Path) -> None:
        assert first["ok"] is True
        assert first["problems"] == []
        assert first["received"] == sum(first["states"].values()) == first["states"]["published"] == 2
        assert first["counts"]["frames"] == 10
        blurred = folder / "state" / "store" / "blurred"
        assert len([path for path in blurred.rglob("*.mp4") if path.parent.parent == blurred]) == 2

    def test_runs_and_ticks_were_the_daemons(self, first: dict[str, Any], folder: Path) -> None:
        assert first["run_ids"]
        with dagster(folder) as connection:
            runs = connection.execute(
                "SELECT r.run_id, t.value FROM runs r LEFT JOIN run_tags t ON t.run_id = r.run_id"
                " AND t.key = 'dagster/sensor_name'"
                # Schedules keep house beside it, at their own times.
                " WHERE NOT EXISTS (SELECT 1 FROM run_tags s WHERE s.run_id = r.run_id"
                " AND s.key = 'dagster/schedule_name')"
            ).fetchall()
            ticks = {str(row[0]) for row in connection.execute("SELECT id FROM job_ticks WHERE type = 'SENSOR'")}
        assert {run for run, _ in runs} == set(first["run_ids"])
        assert {sensor for _, sensor in runs} == {"pending_work", "dirty_days"}
        assert {str(tick) for tick in first["tick_ids"]} <= ticks
        asked = {run for tick in first["dagster"]["ticks"] for run in tick["run_ids"]}
        assert asked == set(first["run_ids"])

    def test_nothing_personal_is_in_dagsters_storage(self, first: dict[str, Any], folder: Path) -> None:
        """No key of a raw clip, no camera, no picture of footage (plots are PNG; footage would be JPEG)."""
        telling = re.compile(r"raw/own/|own-[0-9a-f]{8}|/9j/4|data:image/jpe?g")
        found = []
        with dagster(folder) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            for (table,) in tables:
                for row in connection.execute(f'SELECT t::text FROM "{table}" t').fetchall():
                    found += [(table, match.group()) for match in telling.finditer(row[0])]
        assert found == []

    def test_a_second_run_changes_nothing(self, first: dict[str, Any], folder: Path) -> None:
        again = run_demo(folder, "a.mp4", "b.mp4")
        assert again["uploaded"] == 0
        assert again["run_ids"] == first["run_ids"]
        for part in ("states", "counts", "marts", "stage_seconds", "quarantine"):
            assert again[part] == first[part]


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    result = cv_platform("demo", str(tmp_path / "none.mp4"), state_dir=tmp_path / "state")
    assert result.returncode == 2
    assert "does not exist" in result.stderr
    assert not (tmp_path / "state").exists()
