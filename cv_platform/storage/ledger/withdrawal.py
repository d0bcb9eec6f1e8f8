"""A clip leaves the graph, or a part of its work is void: what must happen with it in the same transaction."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Final

from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.cold_removals import note_removed
from cv_platform.storage.ledger.days import days_of, mark_dirty, midnight
from cv_platform.storage.ledger.held import HAS_OUTPUT, held_now, is_held, keep_outputs, keeps_output, unblock
from cv_platform.storage.ledger.model import STAGES, STILL_RUNNING, UPSTREAM, Claim, StaleClaim, downstream

KEY_HELD: Final = "key_held"
"""Quarantine code of new content under the key of a held clip."""
# Until when a worker that was stopped in mid-copy may still write what was withdrawn.
_LATE_COPY = timedelta(hours=1)


def lock_clip(connection: Connection, clip_id: uuid.UUID) -> None:
    """Lock the clip's row. Whoever changes a clip's stages locks the clip first."""
    connection.execute("SELECT 1 FROM cv.clips WHERE clip_id = %s FOR NO KEY UPDATE", [clip_id])


def supersede(connection: Connection, clip_id: uuid.UUID, *, by: uuid.UUID) -> set[date]:
    """Another content came under the clip's key: it and all that was made from it is withdrawn.

    Returns:
        The days that change; the caller marks them dirty when it has locked all else.
    """
    days = withdraw_clip(connection, clip_id)
    connection.execute(
        "UPDATE cv.clips SET state = 'superseded', superseded_by = %s, quarantine_stage = NULL, quarantine_code = NULL,"
        " quarantine_reason = NULL, quarantined_at = NULL, withdrawal_due = false WHERE clip_id = %s",
        [by, clip_id],
    )
    return days


def quarantine(connection: Connection, claim: Claim, *, code: str, reason: str) -> None:
    """The claimed clip cannot be processed: withdraw it with a reason. Raises StaleClaim where the claim is lost.

    A held clip that failed only at being made anew keeps what it has.
    """
    lock_clip(connection, claim.clip.clip_id)
    lock_claim(connection, claim)
    if keeps_output(connection, claim):
        keep_outputs(connection, [claim.clip.clip_id])
        return
    quarantine_clip(connection, claim.clip.clip_id, stage=claim.stage, code=code, reason=reason)


def quarantine_clip(connection: Connection, clip_id: uuid.UUID, *, stage: str, code: str, reason: str) -> None:
    """Withdraw a clip with a reason; the caller has locked its row.

    A held clip stops, and what was made of it stays until the hold ends.
    """
    held = held_now(connection, clip_id)
    days = set() if held else withdraw_clip(connection, clip_id)
    if held:
        connection.execute(
            "UPDATE cv.stages SET state = 'stopped', fence = fence + 1, input_generation = input_generation + 1,"
            " lease_expires_at = NULL WHERE clip_id = %s",
            [clip_id],
        )
    connection.execute(
        "UPDATE cv.stages SET state = 'failed', error = %s WHERE clip_id = %s AND stage = %s", [code, clip_id, stage]
    )
    connection.execute(
        "UPDATE cv.clips SET state = 'quarantined', quarantine_stage = %s, quarantine_code = %s,"
        " quarantine_reason = %s, quarantined_at = now(), withdrawal_due = %s WHERE clip_id = %s",
        [stage, code, reason, held, clip_id],
    )
    mark_dirty(connection, days)


def replay(database: Database, clip_ids: Iterable[uuid.UUID]) -> int:
    """Put quarantined clips back to the start of the graph; returns how many were. Others are left alone.

    One that came under the key of a held clip replaces that clip when the hold has ended, and is left until then. One
    that was refused at registration has no stages to go back to: `registration.admit`.
    """
    wanted = sorted(set(clip_ids))

    def work(connection: Connection) -> int:
        replayed = 0
        days: set[date] = set()
        for clip_id in wanted:
            row = connection.execute(
                "SELECT captured_at, duration_s, quarantine_code, upload_key, withdrawal_due FROM cv.clips"
                " WHERE clip_id = %s AND state = 'quarantined' AND quarantine_stage <> 'registration' FOR UPDATE",
                [clip_id],
            ).fetchone()
            if row is None:
                continue
            captured_at, duration_s, code, upload_key, withdrawal_due = row
            if code == KEY_HELD:
                superseded = _take_over(connection, clip_id, upload_key)
                if superseded is None:
                    continue
                days |= superseded
            held = withdrawal_due and held_now(connection, clip_id)
            if withdrawal_due and not held:
                days |= withdraw_clip(connection, clip_id)
            connection.execute(
                "UPDATE cv.clips SET state = CASE WHEN published_sha256 IS NULL THEN 'in_progress' ELSE 'published'"
                " END, quarantine_stage = NULL, quarantine_code = NULL, quarantine_reason = NULL,"
                " quarantined_at = NULL, withdrawal_due = false WHERE clip_id = %s",
                [clip_id],
            )
            connection.execute(
                # What a hold keeps stays, and is made anew after it.
                f"UPDATE cv.stages SET state = CASE WHEN %s AND {HAS_OUTPUT} THEN 'done'"
                " WHEN stage = %s THEN 'pending' ELSE 'blocked' END,"
                f" redo_after_hold = %s AND {HAS_OUTPUT}, fence = fence + 1, input_generation = input_generation + 1,"
                " attempts = 0, error = NULL, next_attempt_at = '-infinity', lease_expires_at = NULL"
                " WHERE clip_id = %s",
                [held, STAGES[0], held, clip_id],
            )
            if held:
                unblock(connection, [clip_id])
            days.update(days_of(captured_at, duration_s))
            replayed += 1
        mark_dirty(connection, days)
        return replayed

    return database.transact(work)


def _take_over(connection: Connection, clip_id: uuid.UUID, upload_key: str) -> set[date] | None:
    """Supersede what else the key holds; None where a hold forbids it, or newer content came under the key."""
    others = connection.execute(
        "SELECT o.clip_id, o.received_at > c.received_at FROM cv.clips c JOIN cv.clips o USING (upload_key)"
        " WHERE c.clip_id = %s AND o.upload_key = %s AND o.clip_id <> c.clip_id"
        " AND o.state IN ('in_progress', 'published', 'quarantined') ORDER BY o.clip_id",
        [clip_id, upload_key],
    ).fetchall()
    if any(newer for _, newer in others) or any([is_held(connection, other) for other, _ in others]):
        return None
    days: set[date] = set()
    for other, _ in others:
        days |= supersede(connection, other, by=clip_id)
    return days


def lock_claim(connection: Connection, claim: Claim) -> None:
    """Lock the claimed row. Raises StaleClaim unless lease, version and input are still the claim's."""
    found = connection.execute(
        f"SELECT 1 FROM cv.stages WHERE clip_id = %s AND stage = %s AND {STILL_RUNNING} AND fence = %s"
        " AND version = %s AND input_generation = %s FOR UPDATE",
        [claim.clip.clip_id, claim.stage, claim.fence, claim.version, claim.input_generation],
    ).fetchone()
    if found is None:
        raise StaleClaim(f"{claim.stage}: the claim was taken over or its input changed")


