"""The one transaction that ends a piece of work: all of it, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from cv_platform import faults
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.days import days_of, mark_dirty
from cv_platform.storage.ledger.held import held_now, keep_outputs, keeps_output
from cv_platform.storage.ledger.model import STILL_RUNNING, Claim, StaleClaim
from cv_platform.storage.ledger.withdrawal import discard_objects, invalidate_downstream, lock_clip, quarantine

# Longer than any worker takes between an upload and its commit; one that took longer does its work again.
_UNTIL_COMMIT = timedelta(hours=1)


def commit(
    database: Database,
    claim: Claim,
    *,
    seconds: float,
    output_key: str | None = None,
    output_sha256: str | None = None,
    store: str = "cold",
    counts: dict[str, Any] | None = None,
    write: Callable[[Connection], None] = lambda connection: None,
) -> None:
    """End a claim with success.

    In one transaction: the ledger's row (fenced by fence, version and input), what lies downstream starts again, what
    `write` does (the stage's own rows), the clip's days are marked dirty, the output that this one replaces is left to
    the collector. Everywhere rows are locked in one order, or two commits would wait for each other: camera head, clip,
    stages, warehouse, days.

    Args:
        output_key: was told to `note_object` before it was uploaded.
        write: may be called again, after a deadlock.

    Raises:
        StaleClaim: the claim is lost, or a hold keeps what this would replace; nothing was written. What was uploaded
            is left to the collector.
    """
    faults.point(f"{claim.stage}.before_commit")

    def work(connection: Connection) -> bool:
        lock_clip(connection, claim.clip.clip_id)
        if keeps_output(connection, claim):
            keep_outputs(connection, [claim.clip.clip_id])
            return False
        # What the stage pointed at before, such as the vault's object, is no longer with the collector.
        if _finish(connection, claim, seconds, output_key, output_sha256, store, counts or {}) != output_key:
            keep_object(connection, claim, store, output_key)
        invalidate_downstream(connection, claim.clip.clip_id, claim.stage)
        if held_now(connection, claim.clip.clip_id):
            keep_outputs(connection, [claim.clip.clip_id])
        write(connection)
        mark_clip_days(connection, claim)
        return True

    try:
        if not database.transact(work):
            raise StaleClaim(f"{claim.stage}: a hold keeps what was made before")
    except StaleClaim:
        discard(database, store, [output_key])
        raise
    faults.point(f"{claim.stage}.after_commit")


def reject(database: Database, claim: Claim, *, code: str, reason: str) -> None:
    """End a claim with quarantine. Raises StaleClaim where the claim is lost."""
    database.transact(lambda connection: quarantine(connection, claim, code=code, reason=reason))


def note_object(database: Database, store: str, key: str) -> None:
    """Say that an object is about to be uploaded: one that no commit points at within the hour is collected."""
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO cv.garbage (store, object_key, not_before) VALUES (%s, %s, now() + %s)"
            " ON CONFLICT (store, object_key) DO UPDATE SET not_before = EXCLUDED.not_before",
            [store, key, _UNTIL_COMMIT],
        )


def discard(database: Database, store: str, keys: Iterable[str | None]) -> None:
    """Leave objects to the collector, in a transaction of their own."""
    with database.transaction() as connection:
        discard_objects(connection, store, keys)


def mark_clip_days(connection: Connection, claim: Claim) -> None:
    """Mark the days that the claimed clip touches, by its length as the ledger has it now."""
    row = connection.execute(
        "SELECT captured_at, duration_s FROM cv.clips WHERE clip_id = %s", [claim.clip.clip_id]
    ).fetchone()
    if row is not None:
        mark_dirty(connection, days_of(*row))


def _finish(
    connection: Connection,
    claim: Claim,
    seconds: float,
    output_key: str | None,
    output_sha256: str | None,
    store: str,
    counts: dict[str, Any],
) -> str | None:
    """Set the stage to done; returns the output that it pointed at before."""
    replaced = connection.execute(
        "SELECT output_key FROM cv.stages WHERE clip_id = %s AND stage = %s FOR UPDATE",
        [claim.clip.clip_id, claim.stage],
    ).fetchone()
    updated = connection.execute(
        "UPDATE cv.stages SET state = 'done', lease_expires_at = NULL, finished_at = now(), seconds = %s, error = NULL,"
        " output_key = %s, output_sha256 = %s, output_deleted_at = NULL, counts = %s, attempts = 0"
        f" WHERE clip_id = %s AND stage = %s AND {STILL_RUNNING} AND fence = %s AND version = %s"
        " AND input_generation = %s AND NOT EXISTS (SELECT 1 FROM cv.stage_versions v"
        " WHERE v.stage = stages.stage AND v.version <> stages.version)",
        [
            seconds,
            output_key,
            output_sha256,
            Jsonb(counts),
            claim.clip.clip_id,
            claim.stage,
            claim.fence,
            claim.version,
            claim.input_generation,
        ],
    )
    if updated.rowcount != 1:
        raise StaleClaim(f"{claim.stage}: the claim was taken over or its input changed")
    before: str | None = replaced[0] if replaced else None
    if before != output_key:
        discard_objects(connection, store, [before])
    return before


def keep_object(connection: Connection, claim: Claim, store: str, output_key: str | None) -> None:
    """Take an object that was told to `note_object` off the collector. Raises StaleClaim where it was collected."""
    if output_key is None:
        return
    kept = connection.execute(
        "DELETE FROM cv.garbage WHERE store = %s AND object_key = %s", [store, output_key]
    ).rowcount
    if not kept:
        raise StaleClaim(f"{claim.stage}: its output was collected before the commit")
