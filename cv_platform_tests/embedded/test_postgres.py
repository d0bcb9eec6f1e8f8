"""The embedded PostgreSQL: starts once, survives leftovers, listens to nobody but us."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from cv_platform.embedded.postgres import UNSAFE_FOR_TESTS, PostgresServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path / "it's a folder" / "postgres", settings=UNSAFE_FOR_TESTS)
    yield server
    server.stop()


@pytest.fixture
def durable_server(tmp_path: Path) -> Iterator[PostgresServer]:
    """As the stack runs it: a commit is on the disk."""
    server = PostgresServer(tmp_path / "postgres")
    yield server
    server.stop()


def test_starting_twice_is_one_server_and_stopping_twice_is_no_error(server: PostgresServer) -> None:
    first = server.start()
    assert server.start() == first
    assert server.stop()
    assert not first.alive
    assert not server.stop()
    assert server.process() is None


def test_data_outlives_a_restart_and_a_kill(durable_server: PostgresServer) -> None:
    server = durable_server
    record = server.start()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    os.kill(record.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while record.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (server.data / "postmaster.pid").exists(), "the kill should leave a pid file behind"
    assert server.start().pid != record.pid
    with psycopg.connect(server.url()) as connection:
        assert connection.execute("SELECT to_regclass('kept') IS NOT NULL").fetchone() == (True,)


def test_a_pid_file_of_another_process_does_not_keep_it_from_starting(server: PostgresServer) -> None:
    server.start()
    server.stop()
    lines = [str(os.getpid()), str(server.data), "1", "5432", "", "", "1 1", "ready   "]
    (server.data / "postmaster.pid").write_text("\n".join(lines))
    assert server.process() is None
    assert server.start().alive


def test_only_its_owner_may_reach_it(server: PostgresServer) -> None:
    server.start()
    with psycopg.connect(server.url()) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SHOW unix_socket_permissions").fetchone() == ("0700",)
    assert server.data.stat().st_mode & 0o777 == 0o700
    assert server._socket_folder().stat().st_mode & 0o077 == 0


def test_as_root_it_starts_and_stops_below_a_folder_that_was_closed(server: PostgresServer, tmp_path: Path) -> None:
    server.start()
    tmp_path.chmod(0o700)  # whatever closed it: the server's account can no longer pass
    assert server.stop()
    assert server.start().alive


def test_a_path_too_long_for_a_socket_moves_the_socket(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / ("long" * 30) / "postgres", settings=UNSAFE_FOR_TESTS)
    try:
        server.start()
        with psycopg.connect(server.url()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert not server._socket_folder().is_relative_to(tmp_path)
    finally:
        server.stop()


def test_its_log_never_holds_a_statements_values(postgres_server: PostgresServer) -> None:
    secret = f"value-{uuid4().hex}"
    with psycopg.connect(postgres_server.url()) as connection, pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1 / 0, %s", [secret])
    assert secret not in postgres_server.log.read_text()
    assert "division by zero" in postgres_server.log.read_text()


def test_databases_are_made_once_even_by_many_at_once(postgres_server: PostgresServer) -> None:
    name = f"race_{uuid4().hex[:8]}"
    urls: list[str] = []
    threads = [threading.Thread(target=lambda: urls.append(postgres_server.ensure_database(name))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert urls == [postgres_server.url(name)] * 6
    with psycopg.connect(urls[0]) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == (name,)
    postgres_server.drop_database(name)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(urls[0])


def test_text_sorts_the_same_on_every_machine(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT x FROM unnest(ARRAY['b', 'A', 'a', 'B', 'é', '_']) x ORDER BY x").fetchall()
    assert [row[0] for row in rows] == ["A", "B", "_", "a", "b", "é"]


@pytest.mark.parametrize(("driver", "scheme"), [("", "postgresql://"), ("psycopg2", "postgresql+psycopg2://")])
def test_urls_name_the_driver(postgres_server: PostgresServer, driver: str, scheme: str) -> None:
    assert postgres_server.url("dagster", driver=driver).startswith(f"{scheme}postgres@/dagster?host=/")


def test_a_database_has_its_name_only_when_it_is_prepared(server: PostgresServer) -> None:
    server.start()

    def half(url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE first (n int)")
        raise KeyboardInterrupt

    def whole(url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE first (n int)")
            connection.execute("CREATE TABLE second (n int)")

    with pytest.raises(KeyboardInterrupt):
        server.ensure_database("prepared", prepare=half)
    with pytest.raises(psycopg.OperationalError, match="does not exist"), psycopg.connect(server.url("prepared")):
        pass
    with psycopg.connect(server.ensure_database("prepared", prepare=whole)) as connection:
        assert connection.execute("SELECT count(*) FROM second").fetchone() == (0,)
    assert server.ensure_database("prepared", prepare=half) == server.url("prepared")
