"""The index that holds what a page of one class shows, on days that are closed.

Rows of one class lie apart in a day's table: a page of a hundred is a hundred reads from the disk. Here it is a few,
since the index holds the columns themselves. It costs whoever writes, so only days to which hardly anything is written
any more get it; what comes late is written to it as to any index.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import date
from typing import Final

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable, UndefinedTable

from cv_platform.storage.database import Connection, Database

PAGE_COLUMNS: Final = ("id", "camera_id", "confidence", "bbox", "track_id")
"""What the index holds beside class and time. Not the clip's key: it alone is half as long as all of these."""

# While an index is built: for transactions of anyone that began before. Nobody waits behind this meanwhile.
_PATIENCE_S: Final = 60
# Otherwise. Who builds an index waits for all that wait for the day longer than that, and they for him.
_LOCK_TIMEOUT_MS: Final = 100


def page_index(day: date) -> str:
    """The index's name, in the schema `warehouse`."""
    return f"detections_{day:%Y%m%d}_class_page"


def days_without_page_index(connection: Connection, before: date) -> list[date]:
    """Days before a date whose detections have no such index, or one that is not whole; newest first."""
    rows = connection.execute(
        "SELECT right(c.relname, 8)::date AS day FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid"
        " WHERE inhparent = 'warehouse.detections'::regclass AND c.relname ~ '_[0-9]{8}$'"
        " AND right(c.relname, 8)::date < %s AND NOT EXISTS (SELECT FROM pg_index i"
        " WHERE i.indexrelid = to_regclass('warehouse.' || c.relname || '_class_page') AND i.indisvalid)"
        " ORDER BY day DESC",
        [before],
    ).fetchall()
    return [day for (day,) in rows]


def build_page_index(database: Database, day: date) -> bool:
    """Build a day's index while readers and writers go on; returns whether it is there now.

    What a builder that was killed left behind is dropped first. Two at once: one builds, the other finds the day in
    use. The day is vacuumed, since only of pages that hold nothing but what all can see an index answers alone.
    """
    table, name = f"warehouse.detections_{day:%Y%m%d}", page_index(day)
    with psycopg.connect(database.url, autocommit=True) as connection:
        try:
            connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT_MS}ms'")
            if _whole(connection, table, name):
                return True
            connection.execute(f"VACUUM (ANALYZE) {table}")
            connection.execute(f"SET lock_timeout = '{_PATIENCE_S}s'")
            connection.execute(
                f'CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} (class_id, "timestamp" DESC)'
                f" INCLUDE ({', '.join(PAGE_COLUMNS)})"
            )
            return _whole(connection, table, name)
        except UndefinedTable:
            return False  # it went cold
        except (LockNotAvailable, DeadlockDetected):
            connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT_MS}ms'")
            with suppress(LockNotAvailable, UndefinedTable):
                _whole(connection, table, name)  # writers would go on filling what no reader uses
            return False


def _whole(connection: psycopg.Connection[tuple[object, ...]], table: str, name: str) -> bool:
    """Whether the index is there and whole; what is left of one that is not is dropped.

    Raises:
        LockNotAvailable: another builds it, or the table is in use.
    """
    with connection.transaction():
        # Who builds an index holds this: an index that is not whole is nobody's then.
        connection.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")
        found = connection.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [f"warehouse.{name}"]
        ).fetchone()
        if found == (False,):
            connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_MS}ms'")
            connection.execute(f"DROP INDEX warehouse.{name}")
        return found == (True,)
