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
    key_lengths: tuple[int, int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """A camera's rows in order of time, then id.

    Args:
        table: name in SQL.
        start, end: bounds of "timestamp"; `end` is exclusive.
        key_lengths: bytes of the shortest and of the longest clip_s3_key, where the caller knows them.

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
        yield from _detections(connection, table, camera_id, where, values, key_lengths)
    else:
        yield from _few(connection, kind, table, where, values)


def _detections(
    connection: Connection,
    table: str,
    camera_id: str,
    where: str,
    values: dict[str, Any],
    lengths: tuple[int, int] | None,
) -> Iterator[pa.RecordBatch]:
    if lengths is None:
        row = connection.execute(
            f"SELECT min(octet_length(clip_s3_key)), max(octet_length(clip_s3_key)) FROM {table} t WHERE {where}",
            values,
        ).fetchone()
        if row is None or row[0] is None:
            return
        lengths = (row[0], row[1])
    shortest, longest = lengths
    # Padding is a function's call a row; keys that the platform makes are of one length.
    key = "t.clip_s3_key" if shortest == longest else f"rpad(t.clip_s3_key, {longest}, chr({_PAD[0]}))"
    query = (
        'SELECT t.id, t."timestamp", t.class_id, t.confidence, t.bbox, coalesce(t.track_id, 0), t.track_id IS NOT NULL,'
        f' {key} FROM {table} t WHERE {where} ORDER BY t."timestamp", t.id'
    )
    layout = np.dtype([*_TUPLE, ("clip_length", ">i4"), ("clip", f"V{longest}")])
    with connection.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)", values):
        for block in _blocks(connection, layout.itemsize):
            yield _batch(block, layout, camera_id)


def _blocks(connection: Connection, width: int) -> Iterator[memoryview]:
    """The stream's tuples, each of `width` bytes, many at once.

    By libpq itself, since psycopg's own reader waits for each tuple by itself; and copied to their place at once, since
    a list of millions of small views costs more than all that is done with them.

    Raises:
        ValueError: a tuple of another length.
    """
    from psycopg import errors, pq

    get = connection.pgconn.get_copy_data
    block, at, first = bytearray(BATCH_ROWS * width), 0, True
    while True:
        size, data = get(0)
        if size < 0:
            break
        if first:
            data, first = memoryview(data)[len(HEADER) :], False
        if len(data) != width:
            if len(data) == len(TRAILER):
                continue
            raise ValueError(_NO_FILE)
        block[at : at + width] = data
        at += width
        if at == len(block):
            yield memoryview(block)
            block, at = bytearray(BATCH_ROWS * width), 0
    while (result := connection.pgconn.get_result()) is not None:
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise errors.OperationalError("PostgreSQL broke off while rows were read; try again")
    if at:
        yield memoryview(block)[:at]


def _batch(block: memoryview, layout: np.dtype[Any], camera_id: str) -> pa.RecordBatch:
    import pyarrow as pa
    import pyarrow.compute as pc

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
