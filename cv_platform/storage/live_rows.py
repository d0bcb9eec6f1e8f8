"""Rows of live producers in the warm tier: written once, however often they come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from cv_platform.storage.database import Connection
from cv_platform.storage.hot_stream import LiveFrame


def live_key(frame: LiveFrame) -> str:
    """What stands in `clip_s3_key` of a row that no clip gave: no object has this key."""
    return f"live/{frame.camera_id}/{frame.seen_at.astimezone(UTC):%Y-%m-%d}"


def write_live(connection: Connection, frames: Sequence[LiveFrame]) -> int:
    """Write the frames' detections that are not there yet; returns how many were written.

    The days' partitions are there.
    """
    rows = [
        (row_id, frame.camera_id, frame.seen_at, d.class_id, d.confidence, list(d.box), live_key(frame))
        for frame in frames
        for row_id, d in zip(frame.row_ids(), frame.detections, strict=True)
    ]
    if not rows:
        return 0
    connection.execute(
        "CREATE TEMPORARY TABLE live_rows (id uuid, camera_id text, at timestamptz, class_id smallint,"
        " confidence float4, bbox float4[], clip_s3_key text) ON COMMIT DROP"
    )
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY live_rows FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row(row)
    # In the key's order: two drains that have the same rows wait for each other, and do not block each other.
    return connection.execute(
        'INSERT INTO warehouse.detections (id, camera_id, "timestamp", class_id, confidence, bbox, clip_s3_key)'
        " SELECT DISTINCT ON (camera_id, at, id) id, camera_id, at, class_id, confidence, bbox, clip_s3_key"
        ' FROM live_rows ORDER BY camera_id, at, id ON CONFLICT (camera_id, "timestamp", id) DO NOTHING'
    ).rowcount
