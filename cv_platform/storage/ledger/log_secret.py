"""The ledger's secret behind the references by which log lines call cameras."""

from __future__ import annotations

from cv_platform.storage.database import Database


def log_secret(database: Database) -> bytes:
    """The secret of this deployment. Raises LookupError where somebody deleted it."""
    with database.transaction() as connection:
        row = connection.execute("SELECT secret FROM cv.log_secret").fetchone()
    if row is None:
        raise LookupError("cv.log_secret holds no row; insert one of 32 random bytes")
    return bytes(row[0])
