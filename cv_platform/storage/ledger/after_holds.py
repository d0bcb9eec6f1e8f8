"""What holds put off, done when none covers the clip any more."""

from __future__ import annotations

import uuid

from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.days import mark_dirty
from cv_platform.storage.ledger.held import unblock
from cv_platform.storage.ledger.model import downstream
from cv_platform.storage.ledger.withdrawal import withdraw_clip

# What must still be there for a stage to be made anew.
_INPUT = {
    "raw_clips": "c.raw_deleted_at IS NULL",
    "decoded_frames": "c.raw_deleted_at IS NULL",
    "blurred_clips": "c.raw_deleted_at IS NULL",
    "detections": "EXISTS (SELECT 1 FROM cv.stages u WHERE u.clip_id = s.clip_id AND u.stage = 'decoded_frames'"
    " AND u.output_deleted_at IS NULL AND u.finished_at IS NOT NULL)",
    "tracks": "EXISTS (SELECT 1 FROM warehouse.clip_facts f WHERE f.clip_id = s.clip_id)",
}


def resume_after_holds(database: Database, *, limit: int = 200) -> int:
    """Take back what was quarantined while it was held, and make anew what kept an older version's work.

    Returns:
        How many clips it was. Asks for a batch: call it until it returns 0.
    """

    def work(connection: Connection) -> int:
        due = connection.execute(
            "SELECT clip_id FROM cv.clips WHERE withdrawal_due AND NOT cv.held(clip_id)"
            " UNION SELECT clip_id FROM cv.stages WHERE redo_after_hold AND NOT cv.held(clip_id) LIMIT %s",
            [limit],
        ).fetchall()
        ids = _free(connection, [clip_id for (clip_id,) in due])
        days = set()
        for clip_id, withdrawal_due in ids:
            if withdrawal_due:
                days |= withdraw_clip(connection, clip_id)
                connection.execute("UPDATE cv.clips SET withdrawal_due = false WHERE clip_id = %s", [clip_id])
            else:
                _redo(connection, clip_id)
        mark_dirty(connection, days)
        return len(ids)

    return database.transact(work)


def _free(connection: Connection, clip_ids: list[uuid.UUID]) -> list[tuple[uuid.UUID, bool]]:
    """Lock clips; those that no hold covers now, each with whether it is to be taken back."""
    connection.execute("SELECT 1 FROM cv.clips WHERE clip_id = ANY(%s) ORDER BY clip_id FOR NO KEY UPDATE", [clip_ids])
    return connection.execute(
        "SELECT clip_id, withdrawal_due FROM cv.clips WHERE clip_id = ANY(%s) AND NOT cv.held(clip_id)"
        " ORDER BY clip_id",
        [clip_ids],
    ).fetchall()


def _redo(connection: Connection, clip_id: uuid.UUID) -> None:
    """Send the clip's stages that a hold froze back to work, where their inputs are still there."""
    marked = connection.execute(
        "UPDATE cv.stages SET redo_after_hold = false WHERE clip_id = %s AND redo_after_hold RETURNING stage", [clip_id]
    ).fetchall()
    for (stage,) in marked:
        again = connection.execute(
            "UPDATE cv.stages s SET state = 'blocked', fence = s.fence + 1, input_generation = s.input_generation + 1,"
            " attempts = 0, next_attempt_at = '-infinity', lease_expires_at = NULL FROM cv.clips c"
            " WHERE s.clip_id = %s AND s.stage = %s AND c.clip_id = s.clip_id AND s.state IN ('done', 'frozen')"
            f" AND c.state IN ('in_progress', 'published') AND {_INPUT[stage]}",
            [clip_id, stage],
        ).rowcount
        if again:
            # Whoever works on what is made anew must not commit.
            connection.execute(
                "UPDATE cv.stages SET state = 'blocked', fence = fence + 1, input_generation = input_generation + 1,"
                " lease_expires_at = NULL WHERE clip_id = %s AND stage = ANY(%s) AND state IN ('pending', 'running')",
                [clip_id, list(downstream(stage))],
            )
    connection.execute(
        "UPDATE cv.stages SET state = 'pending' WHERE clip_id = %s AND stage = 'raw_clips' AND state = 'blocked'",
        [clip_id],
    )
    unblock(connection, [clip_id])
