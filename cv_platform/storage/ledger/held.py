"""Holds, as the ledger's own transactions meet them."""

from __future__ import annotations

import uuid

from cv_platform.storage.database import Connection


class Held(Exception):
    """A legal hold covers it: it must not be deleted or replaced."""


def is_held(connection: Connection, clip_id: uuid.UUID) -> bool:
    """Whether a hold in force covers the clip.

    Locks the clip's row: a hold placed at the same moment waits for what is being decided, or is seen by it.
    """
    connection.execute("SELECT 1 FROM cv.clips WHERE clip_id = %s FOR UPDATE", [clip_id])
    row = connection.execute("SELECT cv.held(%s)", [clip_id]).fetchone()
    return bool(row and row[0])


def freeze_held(connection: Connection, hold_id: uuid.UUID) -> int:
    """Lock the clips that a new hold covers, so that deletions under way end first; returns how many there are."""
    rows = connection.execute(
        "SELECT c.clip_id FROM cv.clips c JOIN cv.holds h ON h.hold_id = %s"
        " WHERE (h.clip_id IS NULL OR h.clip_id = c.clip_id) AND (h.site_id IS NULL OR h.site_id = c.site_id)"
        " AND (h.camera_id IS NULL OR h.camera_id = c.camera_id)"
        " AND h.starts_at <= coalesce(c.captured_at, c.received_at) + make_interval(secs => coalesce(c.duration_s, 0))"
        " AND h.ends_at > coalesce(c.captured_at, c.received_at)"
        " AND c.state IN ('in_progress', 'published', 'quarantined', 'superseded') ORDER BY c.clip_id FOR UPDATE OF c",
        [hold_id],
    ).fetchall()
    return len(rows)
