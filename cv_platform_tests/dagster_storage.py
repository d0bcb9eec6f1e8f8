"""Dagster's own database, read as a scan for traces reads it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import suppress

import psycopg
from psycopg import sql


def storage_texts(url: str) -> Iterator[tuple[str, str]]:
    """Every value of every table of Dagster's database as text, compressed ones unpacked, with where it stands."""
    with psycopg.connect(url.replace("+psycopg2", "")) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            cursor = connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))
            names = [column.name for column in cursor.description or []]
            for row in cursor:
                for name, value in zip(names, row, strict=True):
                    if isinstance(value, bytes):
                        with suppress(zlib.error):
                            value = zlib.decompress(value)
                        value = value.decode("latin-1")
                    if value is not None:
                        yield f"{table}.{name}", str(value)
