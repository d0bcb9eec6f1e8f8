"""Holds, as the ledger's own transactions meet them.

Whoever deletes or replaces what belongs to a clip locks the clip's row first and asks then: a hold that is being placed
locks the same rows, so one of the two sees the other. Locks go in one order: camera head, clips by id, stages.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.model import STAGES, UPSTREAM, Claim

_OPEN = "state IN ('blocked', 'pending', 'running')"
# What a stage made is there: whoever takes it away says so in one of the two.
HAS_OUTPUT = "finished_at IS NOT NULL AND output_deleted_at IS NULL"

# That a hold `h` covers a clip `c`, whether or not it is in force.
_COVERS = (
    "(h.clip_id IS NULL OR h.clip_id = c.clip_id) AND (h.site_id IS NULL OR h.site_id = c.site_id)"
    " AND (h.camera_id IS NULL OR h.camera_id = c.camera_id)"
    " AND h.starts_at <= coalesce(c.captured_at, c.received_at) + make_interval(secs => coalesce(c.duration_s, 0))"
    " AND h.ends_at > coalesce(c.captured_at, c.received_at)"
)


class Held(Exception):
    """A legal hold covers it: it must not be deleted or replaced."""


def is_held(connection: Connection, clip_id: uuid.UUID) -> bool:
    """Whether a hold in force covers the clip.

    Locks the clip's row: a hold placed at the same moment waits for what is being decided, or is seen by it.
    """
    connection.execute("SELECT 1 FROM cv.clips WHERE clip_id = %s FOR UPDATE", [clip_id])
    return held_now(connection, clip_id)


def held_now(connection: Connection, clip_id: uuid.UUID) -> bool:
    """Whether a hold in force covers the clip, whose row the caller has locked in an earlier statement."""
    row = connection.execute("SELECT cv.held(%s)", [clip_id]).fetchone()
    return bool(row and row[0])


def freeze_held(connection: Connection, hold_id: uuid.UUID) -> int:
    """Lock the clips that a new hold covers, so that deletions under way end first; returns how many there are.

    What was about to be made anew stays as it is.
    """
    rows = connection.execute(
        f"SELECT c.clip_id FROM cv.clips c JOIN cv.holds h ON h.hold_id = %s WHERE {_COVERS}"
        " AND c.state IN ('in_progress', 'published', 'quarantined', 'superseded') ORDER BY c.clip_id FOR UPDATE OF c",
        [hold_id],
    ).fetchall()
    keep_outputs(connection, [clip_id for (clip_id,) in rows])
    return len(rows)


def covered_states(connection: Connection, hold_id: uuid.UUID) -> dict[str, int]:
    """Clips that a hold covers, in force or not, by their state."""
    return dict(
        connection.execute(
            f"SELECT c.state, count(*) FROM cv.clips c JOIN cv.holds h ON h.hold_id = %s WHERE {_COVERS} GROUP BY 1",
            [hold_id],
        ).fetchall()
    )


def is_replaced(connection: Connection, clip_id: uuid.UUID, etag: str) -> bool:
    """Whether what lies under a held clip's upload key is not what was registered: it must not pass for the clip.

    Without a hold the new content is registered soon, and supersedes the clip whatever was made of it.
    """
    row = connection.execute(
        "SELECT cv.held(clip_id) AND etag <> %s AND %s <> ALL(other_etags) FROM cv.clips WHERE clip_id = %s",
        [etag, etag, clip_id],
    ).fetchone()
    return bool(row and row[0])


def keeps_output(connection: Connection, claim: Claim) -> bool:
    """Whether a hold forbids the claim's commit: it would replace what the stage made before.

    The caller has locked the clip.
    """
    row = connection.execute(
        f"SELECT {HAS_OUTPUT} FROM cv.stages WHERE clip_id = %s AND stage = %s", [claim.clip.clip_id, claim.stage]
    ).fetchone()
    return bool(row and row[0]) and held_now(connection, claim.clip.clip_id)


def keep_outputs(connection: Connection, clip_ids: Sequence[uuid.UUID]) -> None:
    """Freeze the stages of held clips that were to be made anew; the others go on from what is there.

    The caller has locked the clips.
    """
    if not clip_ids:
        return
    frozen = connection.execute(
        "UPDATE cv.stages s SET state = 'frozen', redo_after_hold = true, fence = s.fence + 1,"
        " input_generation = s.input_generation + 1, lease_expires_at = NULL, attempts = 0, error = NULL,"
        " next_attempt_at = '-infinity' FROM (SELECT clip_id, stage FROM cv.stages"
        f" WHERE clip_id = ANY(%s) AND {_OPEN} AND {HAS_OUTPUT} ORDER BY clip_id, stage FOR UPDATE) old"
        " WHERE s.clip_id = old.clip_id AND s.stage = old.stage RETURNING s.clip_id",
        [list(clip_ids)],
    ).fetchall()
    unblock(connection, sorted({clip_id for (clip_id,) in frozen}))


def unblock(connection: Connection, clip_ids: Sequence[uuid.UUID]) -> None:
    """Let stages go on whose input is done or frozen."""
    for stage in STAGES:
        if clip_ids and UPSTREAM[stage]:
            connection.execute(
                "UPDATE cv.stages s SET state = 'pending', next_attempt_at = '-infinity' WHERE s.clip_id = ANY(%s)"
                " AND s.stage = %s AND s.state = 'blocked' AND NOT EXISTS (SELECT 1 FROM cv.stages u"
                " WHERE u.clip_id = s.clip_id AND u.stage = ANY(%s) AND u.state NOT IN ('done', 'frozen'))",
                [list(clip_ids), stage, list(UPSTREAM[stage])],
            )
