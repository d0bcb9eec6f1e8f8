"""The SQL that publishes does what the model of suppression.py does: what is proved of the one holds for the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cv_platform.embedded.postgres import PostgresServer
from cv_platform.resources.dbt import dbt_environment, find_project
from cv_platform.storage.database import Connection, Database
from cv_platform_tests.dbt import warehouse as wh
from cv_platform_tests.dbt.suppression import Published, publish
from cv_platform_tests.servers import TestServers

DAY = date(2026, 3, 10)
EDGES: list[int | None] = [0, 2, 5, 10, 30, 60, 300, 900, None]
K = 4
HOURS = 6


@pytest.fixture(scope="module")
def compiled(
    servers: TestServers, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, str]]:
    """A warehouse with `HOURS` hours of footage, and the SQL that dbt makes of the model `publication`."""
    url = postgres_server.ensure_database("publication", template=servers.platform_template())
    database = Database(url)
    target = tmp_path_factory.mktemp("compiled")
    project = find_project()
    with database.transaction() as connection:
        wh.add_site(connection, "site", "UTC", "camera")
        for hour in range(HOURS):
            wh.add_clip(connection, "camera", datetime(2026, 3, 10, 6 + hour, tzinfo=UTC), 600)
        connection.execute(
            "CREATE TABLE aggregates.hourly_cells (site_id text, camera_id text, hour timestamptz, day date,"
            " class_id smallint, tracks bigint, detections bigint, tracks_by_dwell bigint[])"
        )
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from dbt.cli.main import cli; cli()", "compile", "--select", "publication"),
            *("--project-dir", str(project), "--profiles-dir", str(project), "--target-path", str(target)),
            *("--log-path", str(target), "--log-format", "json"),
        ],
        env={**dbt_environment(url), "CV_DBT_DAYS": DAY.isoformat(), "CV_DBT_K": str(K), "HOME": str(target)},
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, [json.loads(line)["info"]["msg"] for line in done.stdout.splitlines()]
    (path,) = (Path(root) / name for root, _, names in os.walk(target) for name in names if name == "publication.sql")
    yield database, path.read_text()
    database.close()


def published_by_sql(connection: Connection, statement: str, cells: list[list[int]]) -> Published:
    connection.execute("TRUNCATE aggregates.hourly_cells")
    for hour, row in enumerate(cells):
        if sum(row):
            connection.execute(
                "INSERT INTO aggregates.hourly_cells VALUES ('site', 'camera', %s, %s, 0, %s, %s, %s)",
                [datetime(2026, 3, 10, 6, tzinfo=UTC) + timedelta(hours=hour), DAY, sum(row), 10 * sum(row), row],
            )
    rows: list[dict[str, Any]] = []
    with connection.cursor() as cursor:
        cursor.execute(statement.encode())
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    leaves = sorted((row["hour"].hour - 6, row["tracks"]) for row in rows if row["kind"] == "camera_hour")
    totals = [row["tracks"] for row in rows if row["kind"] == "site_day"]
    dwell = sorted(
        (EDGES.index(row["dwell_from_s"]), EDGES.index(row["dwell_to_s"]), row["tracks"])
        for row in rows
        if row["kind"] == "dwell"
    )
    for row in rows:  # detections keep to the cells that are shown
        if row["kind"] != "dwell":
            assert row["detections"] == 10 * row["tracks"]
    assert len(totals) <= 1
    return Published(tuple(leaves), totals[0] if totals else 0, tuple(dwell))


small = st.lists(st.integers(0, 3), min_size=8, max_size=8)
sparse = st.lists(st.sampled_from([0, 0, 0, 0, 0, 1, 2, 7]), min_size=8, max_size=8)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.lists(st.one_of(small, sparse), min_size=HOURS, max_size=HOURS))
def test_sql_publishes_as_the_model_does(compiled: tuple[Database, str], cells: list[list[int]]) -> None:
    database, statement = compiled
    with database.transaction() as connection:
        found = published_by_sql(connection, statement, cells)
    wanted = publish(cells, K)
    assert found == Published(wanted.leaves, wanted.total, tuple(row for row in wanted.dwell if row[2]))


def test_the_pool_and_its_bound(compiled: tuple[Database, str]) -> None:
    """Small hours are pooled where they reach k, and not where their sum would tell what each of them holds."""
    database, statement = compiled

    def total(*hours: int) -> int:
        cells = [[count] + [0] * 7 for count in (*hours, *[0] * (HOURS - len(hours)))]
        with database.transaction() as connection:
            return published_by_sql(connection, statement, cells).total

    assert total(3, 0) == 0
    assert total(3, 1) == 4
    assert total(9, 3) == 9
    assert total(9, 3, 2) == 14
    assert total(3, 3, 3, 3, 3) == 15  # six hours could hold up to 18; 15 = 5 x 3 still lets any of them be 0
    assert total(3, 3, 3, 3, 3, 1) == 0  # 16 would say that none is empty


def test_erased_footage_does_not_loosen_the_bound(compiled: tuple[Database, str]) -> None:
    database, statement = compiled
    with database.transaction() as connection, connection.transaction(force_rollback=True):
        connection.execute("DELETE FROM warehouse.clip_facts WHERE captured_at >= '2026-03-10 08:00+00'")
        cells = [[3] + [0] * 7, [3] + [0] * 7] + [[0] * 8] * (HOURS - 2)
        assert published_by_sql(connection, statement, cells).total == 0  # two hours: 6 would tell both
