"""Connections to PostgreSQL, opened where they are first used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg_pool import ConnectionPool

Connection = psycopg.Connection[tuple[Any, ...]]
Cursor = psycopg.Cursor[tuple[Any, ...]]
T = TypeVar("T")

# A transaction that the server broke off for the sake of another: the same work, done again, succeeds.
_BROKEN_OFF = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
_ATTEMPTS = 5


class Database:
    """One PostgreSQL database, with a small pool that opens at first use.

    Args:
        url: `postgresql://user@host/database`.
        max_size: most connections that this process holds at once.
    """

    def __init__(self, url: str, *, max_size: int = 8) -> None:
        self.url = url
        self._max_size = max_size
        self._pool: ConnectionPool[Connection] | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "Database(…)"  # the URL may hold a password

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection in a transaction: committed at the end, rolled back on an exception."""
        with self._opened().connection() as connection:
            yield connection

    def at_once(self, *statements: tuple[str, Any], prepare: bool | None = None) -> Cursor:
        """Statements in a transaction of their own, sent and committed in one go: a single wait for the server.

        Args:
            statements: each with its parameters, or None.
            prepare: whether the server keeps their plans; None: those that come often.

        Returns:
            What the last of them gave.
        """
        with self._opened().connection() as connection:
            if len(statements) == 1:
                return self._alone(connection, *statements[0], prepare=prepare)
            with connection.pipeline():
                for statement, parameters in statements:
                    cursor = connection.execute(statement, parameters, prepare=prepare)
                connection.commit()
        return cursor

    @staticmethod
    def _alone(connection: Connection, statement: str, parameters: Any, *, prepare: bool | None) -> Cursor:
        connection.autocommit = True
        try:
            return connection.execute(statement, parameters, prepare=prepare)
        finally:
            if not connection.closed:
                connection.autocommit = False

    def transact(self, work: Callable[[Connection], T]) -> T:
        """`work` in a transaction, done again where a deadlock broke it off; it changes nothing but the database."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self.transaction() as connection:
                    return work(connection)
            except _BROKEN_OFF:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _opened(self) -> ConnectionPool[Connection]:
        with self._lock:
            if self._pool is None:
                self._pool = ConnectionPool(
                    self.url,
                    min_size=0,
                    max_size=self._max_size,
                    max_idle=30.0,
                    timeout=30.0,
                    kwargs={
                        "options": "-c timezone=UTC -c idle_in_transaction_session_timeout=300000",
                        "application_name": "cv_platform",
                    },
                    check=ConnectionPool.check_connection,
                    open=True,
                )
            return self._pool

    def close(self) -> None:
        """Close what is open; a later use opens it again."""
        with self._lock:
            if self._pool is not None:
                self._pool.close()
                self._pool = None
