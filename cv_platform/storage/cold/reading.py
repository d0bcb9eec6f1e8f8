"""Rows out of PostgreSQL, as Arrow batches, with bounded memory.

Detections are many and of one length on the wire once keys are padded: COPY's binary stream becomes NumPy columns
without a look at a single row. Tracks and events are few: an ordinary server-side cursor.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cv_platform.storage.binary_copy import HEADER, TRAILER
from cv_platform.storage.cold.kinds import COLUMNS, quoted, schema
from cv_platform.storage.database import Connection

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS: Final = 65_536
_EPOCH_US: Final = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
_ELEMENT: Final = np.dtype([("length", ">i4"), ("value", ">f4")])
_PAD: Final = b"\x01"
# One tuple of the COPY below but for the clip's key at its end: each field with its length before it.
_TUPLE: Final[list[tuple[Any, ...]]] = [
    ("fields", ">i2"),
    ("id_length", ">i4"), ("id", "V16"),
    ("timestamp_length", ">i4"), ("timestamp", ">i8"),
    ("class_length", ">i4"), ("class_id", ">i2"),
    ("confidence_length", ">i4"), ("confidence", ">f4"),
    ("bbox_length", ">i4"), ("dimensions", ">i4"), ("flags", ">i4"), ("oid", ">i4"), ("size", ">i4"),
    ("lower", ">i4"), ("bbox", _ELEMENT, (4,)),
    ("track_length", ">i4"), ("track_id", ">i4"),
    ("tracked_length", ">i4"), ("tracked", "u1"),
]  # fmt: skip
_AS_WRITTEN: Final = {"fields": 8, "bbox_length": 52, "dimensions": 1, "flags": 0, "size": 4}
_NO_FILE: Final = "a detection is not as the platform writes it: a bbox of four numbers, a key of plain ASCII"


def read_rows(
    connection: Connection,
    kind: str,
    table: str,
    camera_id: str,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    longest_key: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """A camera's rows in order of time, then id.

    Args:
        table: name in SQL.
        start, end: bounds of "timestamp"; `end` is exclusive.
        longest_key: characters of the longest clip_s3_key, where the caller knows it.

    Raises:
        ValueError: a row that no file can hold as it is, such as a bbox of other than four numbers.
    """
    where = "t.camera_id = %(camera)s"
    if start is not None:
        where += ' AND t."timestamp" >= %(start)s'
    if end is not None:
        where += ' AND t."timestamp" < %(end)s'
    values = {"camera": camera_id, "start": start, "end": end}
    if kind == "detections":
        yield from _detections(connection, table, camera_id, where, values, longest_key)
    else:
        yield from _few(connection, kind, table, where, values)


def key_length(connection: Connection, table: str, values: dict[str, Any] | None = None) -> int:
    """Characters of the longest clip_s3_key in a table; 0 where it is empty."""
    row = connection.execute(f"SELECT coalesce(max(length(clip_s3_key)), 0) FROM {table}", values).fetchone()
    return 0 if row is None else int(row[0])


def _detections(
    connection: Connection, table: str, camera_id: str, where: str, values: dict[str, Any], longest: int | None
) -> Iterator[pa.RecordBatch]:
    if longest is None:
        longest = key_length(connection, f"{table} t WHERE {where}", values)
    if longest == 0:
        return
    query = (
        'SELECT t.id, t."timestamp", t.class_id, t.confidence, t.bbox, coalesce(t.track_id, 0), t.track_id IS NOT NULL,'
        f' rpad(t.clip_s3_key, {longest}, chr({_PAD[0]})) FROM {table} t WHERE {where} ORDER BY t."timestamp", t.id'
    )
    layout = np.dtype([*_TUPLE, ("clip_length", ">i4"), ("clip", f"V{longest}")])
    with connection.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)", values):
        for block in _blocks(connection):
            yield _batch(block, layout, camera_id)


def _blocks(connection: Connection) -> Iterator[bytes]:
    """The stream's tuples, many at once. By libpq itself: psycopg's own reader waits for each tuple by itself."""
    from psycopg import errors, pq

    get = connection.pgconn.get_copy_data
    rows: list[Any] = []
    first = True
    while True:
        size, data = get(0)
        if size < 0:
            break
        if first:
            data, first = memoryview(data)[len(HEADER) :], False
        if len(data) == len(TRAILER):
            continue
        rows.append(data)
        if len(rows) == BATCH_ROWS:
            yield b"".join(rows)
            rows = []
    while (result := connection.pgconn.get_result()) is not None:
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise errors.OperationalError("PostgreSQL broke off while rows were read; try again")
    if rows:
        yield b"".join(rows)


def _batch(block: bytes, layout: np.dtype[Any], camera_id: str) -> pa.RecordBatch:
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(block) % layout.itemsize:
        raise ValueError(_NO_FILE)
    rows = np.frombuffer(block, layout)
    n = len(rows)
    if any((rows[name] != value).any() for name, value in _AS_WRITTEN.items()):
        raise ValueError(_NO_FILE)
    width = layout["clip"].itemsize
    keys = pa.Array.from_buffers(
        pa.binary(width), n, [None, pa.py_buffer(np.ascontiguousarray(rows["clip"]).tobytes())]
    ).dictionary_encode()
    clips = pc.utf8_rtrim(keys.dictionary.cast(pa.binary()).cast(pa.string()), _PAD.decode())
    ids = np.ascontiguousarray(rows["id"]).tobytes()
    stamps = rows["timestamp"].astype(np.int64) + _EPOCH_US
    boxes = np.ascontiguousarray(rows["bbox"]["value"]).astype(np.float32).reshape(-1)
    columns = {
        "id": pa.Array.from_buffers(pa.binary(16), n, [None, pa.py_buffer(ids)]),
        "camera_id": pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([camera_id])),
        "timestamp": pa.array(stamps).cast(pa.timestamp("us", tz="UTC")),
        "class_id": pa.array(rows["class_id"].astype(np.int16)),
        "confidence": pa.array(rows["confidence"].astype(np.float32)),
        "bbox": pa.ListArray.from_arrays(pa.array(np.arange(0, 4 * n + 1, 4, dtype=np.int32)), pa.array(boxes)),
        "track_id": pa.array(rows["track_id"].astype(np.int32), mask=rows["tracked"] == 0),
        "clip_s3_key": pa.DictionaryArray.from_arrays(keys.indices, clips),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in COLUMNS["detections"]], list(COLUMNS["detections"]))


def _few(connection: Connection, kind: str, table: str, where: str, values: dict[str, Any]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    texts = {"uuid": "uuid_send(t.{c})", "jsonb": "t.{c}::text"}
    chosen = ", ".join(texts.get(of, "t.{c}").format(c=quoted(name)) for name, of in COLUMNS[kind].items())
    with connection.cursor(name="cold_rows") as cursor:
        cursor.execute(f'SELECT {chosen} FROM {table} t WHERE {where} ORDER BY t."timestamp", t.id', values)
        while rows := cursor.fetchmany(BATCH_ROWS // 4):
            columns = zip(*rows, strict=True)
            yield pa.RecordBatch.from_arrays(
                [pa.array(column, field.type) for column, field in zip(columns, schema(kind), strict=True)],
                schema=schema(kind),
            )
