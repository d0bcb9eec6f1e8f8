"""Dagster's tables are there, all of them, before its processes look."""

from __future__ import annotations

import psycopg
import pytest

from cv_platform.embedded.dagster_tables import has_tables, make_tables


@pytest.mark.parametrize("driver", ["", "+psycopg2"])
def test_they_are_made_whole_and_once(empty_database_url: str, driver: str) -> None:
    url = empty_database_url.replace("postgresql://", f"postgresql{driver}://")
    assert not has_tables(url)
    make_tables(url)
    assert has_tables(url)
    make_tables(url)
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)


def test_what_dagster_looks_for_is_all_there(dagster_database_url: str) -> None:
    """Its three storages find nothing to make: a start of theirs leaves the tables as they are."""
    from dagster_postgres import DagsterPostgresStorage

    def tables() -> set[tuple[int, str]]:
        with psycopg.connect(dagster_database_url.replace("+psycopg2", "")) as connection:
            return set(
                connection.execute("SELECT oid::int, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
            )

    before = tables()
    assert {"runs", "event_logs", "jobs", "job_ticks", "instance_info", "daemon_heartbeats"} <= {n for _, n in before}
    DagsterPostgresStorage(dagster_database_url, True)
    assert tables() == before


def test_a_database_with_half_of_them_does_not_count(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE runs (id int)")
    assert not has_tables(empty_database_url)
