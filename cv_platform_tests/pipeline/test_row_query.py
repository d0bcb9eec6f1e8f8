"""One query over both tiers: right, bounded, and able to read nothing but what it was given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cv_platform.pipeline.cold_rows import bring_back
from cv_platform.pipeline.row_query import query_rows
from cv_platform.pipeline.warm_to_cold import warm_to_cold
from cv_platform.storage.cold.bounds import Bounds, QueryRefused
from cv_platform_tests.conftest import S3Server
from cv_platform_tests.pipeline.warm_rows import DAY, LATER, fill, union
from cv_platform_tests.pipeline.world import World, with_settings

COLD_DAY = f"timestamp >= '{DAY}' AND timestamp < '{DAY + timedelta(days=1)}'"


def ask(world: World, sql: str, **options: Any) -> tuple[list[dict[str, Any]], Any]:
    with query_rows(world.platform, sql, **options) as answer:
        return answer.batches.read_all().to_pylist(), answer


@pytest.fixture
def mixed(world: World) -> World:
    """Three cold days and a warm one, two cameras."""
    days = [DAY, DAY + timedelta(days=1), DAY + timedelta(days=2), LATER.date() - timedelta(days=1)]
    for day in days:
        fill(world, day)
    assert warm_to_cold(world.platform, LATER).cold == days[:3]
    return world


def test_only_what_can_match_is_opened(mixed: World) -> None:
    """Every other file is destroyed, and nobody minds."""
    sql = f"SELECT count(*) AS n, min(timestamp) AS first FROM detections WHERE camera_id = 'cam1' AND {COLD_DAY}"
    ((answer,), before) = ask(mixed, sql)
    assert answer["n"] == 150
    assert {kind: len(files) for kind, files in before.files.items()} == {"detections": 1}
    assert before.warm_rows == 0
    assert mixed.platform.cold.folder is not None
    for info in mixed.platform.cold.list("warehouse"):
        if info.key != before.files["detections"][0].object_key:
            (mixed.platform.cold.folder / info.key).write_bytes(b"no Parquet")
    assert ask(mixed, sql)[0] == [answer]
    within = Bounds(frozenset({"cam1"}), end=datetime(2026, 3, 2, tzinfo=UTC))
    assert ask(mixed, "SELECT count(*) AS n FROM detections", within=within)[0] == [{"n": 150}]
    with pytest.raises(QueryRefused):
        ask(mixed, "SELECT count(*) FROM detections")


def test_both_tiers_are_one_table(mixed: World) -> None:
    rows, answer = ask(
        mixed,
        "SELECT d.camera_id, count(*) AS n, count(DISTINCT d.clip_s3_key) AS clips, count(DISTINCT d.timestamp::date)"
        " AS days FROM detections d GROUP BY ALL ORDER BY 1",
    )
    assert rows == [{"camera_id": f"cam{n}", "n": 600, "clips": 3, "days": 4} for n in (1, 2)]
    assert (len(answer.files["detections"]), answer.warm_rows) == (6, 300)
    rows, _ = ask(
        mixed,
        "SELECT count(*) AS n FROM detections d JOIN tracks t USING (camera_id, clip_s3_key, track_id) WHERE"
        " d.timestamp::date = t.track_day",
    )
    assert rows[0]["n"] > 0
    rows, _ = ask(mixed, "SELECT attributes ->> 'track_day' AS day, count(*) AS n FROM events GROUP BY 1 ORDER BY 1")
    assert [row["n"] for row in rows] == [12] * 4
    # Boundaries of a day belong to one side only.
    parts = [
        ask(mixed, f"SELECT count(*) AS n FROM detections WHERE timestamp::date = '{DAY + timedelta(n)}'")
        for n in range(3)
    ]
    assert [rows[0]["n"] for rows, _ in parts] == [300] * 3
    assert [len(answer.files["detections"]) for _, answer in parts] == [2] * 3


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/hostname', columns = {'a': 'VARCHAR'})",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM '/etc/hostname'",
        "SELECT * FROM no_such_table",
        "SELECT nothing FROM detections",
        "INSERT INTO warm_detections SELECT * FROM detections",
        "SELECT 1; DROP VIEW detections",
        "SET enable_external_access = true",
    ],
)
def test_it_reads_rows_and_nothing_else(world: World, sql: str) -> None:
    fill(world)
    warm_to_cold(world.platform, LATER)
    with pytest.raises(QueryRefused):
        ask(world, sql)


def test_an_s3_store(s3_server: S3Server, world: World) -> None:
    store = with_settings(
        world.settings,
        object_store_url=f"s3://{s3_server.bucket}/rows",
        restricted_store_url=f"s3://{s3_server.restricted_bucket}",
        s3_endpoint_url=s3_server.endpoint_url,
    )
    world = World.at(store)
    fill(world)
    before = union(world)
    assert warm_to_cold(world.platform, LATER).cold == [DAY]
    assert union(world) == before
    assert bring_back(world.platform, "cam1", [DAY]).rows == 162
    assert union(world) == before
    assert list(store.scratch.iterdir()) == []  # copies of files are gone


@pytest.mark.slow
def test_the_command(mixed: World, tmp_path: Path) -> None:
    variables = {
        "CV_PLATFORM_STATE_DIR": str(mixed.settings.state_dir),
        "CV_PLATFORM_POSTGRES_URL": str(mixed.settings.postgres_url),
        "CV_PLATFORM_DAGSTER_POSTGRES_URL": str(mixed.settings.postgres_url),
        "CV_PLATFORM_REDIS_URL": str(mixed.settings.redis_url),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("cv-platform")), "query", *arguments]
        return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=150)

    sql = f"SELECT id, class_id, bbox, track_id FROM detections WHERE {COLD_DAY} ORDER BY id"
    found = json.loads((done := run(sql, "--camera", "cam1", "--format", "json", "--explain")).stdout)
    assert len(found) == 150
    assert done.stderr.startswith("150 rows; read for it: 0 warm rows, cold files: 1 of detections,")
    target = tmp_path / "rows.parquet"
    assert run(sql, "--camera", "cam1", "-o", str(target)).returncode == 0
    assert pq.read_table(target).num_rows == 150
    refused = run("DELETE FROM detections")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "allowed is one SELECT" in refused.stderr
    assert mixed.rows("SELECT count(*) FROM cv.audit_log WHERE action = 'rows.queried'") == [(2,)]
    assert "cam1" not in str(mixed.rows("SELECT details FROM cv.audit_log"))
