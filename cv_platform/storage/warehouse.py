"""The warm warehouse: detections, tracks and events of the last weeks, a partition a day."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
import numpy.typing as npt

from cv_platform.storage.binary_copy import blocks, float4, float4_arrays, int2, text, timestamps, uuids
from cv_platform.storage.database import Connection, Database


@dataclass(frozen=True)
class DetectionRows:
    """Detections of one clip as columns.

    Attributes:
        frames: int32 (N,), index of the frame in the clip.
        timestamps: datetime64[us] (N,), UTC.
        class_ids: int16 (N,).
        confidences: float32 (N,).
        boxes: float32 (N, 4), x1, y1, x2, y2 normalised to 0..1.
        ids: N UUIDs, or their 16 bytes each as an array of V16.
    """

    frames: npt.NDArray[np.int32]
    timestamps: npt.NDArray[np.datetime64]
    class_ids: npt.NDArray[np.int16]
    confidences: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]
    ids: Sequence[uuid.UUID] | npt.NDArray[np.void]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class TrackRow:
    """One track's part in one clip."""

    id: uuid.UUID
    timestamp: datetime
    track_day: date
    track_id: int
    class_id: int
    last_seen_at: datetime
    detections: int
    confidence: float


@dataclass(frozen=True)
class EventRow:
    """Something that happened at a camera."""

    id: uuid.UUID
    timestamp: datetime
    kind: str
    class_id: int
    track_id: int
    track_day: date


def ensure_days(database: Database, days: Iterable[date]) -> None:
    """Make the days' partitions, in transactions of their own: a commit must not hold the locks that this takes."""
    for day in sorted(set(days)):
        with database.transaction() as connection:
            connection.execute("SELECT warehouse.ensure_day(%s)", [day])


def write_detections(connection: Connection, camera_id: str, clip_s3_key: str, rows: DetectionRows) -> None:
    """COPY a clip's detections, binary; the caller has deleted the old ones."""
    columns = [
        uuids(rows.ids),
        text(camera_id),
        timestamps(rows.timestamps),
        int2(rows.class_ids),
        float4(rows.confidences),
        float4_arrays(rows.boxes),
        text(clip_s3_key),
    ]
    with (
        connection.cursor() as cursor,
        cursor.copy(
            'COPY warehouse.detections (id, camera_id, "timestamp", class_id, confidence, bbox, clip_s3_key)'
            " FROM STDIN (FORMAT binary)"
        ) as copy,
    ):
        for block in blocks(len(rows), columns):
            copy.write(block)


def read_detections(
    connection: Connection, camera_id: str, clip_s3_key: str, start: datetime, end: datetime
) -> list[tuple[uuid.UUID, datetime, int, float, list[float]]]:
    """A clip's detections: id, time, class, confidence, box; in order of time, then id. `end` is exclusive."""
    return connection.execute(
        'SELECT id, "timestamp", class_id, confidence, bbox FROM warehouse.detections WHERE camera_id = %s'
        ' AND clip_s3_key = %s AND "timestamp" >= %s AND "timestamp" < %s ORDER BY "timestamp", id',
        [camera_id, clip_s3_key, start, end],
    ).fetchall()


def set_track_ids(
    connection: Connection,
    camera_id: str,
    clip_s3_key: str,
    start: datetime,
    end: datetime,
    track_ids: dict[uuid.UUID, int],
) -> None:
    """Give a clip's detections the ids of their tracks, and take those that others had. `end` is exclusive."""
    connection.execute(
        "UPDATE warehouse.detections SET track_id = NULL WHERE camera_id = %s AND clip_s3_key = %s"
        ' AND "timestamp" >= %s AND "timestamp" < %s AND track_id IS NOT NULL',
        [camera_id, clip_s3_key, start, end],
    )
    connection.execute(
        "UPDATE warehouse.detections d SET track_id = t.track_id"
        " FROM unnest(%s::uuid[], %s::int[]) AS t (id, track_id)"
        ' WHERE d.id = t.id AND d.camera_id = %s AND d."timestamp" >= %s AND d."timestamp" < %s',
        [list(track_ids), list(track_ids.values()), camera_id, start, end],
    )


def write_tracks(connection: Connection, camera_id: str, clip_s3_key: str, rows: Iterable[TrackRow]) -> None:
    """COPY a clip's tracks; the caller has deleted the old ones."""
    with (
        connection.cursor() as cursor,
        cursor.copy(
            'COPY warehouse.tracks (id, camera_id, "timestamp", track_day, track_id, class_id, last_seen_at,'
            " detections, confidence, clip_s3_key) FROM STDIN"
        ) as copy,
    ):
        for row in rows:
            copy.write_row(
                (
                    row.id,
                    camera_id,
                    row.timestamp,
                    row.track_day,
                    row.track_id,
                    row.class_id,
                    row.last_seen_at,
                    row.detections,
                    row.confidence,
                    clip_s3_key,
                )
            )


def write_events(connection: Connection, camera_id: str, clip_s3_key: str, rows: Iterable[EventRow]) -> None:
    """COPY a clip's events; the caller has deleted the old ones."""
    with (
        connection.cursor() as cursor,
        cursor.copy(
            'COPY warehouse.events (id, camera_id, "timestamp", kind, class_id, track_id, attributes, clip_s3_key)'
            " FROM STDIN"
        ) as copy,
    ):
        for row in rows:
            copy.write_row(
                (
                    row.id,
                    camera_id,
                    row.timestamp,
                    row.kind,
                    row.class_id,
                    row.track_id,
                    f'{{"track_day": "{row.track_day.isoformat()}"}}',
                    clip_s3_key,
                )
            )
