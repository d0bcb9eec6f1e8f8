"""The columns of the warehouse's tables, as the UI shows them and as a check holds them."""

from __future__ import annotations

from typing import Final

import dagster as dg

_C = dg.TableColumn

DETECTIONS: Final = dg.TableSchema(
    columns=[
        _C("id", "uuid", "UUIDv5 of clip, model version, frame and index"),
        _C("camera_id", "character varying", "unique in the deployment"),
        _C("timestamp", "timestamp with time zone", "UTC, of the frame"),
        _C("class_id", "smallint", "COCO 0..79, face 1000, licence plate 1001"),
        _C("confidence", "real", "0..1"),
        _C("bbox", "ARRAY", "x1, y1, x2, y2, normalised to 0..1"),
        _C("track_id", "integer", "counts per camera and UTC day of first sighting; empty where not tracked"),
        _C("clip_s3_key", "character varying", "stable key of the published clip"),
    ]
)

TRACKS: Final = dg.TableSchema(
    columns=[
        _C("id", "uuid", "UUIDv5 of clip, day and track"),
        _C("camera_id", "character varying", "unique in the deployment"),
        _C("timestamp", "timestamp with time zone", "first sighting in this clip, UTC"),
        _C("track_day", "date", "UTC day of the track's first sighting"),
        _C("track_id", "integer", "counts per camera_id and track_day"),
        _C("class_id", "smallint", "COCO 0..79"),
        _C("last_seen_at", "timestamp with time zone", "last sighting in this clip, UTC"),
        _C("detections", "integer", "in this clip"),
        _C("confidence", "real", "mean in this clip, 0..1"),
        _C("clip_s3_key", "character varying", "stable key of the published clip"),
    ]
)
