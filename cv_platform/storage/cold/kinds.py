"""The kinds of rows that go cold, and the columns of each: in a file exactly those of the warm table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

KINDS: Final = ("detections", "tracks", "events")

# Columns of the warm tables in their order, with their type: uuid, text, timestamptz, date, int2, int4, float4,
# float4[], jsonb. A `?` behind it: may be NULL.
COLUMNS: Final[dict[str, dict[str, str]]] = {
    "detections": {
        "id": "uuid",
        "camera_id": "text",
        "timestamp": "timestamptz",
        "class_id": "int2",
        "confidence": "float4",
        "bbox": "float4[]",
        "track_id": "int4?",
        "clip_s3_key": "text",
    },
    "tracks": {
        "id": "uuid",
        "camera_id": "text",
        "timestamp": "timestamptz",
        "track_day": "date",
        "track_id": "int4",
        "class_id": "int2",
        "last_seen_at": "timestamptz",
        "detections": "int4",
        "confidence": "float4",
        "clip_s3_key": "text",
    },
    "events": {
        "id": "uuid",
        "camera_id": "text",
        "timestamp": "timestamptz",
        "kind": "text",
        "class_id": "int2?",
        "track_id": "int4?",
        "attributes": "jsonb",
        "clip_s3_key": "text",
    },
}


def quoted(column: str) -> str:
    """The column in SQL."""
    return f'"{column}"'


def schema(kind: str) -> pa.Schema:
    """The columns as Arrow has them while they are moved: ids as their 16 bytes, JSON as text."""
    import pyarrow as pa

    types = {
        "uuid": pa.binary(16),
        "text": pa.string(),
        "timestamptz": pa.timestamp("us", tz="UTC"),
        "date": pa.date32(),
        "int2": pa.int16(),
        "int4": pa.int32(),
        "float4": pa.float32(),
        "float4[]": pa.list_(pa.float32()),
        "jsonb": pa.string(),
    }
    return pa.schema(
        [pa.field(name, types[of.rstrip("?")], nullable=of.endswith("?")) for name, of in COLUMNS[kind].items()]
    )
