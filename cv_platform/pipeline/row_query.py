"""One query over warm and cold rows as if they were one table: DuckDB, over what can match and nothing else.

Warm rows are read through PostgreSQL's own door with the query's cameras and times; of the cold files only those are
opened whose camera and day can match, by what the ledger says of them. Both come from one snapshot, which no move
between the tiers can cut in two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cv_platform.pipeline.cold_rows import local_copy
from cv_platform.pipeline.platform import Platform
from cv_platform.storage.cold.bounds import Bounds, QueryRefused, bounds_of
from cv_platform.storage.cold.kinds import COLUMNS, KINDS, quoted
from cv_platform.storage.cold.parquet import as_stored
from cv_platform.storage.cold.reading import read_rows
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.cold_days import ColdFile, live_files

if TYPE_CHECKING:
    import duckdb

_TYPES: Final = {
    "uuid": "UUID",
    "text": "VARCHAR",
    "timestamptz": "TIMESTAMPTZ",
    "date": "DATE",
    "int2": "SMALLINT",
    "int4": "INTEGER",
    "float4": "FLOAT",
    "float4[]": "FLOAT[]",
    "jsonb": "VARCHAR",
}


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
EVERYTHING: Final = Bounds()


@dataclass
class Answer:
    """An answer to be read, and what was looked at for it.

    Attributes:
        batches: the rows, as an Arrow record batch reader.
        files: cold files that were opened, by kind.
        cold_bytes: their size.
        warm_rows: rows that came from PostgreSQL.
    """

    batches: Any
    files: dict[str, list[ColdFile]] = field(default_factory=dict)
    cold_bytes: int = 0
    warm_rows: int = 0


@contextmanager
def query_rows(
    platform: Platform,
    sql: str,
    *,
    within: Bounds = EVERYTHING,
    memory_limit: str = "1GB",
) -> Iterator[Answer]:
    """Run one SELECT over `detections`, `tracks` and `events`. The answer is read while the block runs.

    Args:
        within: bounds beside the query's own: other rows are not there for it.
        memory_limit: of DuckDB; beyond it, it spills into the work root.

    Raises:
        QueryRefused: the query does not parse, does more than read, or fails.
        ObjectMissing: a cold file that the ledger names is not in the store.
    """
    import duckdb

    with platform.scratch() as folder, duckdb.connect(config={"memory_limit": memory_limit}) as engine:
        engine.execute(f"SET temp_directory = '{_literal(str(folder / 'spill'))}'")
        engine.execute("SET TimeZone = 'UTC'")
        wanted = {kind: bounds & within for kind, bounds in bounds_of(sql, _evaluator(engine)).items()}
        answer = Answer(None)
        with platform.database.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            # Before the snapshot: while this is held nothing goes cold, so both tiers are seen as of one moment.
            connection.execute(
                "LOCK TABLE warehouse.tracks, warehouse.events, warehouse.detections IN ACCESS SHARE MODE"
            )
            for kind in KINDS:
                names = ", ".join(f"{quoted(name)} {_TYPES[of.rstrip('?')]}" for name, of in COLUMNS[kind].items())
                engine.execute(f"CREATE TABLE warm_{kind} ({names})")
                if kind in wanted:
                    answer.files[kind] = _files(connection, kind, wanted[kind])
                    answer.warm_rows += _load_warm(engine, connection, kind, wanted[kind])
        paths = {
            file.object_key: local_copy(platform, file.object_key, folder)
            for files in answer.files.values()
            for file in files
        }
        answer.cold_bytes = sum(file.size_bytes for files in answer.files.values() for file in files)
        for kind in KINDS:
            engine.execute(f"CREATE VIEW {kind} AS {_union(kind, answer.files.get(kind, []), paths)}")
        # From here on the query's own text runs: it may read these files and nothing else.
        allowed = ", ".join(f"'{_literal(str(path))}'" for path in paths.values())
        engine.execute(f"SET allowed_paths = [{allowed}]")
        engine.execute("SET enable_external_access = false")
        engine.execute("SET lock_configuration = true")
        try:
            answer.batches = engine.sql(sql).to_arrow_reader(10_000)
            yield answer
        except duckdb.Error as error:
            raise QueryRefused(str(error)) from None


def _files(connection: Connection, kind: str, bounds: Bounds) -> list[ColdFile]:
    if bounds.cameras is not None and not bounds.cameras:
        return []
    return live_files(connection, kind=kind, cameras=bounds.cameras, start=bounds.start, end=bounds.end)


def _load_warm(engine: duckdb.DuckDBPyConnection, connection: Connection, kind: str, bounds: Bounds) -> int:
    cameras: Iterable[str] = bounds.cameras or ()
    if bounds.cameras is None:
        cameras = [camera for (camera,) in connection.execute("SELECT camera_id FROM cv.cameras ORDER BY 1")]
    loaded = 0
    for camera in sorted(cameras):
        for batch in read_rows(connection, kind, f"warehouse.{kind}", camera, start=bounds.start, end=bounds.end):
            engine.register("arrived", as_stored(kind, [batch]))
            engine.execute(f"INSERT INTO warm_{kind} SELECT * FROM arrived")
            engine.unregister("arrived")
            loaded += batch.num_rows
    return loaded


def _union(kind: str, files: list[ColdFile], paths: dict[str, Path]) -> str:
    """Warm rows and those of the files, without what was withdrawn while it was cold."""
    columns = ", ".join(map(quoted, COLUMNS[kind]))
    parts = [f"SELECT {columns} FROM warm_{kind}"]
    whole = [file for file in files if not file.removed_clips]
    if whole:
        listed = ", ".join(f"'{_literal(str(paths[file.object_key]))}'" for file in whole)
        parts.append(f"SELECT {columns} FROM read_parquet([{listed}])")
    for file in files:
        if file.removed_clips:
            gone = ", ".join(f"'{_literal(clip)}'" for clip in file.removed_clips)
            path = _literal(str(paths[file.object_key]))
            parts.append(f"SELECT {columns} FROM read_parquet('{path}') WHERE clip_s3_key NOT IN ({gone})")
    return " UNION ALL ".join(parts)


def _evaluator(engine: duckdb.DuckDBPyConnection) -> Any:
    import duckdb

    def evaluate(sql: str) -> datetime | None:
        try:
            row = engine.execute(f"SELECT epoch_us(CAST(({sql}) AS TIMESTAMPTZ))").fetchone()
        except duckdb.Error:
            return None
        try:
            return None if row is None or row[0] is None else _EPOCH + timedelta(microseconds=row[0])
        except OverflowError:
            return None

    return evaluate


def _literal(text: str) -> str:
    return text.replace("'", "''")
