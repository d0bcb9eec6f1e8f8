"""How many rows there are and a checksum over every column, of the warm side by a query and of a file by reading it.

A row's hash runs through all of its columns; the rows' hashes are joined by XOR, so that their order does not matter.
No two rows are the same (the table's key sees to it), so that none take each other out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from cv_platform.storage.cold.hashes import (
    Hashes,
    hash_bytes,
    hash_float4,
    hash_float4_arrays,
    hash_int4,
    hash_int8,
    hash_texts,
)
from cv_platform.storage.cold.kinds import COLUMNS, quoted
from cv_platform.storage.database import Connection

if TYPE_CHECKING:
    import pyarrow as pa

# Stands for NULL where a hash is made; no id of a track or class is that low.
_NULL: Final = -(2**31)
_EPOCH_US: Final = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
_EPOCH_DAY: Final = date(2000, 1, 1)
_EPOCH_DAYS: Final = (_EPOCH_DAY - date(1970, 1, 1)).days
# These two first: in a file of one camera they have few values, each hashed once.
_FIRST: Final = ("camera_id", "clip_s3_key")


@dataclass(frozen=True)
class Checksum:
    """Rows and the XOR of their hashes, as PostgreSQL's bigint."""

    rows: int = 0
    value: int = 0

    def __add__(self, other: Checksum) -> Checksum:
        return Checksum(self.rows + other.rows, self.value ^ other.value)


@dataclass(frozen=True)
class Survey:
    """What one pass over a camera's rows tells.

    Attributes:
        key_lengths: bytes of the shortest and of the longest clip_s3_key.
    """

    checksum: Checksum
    key_lengths: tuple[int, int]


def survey_table(connection: Connection, kind: str, table: str, *, camera_id: str | None = None) -> dict[str, Survey]:
    """What is to be known of each camera's rows in a table before they are read, by one pass of PostgreSQL over it.

    Args:
        table: name in SQL, such as `warehouse.detections_20260301`.
        camera_id: only this camera's.
    """
    connection.execute("SET LOCAL timezone = 'UTC'")  # the hash of a time is that of its UTC reading
    rows = connection.execute(
        f"SELECT camera_id, count(*), bit_xor({_sql_hash(kind)}), min(octet_length(clip_s3_key)),"
        f" max(octet_length(clip_s3_key)) FROM {table}"
        " WHERE (%(camera)s::text IS NULL OR camera_id = %(camera)s) GROUP BY camera_id",
        {"camera": camera_id},
    ).fetchall()
    return {camera: Survey(Checksum(count, value), (low, high)) for camera, count, value, low, high in rows}


def of_table(connection: Connection, kind: str, table: str, *, camera_id: str | None = None) -> dict[str, Checksum]:
    """The checksum of each camera's rows in a table; see `survey_table`."""
    found = survey_table(connection, kind, table, camera_id=camera_id)
    return {camera: survey.checksum for camera, survey in found.items()}


def of_batch(kind: str, camera_id: str, batch: pa.RecordBatch) -> Checksum:
    """The checksum of rows of one camera, columns as in `kinds.schema`; text may be dictionary-encoded.

    Raises:
        ValueError: there is a row of another camera.
    """
    if batch.num_rows == 0:
        return Checksum()
    if set(batch.column("camera_id").unique().to_pylist()) != {camera_id}:
        raise ValueError("a file of one camera holds rows of another")
    start = hash_texts([camera_id.encode()], np.zeros(1, np.uint64))
    seeds = _hash_repeated(batch.column("clip_s3_key"), start)
    for name, of in _rest(kind):
        seeds = _hash_column(batch.column(name), of, seeds)
    return Checksum(batch.num_rows, int(np.bitwise_xor.reduce(seeds).astype(np.int64)))


def _rest(kind: str) -> list[tuple[str, str]]:
    return [(name, of) for name, of in COLUMNS[kind].items() if name not in _FIRST]


def _sql_hash(kind: str) -> str:
    found = "hashtextextended(clip_s3_key, hashtextextended(camera_id, 0))"
    calls = {
        "uuid": "uuid_hash_extended({c}, {h})",
        "text": "hashtextextended({c}, {h})",
        "timestamptz": "timestamp_hash_extended({c}::timestamp, {h})",
        "date": f"hashint4extended({{c}} - date '{_EPOCH_DAY}', {{h}})",
        "int2": "hashint2extended({c}, {h})",
        "int4": "hashint4extended({c}, {h})",
        "int2?": f"hashint4extended(coalesce({{c}}::integer, {_NULL}), {{h}})",
        "int4?": f"hashint4extended(coalesce({{c}}, {_NULL}), {{h}})",
        "float4": "hashfloat4extended({c}, {h})",
        "float4[]": "hash_array_extended({c}, {h})",
        "jsonb": "hashtextextended({c}::text, {h})",
    }
    for name, of in _rest(kind):
        found = calls[of].format(c=quoted(name), h=found)
    return found


def _hash_repeated(column: pa.Array, start: Hashes) -> Hashes:
    """Hashes of texts of which few differ."""
    import pyarrow as pa

    encoded = column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()
    values = [str(value).encode() for value in encoded.dictionary.to_pylist()]
    hashes = hash_texts(values, np.repeat(start, len(values)))
    return np.asarray(hashes[encoded.indices.to_numpy(zero_copy_only=False)])


def _hash_column(column: pa.Array, of: str, seeds: Hashes) -> Hashes:
    import pyarrow as pa

    if of == "uuid":
        return hash_bytes(uuid_bytes(column), seeds)
    if of in ("text", "jsonb"):
        plain = column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
        return hash_texts([str(value).encode() for value in plain.to_pylist()], seeds)
    if of == "timestamptz":
        return hash_int8(column.cast(pa.int64()).to_numpy(zero_copy_only=False) - _EPOCH_US, seeds)
    if of == "date":
        return hash_int4(column.cast(pa.int32()).to_numpy(zero_copy_only=False) - _EPOCH_DAYS, seeds)
    if of == "float4[]":
        return hash_float4_arrays(boxes(column), seeds)
    if of == "float4":
        return hash_float4(column.to_numpy(zero_copy_only=False), seeds)
    filled = column.cast(pa.int32()).fill_null(_NULL) if of.endswith("?") else column
    return hash_int4(filled.to_numpy(zero_copy_only=False), seeds)


def uuid_bytes(column: pa.Array) -> npt.NDArray[np.uint8]:
    """A column of ids as (N, 16) bytes."""
    import pyarrow as pa

    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    data = np.frombuffer(storage.buffers()[1], np.uint8)
    return data[16 * storage.offset : 16 * (storage.offset + len(storage))].reshape(-1, 16)


def boxes(column: pa.Array) -> npt.NDArray[np.float32]:
    """A column of boxes as (N, 4). Raises ValueError where one has not four numbers."""
    flat: Any = column.flatten()
    if flat.null_count or len(flat) != 4 * len(column):
        raise ValueError("a bbox has not four numbers; allowed is x1, y1, x2, y2")
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, 4)
