"""A PostgreSQL of its own for a benchmark: durable as the embedded stack's, gone afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cv_platform.embedded.postgres import PostgresServer
from cv_platform.storage.database import Database
from cv_platform.storage.schema import migrate


@contextmanager
def fresh_database(parent: Path | None = None, *, settings: Mapping[str, str] | None = None) -> Iterator[Database]:
    """A database with the platform's schema on a server of its own.

    Args:
        parent: where its folder goes; needs room for the data.
        settings: PostgreSQL settings over the embedded stack's.
    """
    with tempfile.TemporaryDirectory(prefix="cvp-bench-", dir=parent) as folder:
        server = PostgresServer(Path(folder) / "postgres", settings=settings)
        server.start()
        try:
            url = server.ensure_database("bench")
            migrate(url)
            database = Database(url, max_size=4)
            try:
                yield database
            finally:
                database.close()
        finally:
            server.stop()
