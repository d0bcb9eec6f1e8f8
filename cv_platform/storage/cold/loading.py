"""Rows back into PostgreSQL."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from cv_platform.storage.cold.checksums import boxes, uuid_bytes
from cv_platform.storage.cold.kinds import COLUMNS, quoted
from cv_platform.storage.database import Connection

if TYPE_CHECKING:
    import pyarrow as pa


def load_batch(connection: Connection, kind: str, batch: pa.RecordBatch) -> None:
    """COPY rows into the warm table; their day's partition is there. Numbers keep every bit: the shortest text that
    reads back as the same float is what both sides write and read."""
    import pyarrow as pa
    import pyarrow.csv as csv

    if batch.num_rows == 0:
        return
    columns = COLUMNS[kind]
    table = pa.table([_as_text(batch.column(name), of) for name, of in columns.items()], list(columns))
    text = io.BytesIO()
    csv.write_csv(table, text, csv.WriteOptions(include_header=False))
    names = ", ".join(quoted(name) for name in columns)
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY warehouse.{kind} ({names}) FROM STDIN (FORMAT csv)") as copy,
    ):
        copy.write(text.getvalue())


def _as_text(column: pa.Array, of: str) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if of == "uuid":
        digits = pa.py_buffer(uuid_bytes(column).tobytes().hex().encode())
        return pa.Array.from_buffers(pa.binary(32), len(column), [None, digits]).cast(pa.binary()).cast(pa.string())
    if of == "float4[]":
        numbers = boxes(column)
        texts = [pa.array(numbers[:, k]).cast(pa.string()) for k in range(4)]
        return pc.binary_join_element_wise("{", pc.binary_join_element_wise(*texts, ","), "}", "")
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
