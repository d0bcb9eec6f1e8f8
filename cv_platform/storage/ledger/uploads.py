"""How far the listing of a prefix has come."""

from __future__ import annotations

from cv_platform.storage.database import Database


def read_cursor(database: Database, prefix: str) -> str | None:
    """The last key that was looked at, or None at the start of a round."""
    with database.transaction() as connection:
        row = connection.execute("SELECT last_key FROM cv.upload_cursors WHERE prefix = %s", [prefix]).fetchone()
    return None if row is None else str(row[0])


def write_cursor(database: Database, prefix: str, last_key: str | None) -> None:
    """Keep the cursor; None starts the round anew."""
    with database.transaction() as connection:
        if last_key is None:
            connection.execute("DELETE FROM cv.upload_cursors WHERE prefix = %s", [prefix])
        else:
            connection.execute(
                "INSERT INTO cv.upload_cursors (prefix, last_key) VALUES (%s, %s) ON CONFLICT (prefix)"
                " DO UPDATE SET last_key = EXCLUDED.last_key, seen_at = now()",
                [prefix, last_key],
            )
