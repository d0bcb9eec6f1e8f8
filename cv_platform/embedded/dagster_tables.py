"""Dagster's tables, made before any process of Dagster's looks for them.

Each process of Dagster's makes what it misses, one table after the other without a transaction. Two that start at once
on an empty database, as the daemon and the demonstration do, find each other's half, and one of them ends with an error
(measured: in 3 of 160 tries).
"""

from __future__ import annotations

import psycopg

# The last table that each of Dagster's three storages makes, and what its migrations are counted in.
_TELLING = ("runs", "event_logs", "jobs", "alembic_version")


def has_tables(url: str) -> bool:
    """Whether a database holds Dagster's tables. `url` may name a driver (`postgresql+psycopg2://…`)."""
    with psycopg.connect(_plain(url)) as connection:
        found = connection.execute(
            "SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest(%s::text[]) AS name", [list(_TELLING)]
        ).fetchone()
    return bool(found and found[0])


def make_tables(url: str) -> None:
    """Make Dagster's tables; holds no connection afterwards. One process at a time may do so.

    Args:
        url: `postgresql://…`, with or without a driver.
    """
    # Imported here: it takes seconds, and only the first start needs it.
    from dagster_postgres import DagsterPostgresStorage

    DagsterPostgresStorage(_plain(url).replace("postgresql://", "postgresql+psycopg2://", 1), True)


def _plain(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return scheme.split("+")[0] + separator + rest
