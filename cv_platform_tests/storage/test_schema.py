"""Migrations: again, three at once, and the day partitions of the warehouse."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, date, datetime

import psycopg
import pytest

from cv_platform.storage.database import Database
from cv_platform.storage.schema import migrate, pending_migrations
from cv_platform.storage.warehouse import ensure_days


def test_three_processes_migrate_one_empty_database_at_once(empty_database_url: str) -> None:
    pending = pending_migrations(empty_database_url)
    assert pending == sorted(pending)
    assert pending
    code = "import sys; from cv_platform.storage.schema import migrate; migrate(sys.argv[1])"
    started = [subprocess.Popen([sys.executable, "-c", code, empty_database_url]) for _ in range(3)]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    assert pending_migrations(empty_database_url) == []
    migrate(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM public.schema_version").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM cv.clips").fetchone() == (0,)


def partitions(url: str) -> dict[str, set[str]]:
    """Partitions by table."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT inhparent::regclass::text, array_agg(inhrelid::regclass::text) FROM pg_inherits"
            " JOIN pg_class c ON c.oid = inhrelid WHERE c.relkind = 'r' GROUP BY 1"
        ).fetchall()
    return {parent: set(children) for parent, children in rows}


def test_days_are_made_once_by_many_at_once(database_url: str) -> None:
    database = Database(database_url, max_size=4)
    days = [date(2026, 3, n) for n in (1, 2, 3)]
    errors: list[BaseException] = []

    def make() -> None:
        try:
            ensure_days(database, days[::-1])
        except BaseException as error:  # noqa: BLE001  # handed to the test
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert partitions(database_url) == {
        f"warehouse.{table}": {f"warehouse.{table}_2026030{n}" for n in (1, 2, 3)}
        for table in ("detections", "tracks", "events")
    }
    database.close()


@pytest.mark.parametrize(
    ("at", "day"),
    [
        (datetime(2026, 3, 1, 0, 0, tzinfo=UTC), "20260301"),
        (datetime(2026, 3, 1, 23, 59, 59, 999_999, tzinfo=UTC), "20260301"),
        (datetime(2026, 3, 2, 0, 0, tzinfo=UTC), "20260302"),
    ],
)
def test_a_partition_holds_a_utc_day_whatever_the_sessions_zone(database_url: str, at: datetime, day: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("SET timezone = 'Asia/Tokyo'")
        for made in ("2026-03-01", "2026-03-02"):
            connection.execute("SELECT warehouse.ensure_day(%s)", [made])
        connection.execute(
            "INSERT INTO warehouse.detections VALUES (gen_random_uuid(), 'c', %s, 0, 0.5, '{0,0,1,1}', NULL, 'k')", [at]
        )
        assert connection.execute("SELECT tableoid::regclass::text FROM warehouse.detections").fetchone() == (
            f"warehouse.detections_{day}",
        )


def test_a_writer_of_one_day_does_not_wait_for_another_days_making(database_url: str) -> None:
    with psycopg.connect(database_url) as writer, psycopg.connect(database_url) as maker:
        writer.execute("SELECT warehouse.ensure_day('2026-03-01')")
        writer.commit()
        writer.execute(
            "INSERT INTO warehouse.detections VALUES"
            " (gen_random_uuid(), 'c', '2026-03-01T08:00Z', 0, 0.5, '{0,0,1,1}', NULL, 'k')"
        )
        maker.execute("SET lock_timeout = '2s'")
        maker.execute("SELECT warehouse.ensure_day('2026-03-02')")
        maker.commit()
        writer.commit()