def invalidate_downstream(connection: Connection, clip_id: uuid.UUID, stage: str) -> None:
    """The stage has new output: those that read it start again, and whoever works on them now cannot commit."""
    after = downstream(stage)
    if not after:
        return
    ready = [name for name in after if stage in UPSTREAM[name]]
    connection.execute(
        "UPDATE cv.stages SET state = CASE WHEN stage = ANY(%s) THEN 'pending' ELSE 'blocked' END, fence = fence + 1,"
        " input_generation = input_generation + 1, attempts = 0, next_attempt_at = '-infinity',"
        " lease_expires_at = NULL, error = NULL"
        " WHERE clip_id = %s AND stage = ANY(%s) AND state NOT IN ('failed', 'stopped')",
        [ready, clip_id, list(after)],
    )


def delete_rows(connection: Connection, clip_id: uuid.UUID, tables: Iterable[str]) -> None:
    """Delete the clip's rows from warehouse tables. Camera and time range let the plan skip other days' partitions."""
    row = connection.execute(
        "SELECT camera_id, captured_at, duration_s, published_key FROM cv.clips WHERE clip_id = %s", [clip_id]
    ).fetchone()
    if row is None or row[1] is None:
        return
    camera_id, captured_at, duration_s, published_key = row
    days = days_of(captured_at, duration_s)
    tables = list(tables)
    for table in tables:
        if table == "events":
            # The end of a track is told by the clip that comes after it, however long after: no time range holds it.
            connection.execute("DELETE FROM warehouse.events WHERE clip_s3_key = %s", [published_key])
            continue
        connection.execute(
            f"DELETE FROM warehouse.{table} WHERE camera_id = %s AND clip_s3_key = %s"
            ' AND "timestamp" >= %s::timestamptz AND "timestamp" < %s::timestamptz',
            [camera_id, published_key, midnight(days[0]), midnight(days[-1] + timedelta(days=1))],
        )
    # Behind the deletions: their locks hold off the moment in which rows go from warm to cold.
    note_removed(connection, camera_id, published_key, days, tables)


