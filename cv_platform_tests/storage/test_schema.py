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


CAMERA_PAGE = (
    "SELECT id FROM warehouse.detections WHERE camera_id = 'b' AND \"timestamp\" >= '2026-03-01'"
    ' AND "timestamp" < \'2026-03-04\' ORDER BY "timestamp" DESC LIMIT 100'
)


def columns_of_key(connection: psycopg.Connection[tuple[object, ...]]) -> dict[str, str]:
    """The definition of the primary key of detections and of each of its days."""
    rows = connection.execute(
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p'"
        " AND conrelid::regclass::text LIKE 'warehouse.detections%'"
    ).fetchall()
    return {str(table): str(definition) for table, definition in rows}


def test_detections_get_their_new_key_with_what_they_hold(empty_database_url: str) -> None:
    """Day 1 has its index from before, day 2 one that was broken off, day 3 none, day 4 one of other columns."""
    migrate(empty_database_url, to="0010")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        for n in (1, 2, 3, 4):
            connection.execute("SELECT warehouse.ensure_day(%s::date)", [f"2026-03-0{n}"])
        connection.execute(
            "INSERT INTO warehouse.detections"
            " SELECT gen_random_uuid(), c, t + n * interval '1 s', n, 0.5, '{0,0,1,1}', n, 'k'"
            " FROM unnest('{a,b}'::text[]) c, generate_series(1, 50) n,"
            " generate_series('2026-03-01'::timestamptz, '2026-03-04', '1 day') t"
        )
        for n, columns in ((1, 'camera_id, "timestamp", id'), (2, 'camera_id, "timestamp", id'), (4, "id, camera_id")):
            connection.execute(
                f"CREATE UNIQUE INDEX CONCURRENTLY detections_2026030{n}_next_key"
                f" ON warehouse.detections_2026030{n} ({columns})"
            )
        connection.execute(
            "UPDATE pg_index SET indisvalid = false"
            " WHERE indexrelid = 'warehouse.detections_20260302_next_key'::regclass"
        )
        (ready,) = connection.execute(
            "SELECT relfilenode FROM pg_class WHERE relname = 'detections_20260301_next_key'"
        ).fetchone() or (None,)
        before = connection.execute("SELECT * FROM warehouse.detections ORDER BY id").fetchall()
        page = connection.execute(CAMERA_PAGE).fetchall()

    migrate(empty_database_url)

    with psycopg.connect(empty_database_url) as connection:
        connection.execute("SET timezone = 'UTC'")
        assert connection.execute("SELECT * FROM warehouse.detections ORDER BY id").fetchall() == before
        connection.execute("SELECT warehouse.ensure_day('2026-03-05')")
        key = 'PRIMARY KEY (camera_id, "timestamp", id)'
        assert columns_of_key(connection) == {
            "warehouse.detections": key,
            **{f"warehouse.detections_2026030{n}": key for n in (1, 2, 3, 4, 5)},
        }
        assert connection.execute(
            "SELECT relfilenode FROM pg_class WHERE relname = 'detections_20260301_pkey'"
        ).fetchone() == (ready,)
        left = connection.execute(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid::regclass::text ~ '^warehouse.detections'"
            " AND (NOT indisvalid OR indexrelid::regclass::text ~ 'next_key|camera')"
        ).fetchall()
        assert left == []
        # With so few rows the planner would rather read them all.
        connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        plan = "\n".join(str(line) for (line,) in connection.execute(f"EXPLAIN (COSTS OFF) {CAMERA_PAGE}"))
        assert "Scan Backward using detections_20260303_pkey" in plan
        assert "Sort" not in plan
        assert connection.execute(CAMERA_PAGE).fetchall() == page
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO warehouse.detections SELECT * FROM warehouse.detections LIMIT 1")
