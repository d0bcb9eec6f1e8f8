"""A file of the cold warehouse: one camera, one day, one kind of row, in order of time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cv_platform.storage.cold.checksums import Checksum, of_batch
from cv_platform.storage.cold.kinds import COLUMNS, schema

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP: Final = 131_072
_REPEATED: Final = ("camera_id", "clip_s3_key", "kind", "attributes", "class_id", "track_id", "track_day")


def write_file(path: Path, kind: str, batches: Iterable[pa.RecordBatch]) -> int:
    """Write rows that come in order of time as Parquet (zstd); returns how many. Memory: about one row group."""
    import pyarrow.parquet as pq

    columns = COLUMNS[kind]
    encodings = {name: "DELTA_BINARY_PACKED" for name, of in columns.items() if of == "timestamptz"}
    encodings |= {name: "BYTE_STREAM_SPLIT" for name, of in columns.items() if of == "float4"}
    encodings |= {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name, of in columns.items() if of == "float4[]"}
    written = 0
    with pq.ParquetWriter(
        path,
        stored_schema(kind),
        compression="zstd",
        use_dictionary=[name for name in columns if name in _REPEATED],
        column_encoding=encodings,
        store_schema=False,
    ) as writer:
        waiting: list[pa.RecordBatch] = []
        for batch in batches:
            waiting.append(batch)
            written += batch.num_rows
            if sum(each.num_rows for each in waiting) >= ROW_GROUP:
                writer.write_table(as_stored(kind, waiting), row_group_size=ROW_GROUP)
                waiting = []
        if waiting:
            writer.write_table(as_stored(kind, waiting), row_group_size=ROW_GROUP)
    return written


def read_file(path: Path, kind: str) -> Iterator[pa.RecordBatch]:
    """A file's rows, columns as in `kinds.schema`, those that repeat dictionary-encoded.

    Raises:
        ValueError: its columns are not those of the kind.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    repeated = [name for name, of in COLUMNS[kind].items() if name in _REPEATED and of == "text"]
    found = pq.read_schema(path).names
    if found != list(COLUMNS[kind]):
        raise ValueError(f"a file of {kind} has the columns {', '.join(found)}")
    with pq.ParquetFile(path, read_dictionary=repeated) as file:
        for batch in file.iter_batches(batch_size=65_536):
            columns = [c.storage if isinstance(c, pa.ExtensionArray) else c for c in batch.columns]
            yield pa.RecordBatch.from_arrays(columns, batch.schema.names)


def checksum_of(path: Path, kind: str, camera_id: str) -> Checksum:
    """Rows and checksum of a file, by reading it."""
    found = Checksum()
    for batch in read_file(path, kind):
        found += of_batch(kind, camera_id, batch)
    return found


def stored_schema(kind: str) -> pa.Schema:
    """The columns of a file: ids as UUIDs."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(field.name, pa.uuid() if COLUMNS[kind][field.name] == "uuid" else field.type, field.nullable)
            for field in schema(kind)
        ]
    )


def as_stored(kind: str, batches: list[pa.RecordBatch]) -> pa.Table:
    """Batches as a table with the columns of a file."""
    import pyarrow as pa

    return pa.Table.from_batches(batches).cast(stored_schema(kind))
