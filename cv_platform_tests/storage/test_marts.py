"""Which days are due, what a build records, and what the role `analyst` can reach."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cv_platform.embedded.postgres import PostgresServer
from cv_platform.storage import marts
from cv_platform.storage.analyst import set_analyst_login
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.schema import migrate

D1, D2, D3, D9 = date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3), date(2026, 3, 9)
ALL = {"first": date(2026, 1, 1), "last": date(2026, 12, 31), "max_days": 31, "min_interval_s": 0.0}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    found = Database(database_url)
    yield found
    found.close()


def dirty(connection: Connection, *days: date) -> None:
    for day in days:
        connection.execute(
            "INSERT INTO cv.mart_days (day) VALUES (%s)"
            " ON CONFLICT (day) DO UPDATE SET dirty_seq = mart_days.dirty_seq + 1",
            [day],
        )


def track(connection: Connection, track_day: date, track_id: int, start: datetime, end: datetime) -> None:
    connection.execute("SELECT warehouse.ensure_day(%s)", [start.date()])
    connection.execute(
        "INSERT INTO warehouse.tracks VALUES (gen_random_uuid(), 'cam', %s, %s, %s, 0, %s, 1, 0.5, 'k')",
        [start, track_day, track_id, end],
    )


@pytest.mark.parametrize(
    ("days", "limits", "wanted"),
    [
        ((), {}, None),
        ((D2,), {}, (D2, D2)),
        ((D1, D3, D9), {}, (D1, D9)),
        ((D1, D3, D9), {"max_days": 5}, (D1, D3)),  # oldest first; the rest with the next run
        ((D1, D3, D9), {"first": D2}, (D3, D9)),  # a day outside the partitions would fail the whole tick
        ((D1, D3, D9), {"last": D3}, (D1, D3)),
        ((D1,), {"first": D2}, None),
    ],
)
def test_dirty_range(
    database: Database, days: tuple[date, ...], limits: dict[str, object], wanted: tuple[date, date] | None
) -> None:
    with database.transaction() as connection:
        dirty(connection, *days)
        assert marts.dirty_range(connection, k=5, **{**ALL, **limits}) == wanted  # type: ignore[arg-type]


def test_a_day_built_a_moment_ago_waits(database: Database) -> None:
    with database.transaction() as connection:
        dirty(connection, D1)
        plan = marts.plan_build(connection, [D1], k=5, only_dirty=True)
        marts.record_built(connection, plan, k=5)
        dirty(connection, D1)
        assert marts.dirty_range(connection, k=5, **{**ALL, "min_interval_s": 300.0}) is None  # type: ignore[arg-type]
        assert marts.dirty_range(connection, k=5, **ALL) == (D1, D1)  # type: ignore[arg-type]
        dirty(connection, D2)  # never built: at once
        assert marts.dirty_range(connection, k=5, **{**ALL, "min_interval_s": 300.0}) == (D2, D2)  # type: ignore[arg-type]


def test_a_commit_after_the_plan_leaves_the_day_dirty(database: Database) -> None:
    with database.transaction() as connection:
        dirty(connection, D1, D2)
    with database.transaction() as connection:
        plan = marts.plan_build(connection, [D1, D2], k=5, only_dirty=True)
    with database.transaction() as connection:
        dirty(connection, D2)
    with database.transaction() as connection:
        marts.record_built(connection, plan, k=5)
    with database.transaction() as connection:
        assert marts.dirty_range(connection, k=5, **ALL) == (D2, D2)  # type: ignore[arg-type]
        assert marts.backlog(connection, k=5).days == 1


def test_a_late_record_takes_nothing_back(database: Database) -> None:
    with database.transaction() as connection:
        dirty(connection, D1)
        old = marts.plan_build(connection, [D1], k=5, only_dirty=True)
        dirty(connection, D1)
        new = marts.plan_build(connection, [D1], k=5, only_dirty=True)
        marts.record_built(connection, new, k=5)
        marts.record_built(connection, old, k=5)
        assert marts.dirty_range(connection, k=5, **ALL) is None  # type: ignore[arg-type]


def test_the_plan_is_what_is_dirty_or_what_was_asked_for(database: Database) -> None:
    with database.transaction() as connection:
        dirty(connection, D1, D2)
        marts.record_built(connection, marts.plan_build(connection, [D1], k=5, only_dirty=True), k=5)
        assert marts.plan_build(connection, [D1, D2, D3], k=5, only_dirty=True).days == (D2,)
        assert marts.plan_build(connection, [D1, D2, D3], k=5, only_dirty=False).days == (D1, D2, D3)
        assert marts.plan_build(connection, [D1], k=6, only_dirty=True).days == (D1,)  # built for another k
        assert marts.mark_all_dirty(connection) == 2


def test_the_plan_reaches_back_to_where_tracks_began(database: Database) -> None:
    with database.transaction() as connection:
        dirty(connection, D2, D3)
        # Began on D1, seen on D2; another began on D2, seen on D3.
        track(connection, D1, 1, datetime(2026, 3, 2, 0, 5, tzinfo=UTC), datetime(2026, 3, 2, 0, 6, tzinfo=UTC))
        track(connection, D2, 1, datetime(2026, 3, 3, 0, 5, tzinfo=UTC), datetime(2026, 3, 3, 0, 6, tzinfo=UTC))
        plan = marts.plan_build(connection, [D3], k=5, only_dirty=True)
        assert plan.days == (D1, D2, D3)
        assert plan.seqs == {D2: 1, D3: 1}  # the ledger knows nothing of D1


def test_the_plan_reaches_back_to_where_tracks_began_before_they_changed(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(
            "CREATE TABLE restricted.track_summary AS SELECT %s::date AS track_day, %s::timestamptz AS last_seen_at",
            [D1, datetime(2026, 3, 2, 0, 5, tzinfo=UTC)],
        )
        dirty(connection, D2)
        assert marts.plan_build(connection, [D2], k=5, only_dirty=True).days == (D1, D2)


# What the analyst can reach.


@pytest.fixture(scope="module")
def analyst(postgres_server: PostgresServer) -> Iterator[tuple[Database, psycopg.Connection[tuple[object, ...]]]]:
    """A migrated database with a few marts and tables, and a connection to it as `analyst`."""
    name = f"analyst_{uuid4().hex[:12]}"
    url = postgres_server.ensure_database(name)
    migrate(url)  # no clone: a database's own privileges are not cloned
    owner = Database(url)
    with owner.transaction() as connection:
        connection.execute("SELECT warehouse.ensure_day(%s)", [D1])
        connection.execute("CREATE TABLE marts.later AS SELECT 5 AS tracks")  # made after the grants
        connection.execute("CREATE VIEW marts.later_view AS SELECT * FROM marts.later")
        connection.execute("CREATE TABLE aggregates.exact AS SELECT 1 AS tracks")
        connection.execute("CREATE TABLE restricted.track_summary AS SELECT 1 AS track_id")
        connection.execute("CREATE TABLE public.event_logs AS SELECT 1 AS id")  # as Dagster's storage makes its own
    with log_in(owner, make_conninfo(url, user="analyst", password="a password")) as c:
        yield owner, c
    with owner.transaction() as connection:
        set_analyst_login(connection, None)
    owner.close()
    postgres_server.drop_database(name)


def log_in(owner: Database, conninfo: str) -> psycopg.Connection[tuple[object, ...]]:
    """The role is the server's: another worker's test may take the login away before it is used."""
    for _ in range(20):
        with owner.transaction() as connection:
            set_analyst_login(connection, "a password")
        with suppress(psycopg.OperationalError):
            return psycopg.connect(conninfo, autocommit=True)
    raise AssertionError("the analyst cannot log in")


def relations(owner: Database) -> list[tuple[str, str, str]]:
    with owner.transaction() as connection:
        return connection.execute(
            "SELECT n.nspname, c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')"
            " AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'"
        ).fetchall()


def test_the_analyst_reads_the_marts_and_is_refused_everywhere_else(
    analyst: tuple[Database, psycopg.Connection[tuple[object, ...]]],
) -> None:
    owner, connection = analyst
    found = relations(owner)
    assert {schema for schema, _, _ in found} >= {"cv", "warehouse", "aggregates", "restricted", "marts", "public"}
    for schema, name, _ in found:
        query = sql.SQL("SELECT * FROM {} LIMIT 1").format(sql.Identifier(schema, name))
        if schema == "marts":
            assert connection.execute(query).fetchall()
        else:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(query)
        for statement in ("DELETE FROM {}", "TRUNCATE {}", "INSERT INTO {} DEFAULT VALUES"):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.WrongObjectType)):
                connection.execute(sql.SQL(statement).format(sql.Identifier(schema, name)))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TEMPORARY TABLE mine (n int)",
        "CREATE TABLE marts.mine (n int)",
        "CREATE TABLE public.mine (n int)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION marts.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE ROLE other",
        "SET ROLE postgres",
        "SELECT warehouse.ensure_day('2026-03-05')",
        "SELECT pg_read_file('postgresql.conf')",
        "SELECT query_to_xml('SELECT * FROM restricted.track_summary', true, true, '')",
        "SELECT table_to_xml('aggregates.exact', true, true, '')",
        "SELECT lo_import('/etc/passwd')",
        "COPY marts.later TO PROGRAM 'cat'",
        "COPY marts.later TO '/tmp/marts'",
        "ALTER ROLE analyst SUPERUSER",
    ],
)
def test_the_analyst_may_not(analyst: tuple[Database, psycopg.Connection[tuple[object, ...]]], statement: str) -> None:
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.SyntaxError)) as error:
        analyst[1].execute(statement)
    assert isinstance(error.value, psycopg.errors.InsufficientPrivilege), error.value


def test_statistics_of_other_tables_are_hidden(
    analyst: tuple[Database, psycopg.Connection[tuple[object, ...]]],
) -> None:
    owner, connection = analyst
    with owner.transaction() as administrator:
        administrator.execute("ANALYZE restricted.track_summary")
        administrator.execute("ANALYZE marts.later")
    seen = {row[0] for row in connection.execute("SELECT DISTINCT schemaname FROM pg_stats").fetchall()}
    assert "restricted" not in seen
    for function in ("restricted", "cv", "warehouse", "aggregates"):
        row = connection.execute("SELECT has_schema_privilege(%s, 'USAGE')", [function]).fetchone()
        assert row == (False,)


def test_no_function_of_ours_runs_for_the_analyst(
    analyst: tuple[Database, psycopg.Connection[tuple[object, ...]]],
) -> None:
    rows = analyst[1].execute(
        "SELECT n.nspname || '.' || p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')"
        " AND has_function_privilege('analyst', p.oid, 'EXECUTE') AND has_schema_privilege('analyst', n.oid, 'USAGE')"
    )
    assert rows.fetchall() == []


def test_without_a_password_the_analyst_cannot_log_in(database: Database) -> None:
    def role() -> tuple[bool, str | None]:
        row = connection.execute("SELECT rolcanlogin, rolpassword FROM pg_authid WHERE rolname = 'analyst'").fetchone()
        assert row is not None
        return row[0], row[1]

    with database.transaction() as connection:
        set_analyst_login(connection, "correct horse")
        can_log_in, verifier = role()
        assert can_log_in
        assert verifier is not None
        assert verifier.startswith("SCRAM-SHA-256$")
        assert "correct horse" not in verifier
        set_analyst_login(connection, None)
        assert role() == (False, None)


def test_databases_of_one_server_migrate_at_once(postgres_server: PostgresServer) -> None:
    """The role is the server's: whoever comes second finds it, whoever comes at the same moment does too."""
    names = [f"at_once_{n}" for n in range(3)]
    urls = [postgres_server.ensure_database(name) for name in names]
    program = (
        "import sys; from cv_platform.storage.analyst import set_analyst_login;"
        "from cv_platform.storage.database import Database; from cv_platform.storage.schema import migrate;"
        "migrate(sys.argv[1]); database = Database(sys.argv[1])\n"
        "with database.transaction() as c: set_analyst_login(c, None)\n"
        "database.close()"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, url], stderr=subprocess.PIPE, text=True) for url in urls
    ]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    for name, url in zip(names, urls, strict=True):
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT has_schema_privilege('analyst', 'marts', 'USAGE')").fetchone() == (True,)
        postgres_server.drop_database(name)
