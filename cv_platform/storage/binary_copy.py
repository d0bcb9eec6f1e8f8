"""PostgreSQL's binary COPY from NumPy columns: rows of one clip have one length, so they are one structured array.

Format: the PostgreSQL manual, COPY, "Binary Format": a header, then per tuple the number of fields and per field its
length and bytes, all big-endian, then a trailer.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
_EPOCH_US: Final = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
_FLOAT4_OID: Final = 700
_BLOCK_ROWS: Final = 65_536

# A column of a binary COPY: name, NumPy dtype of its bytes on the wire, and the values or one value for all rows.
Column = tuple[str, Any, Any]


def uuids(ids: Sequence[uuid.UUID] | npt.NDArray[np.void]) -> Column:
    """A uuid column: `uuid.UUID`s, or an array of 16-byte void values."""
    if isinstance(ids, np.ndarray):
        return ("uuid", "V16", ids)
    return ("uuid", "V16", np.frombuffer(b"".join(row_id.bytes for row_id in ids), "V16"))


def text(value: str) -> Column:
    """A text column with the same value in every row."""
    encoded = value.encode()
    return ("text", f"V{len(encoded)}", np.void(encoded))


def timestamps(values: npt.NDArray[np.datetime64]) -> Column:
    """A timestamptz column: datetime64[us], UTC."""
    return ("timestamptz", ">i8", values.astype("datetime64[us]").astype(np.int64) - _EPOCH_US)


def int2(values: npt.NDArray[Any]) -> Column:
    """A smallint column."""
    return ("int2", ">i2", values)


def float4(values: npt.NDArray[Any]) -> Column:
    """A real column."""
    return ("float4", ">f4", values)


def float4_arrays(values: npt.NDArray[np.float32]) -> Column:
    """A real[] column: (N, K) values, K the same in every row."""
    k = values.shape[1]
    element = np.dtype([("length", ">i4"), ("value", ">f4")])
    wire = np.dtype(
        [
            ("dimensions", ">i4"),
            ("flags", ">i4"),
            ("oid", ">i4"),
            ("size", ">i4"),
            ("lower", ">i4"),
            ("e", element, (k,)),
        ]
    )
    rows = np.empty(len(values), wire)
    for name, value in (("dimensions", 1), ("flags", 0), ("oid", _FLOAT4_OID), ("size", k), ("lower", 1)):
        rows[name] = value
    rows["e"]["length"] = 4
    rows["e"]["value"] = values
    return ("float4[]", wire, rows)


def blocks(rows: int, columns: Sequence[Column]) -> Iterator[bytes]:
    """The COPY stream: header, rows in blocks, trailer. Memory is bounded by a block beside the columns.

    Args:
        rows: how many.
        columns: in the order of the COPY's column list.
    """
    fields: list[tuple[str, Any]] = [("count", ">i2")]
    for n, (_, dtype, _) in enumerate(columns):
        fields += [(f"length{n}", ">i4"), (f"value{n}", dtype)]
    wire = np.dtype(fields)
    yield HEADER
    for start in range(0, rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, rows)
        block = np.empty(stop - start, wire)
        block["count"] = len(columns)
        for n, (_, _, values) in enumerate(columns):
            block[f"length{n}"] = wire[f"value{n}"].itemsize
            block[f"value{n}"] = values if np.ndim(values) == 0 else values[start:stop]
        yield block.tobytes()
    yield TRAILER
