"""Clips whose rows became void while they were cold: readers leave them out, until their files are rewritten."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import date

from cv_platform.storage.cold.kinds import KINDS
from cv_platform.storage.database import Connection


def note_removed(
    connection: Connection, camera_id: str, clip_s3_key: str, days: Iterable[date], kinds: Iterable[str] = KINDS
) -> int:
    """A clip's rows are void: where they are cold, readers leave them out from this transaction's commit on.

    Returns:
        Files that are to be rewritten.
    """
    return connection.execute(
        "INSERT INTO cv.cold_removals (file_id, clip_s3_key) SELECT file_id, %(clip)s::text FROM cv.cold_files"
        " WHERE camera_id = %(camera)s AND state = 'live' AND kind = ANY(%(kinds)s) AND (day = ANY(%(days)s::date[])"
        " OR (later_clips <> '{}' AND later_clips @> ARRAY[%(clip)s::text])) ON CONFLICT DO NOTHING",
        {"clip": clip_s3_key, "camera": camera_id, "days": sorted(set(days)), "kinds": list(kinds)},
    ).rowcount


def to_rewrite(connection: Connection) -> list[tuple[str, date, list[str]]]:
    """Cameras' days with cold rows that are void, and the published keys of the clips that they are of."""
    return connection.execute(
        "SELECT f.camera_id, f.day, array_agg(DISTINCT r.clip_s3_key::text) FROM cv.cold_removals r"
        " JOIN cv.cold_files f USING (file_id) GROUP BY f.camera_id, f.day ORDER BY f.day, f.camera_id"
    ).fetchall()


def clear_removals(connection: Connection, file_id: uuid.UUID, clips: Iterable[str]) -> None:
    """The file holds no row of these clips."""
    connection.execute(
        "DELETE FROM cv.cold_removals WHERE file_id = %s AND clip_s3_key = ANY(%s)", [file_id, list(clips)]
    )