def discard_objects(
    connection: Connection, store: str, keys: Iterable[str | None], *, again_after: timedelta | None = None
) -> None:
    """Leave objects to the collector, now, whatever was said of them before.

    Args:
        again_after: delete them once more then, since a worker that comes late may write them anew.
    """
    for key in sorted({key for key in keys if key}):
        connection.execute(
            "INSERT INTO cv.garbage (store, object_key, again_at) VALUES (%s, %s, now() + %s::interval)"
            " ON CONFLICT (store, object_key) DO UPDATE"
            " SET not_before = least(garbage.not_before, EXCLUDED.not_before),"
            " again_at = coalesce(EXCLUDED.again_at, garbage.again_at)",
            [store, key, again_after],
        )


def withdraw_clip(connection: Connection, clip_id: uuid.UUID) -> set[date]:
    """Take back all that was made of a clip; returns the days that change."""
    clip = connection.execute(
        "SELECT captured_at, duration_s, published_key, published_from FROM cv.clips WHERE clip_id = %s"
        " FOR NO KEY UPDATE",
        [clip_id],
    ).fetchone()
    if clip is None:
        return set()
    captured_at, duration_s, published_key, published_from = clip
    # No output is left to point at: else a clip that is replayed would keep what was withdrawn from the collector.
    outputs = connection.execute(
        "UPDATE cv.stages s SET state = 'stopped', fence = s.fence + 1, input_generation = s.input_generation + 1,"
        " lease_expires_at = NULL,"
        # The raw clip itself stays where it is, in the vault, until its own term.
        " output_key = CASE WHEN s.stage = 'raw_clips' THEN s.output_key END,"
        " output_sha256 = CASE WHEN s.stage = 'raw_clips' THEN s.output_sha256 END,"
        " finished_at = CASE WHEN s.stage = 'raw_clips' THEN s.finished_at END, redo_after_hold = false,"
        " output_deleted_at = CASE WHEN s.stage = 'raw_clips' OR s.output_key IS NULL THEN s.output_deleted_at"
        " ELSE now() END"
        " FROM (SELECT stage, output_key FROM cv.stages WHERE clip_id = %(id)s ORDER BY stage FOR UPDATE) old"
        " WHERE s.clip_id = %(id)s AND s.stage = old.stage RETURNING s.stage, old.output_key",
        {"id": clip_id},
    ).fetchall()
    # The camera's next clip begins from another state now; its row is locked before warehouse and days.
    retrack_after(connection, clip_id)
    days: set[date] = set()
    if captured_at is not None:
        delete_rows(connection, clip_id, ("detections", "tracks", "events"))
        connection.execute("DELETE FROM warehouse.clip_facts WHERE clip_id = %s", [clip_id])
        days = set(days_of(captured_at, duration_s))
    discard_objects(connection, "restricted", [key for stage, key in outputs if stage == "decoded_frames"])
    discard_objects(connection, "cold", [key for stage, key in outputs if stage in ("detections", "blurred_clips")])
    previews = connection.execute(
        "DELETE FROM cv.previews WHERE clip_id = %s RETURNING preview_key", [clip_id]
    ).fetchall()
    written_late = [published_key, *(key for (key,) in previews)]
    discard_objects(connection, "cold", [published_from])
    discard_objects(connection, "cold", written_late, again_after=_LATE_COPY)
    connection.execute(
        "UPDATE cv.clips SET published_from = NULL, published_sha256 = NULL, published_at = NULL, copied_sha256 = NULL,"
        " state = CASE state WHEN 'published' THEN 'in_progress' ELSE state END WHERE clip_id = %s",
        [clip_id],
    )
    return days


def retrack_after(connection: Connection, clip_id: uuid.UUID) -> None:
    """The clip leaves its camera's tracking: forget its state; the next tracked clip starts from another."""
    row = connection.execute(
        "DELETE FROM cv.track_states WHERE clip_id = %s RETURNING camera_id, captured_at", [clip_id]
    ).fetchone()
    if row is None:
        return
    camera_id, captured_at = row
    connection.execute(
        "UPDATE cv.stages SET state = 'pending', fence = fence + 1, input_generation = input_generation + 1,"
        " attempts = 0, next_attempt_at = '-infinity' WHERE stage = 'tracks' AND state = 'done' AND clip_id ="
        " (SELECT clip_id FROM cv.track_states WHERE camera_id = %s AND (captured_at, clip_id) > (%s, %s)"
        "  ORDER BY captured_at, clip_id LIMIT 1)",
        [camera_id, captured_at, clip_id],
    )
