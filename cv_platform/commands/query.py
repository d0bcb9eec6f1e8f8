"""`cv-platform query`: one SELECT over rows, warm and cold, as one table each."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cv_platform.commands.console import connected_settings, err, fail, out

if TYPE_CHECKING:
    from cv_platform.pipeline.row_query import Answer

_SHOWN_ROWS = 100
_Format = Literal["table", "csv", "json", "parquet"]


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT over detections, tracks and events, in DuckDB's dialect.")],
    camera: Annotated[list[str] | None, typer.Option(help="Only rows of this camera; may be repeated.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Only rows from this time on, UTC: 2026-03-01.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Only rows before this time, UTC.")] = None,
    output_format: Annotated[
        _Format | None, typer.Option("--format", help="Without it: by the name of the output file, else a table.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead of the screen.")] = None,
    memory: Annotated[str, typer.Option(help="Memory that the engine may use before it spills to disk.")] = "1GB",
    explain: Annotated[bool, typer.Option("--explain", help="Say what was read for it.")] = False,
) -> None:
    """Ask the rows themselves, of PostgreSQL and of the Parquet files together.

    For data engineers: rows name cameras and times, they are personal data. Analysts have the marts.

    Give camera_id and "timestamp" as constants beside the table (or --camera, --from, --to): only rows and files that
    can match are read. Access is noted in the audit log.
    """
    from getpass import getuser

    from cv_platform.governance.audit import record
    from cv_platform.pipeline.platform import open_platform
    from cv_platform.pipeline.row_query import query_rows
    from cv_platform.storage.cold.bounds import Bounds, QueryRefused
    from cv_platform.storage.objects import ObjectMissing
    from cv_platform.storage.provision import database_at

    settings = connected_settings()
    chosen: _Format = output_format or _format_of(output)
    if chosen == "parquet" and output is None:
        fail("parquet needs a file: --output rows.parquet")
    within = Bounds(frozenset(camera) if camera else None, _moment(since), _moment(until))
    platform = open_platform(settings, database_at(str(settings.postgres_url)))
    try:
        with query_rows(platform, sql, within=within, memory_limit=memory) as answer:
            files = {kind: len(found) for kind, found in answer.files.items()}
            details = {"cold files": sum(files.values()), "warm rows": answer.warm_rows}
            record(platform.database, actor=getuser(), action="rows.queried", details=details)
            written = _write(answer, chosen, output)
    except QueryRefused as error:
        fail(str(error), code=2)
    except ObjectMissing:
        fail("a cold file that the ledger names is not in the store; `cv-platform doctor` checks the store")
    finally:
        platform.database.close()
    if explain:
        listed = ", ".join(f"{count} of {kind}" for kind, count in files.items()) or "none"
        err.print(
            f"{written} rows; read for it: {answer.warm_rows} warm rows, cold files: {listed},"
            f" {answer.cold_bytes:,} bytes",
            markup=False,
        )


def _write(answer: Answer, chosen: _Format, output: Path | None) -> int:
    """Write the answer; returns how many rows it has."""
    written = 0
    if chosen == "table":
        return _table(answer, output)
    if chosen == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetWriter(output, answer.batches.schema, compression="zstd") as writer:
            for batch in answer.batches:
                writer.write_batch(batch)
                written += batch.num_rows
        return written
    with output.open("w", encoding="utf-8", newline="") if output is not None else _screen() as file:
        if chosen == "csv":
            import csv

            writer_ = csv.writer(file)
            writer_.writerow(answer.batches.schema.names)
            for row in _rows(answer):
                writer_.writerow(row.values())
                written += 1
            return written
        import json

        file.write("[")
        for row in _rows(answer):
            file.write(",\n" if written else "\n")
            file.write(json.dumps(row, default=str))
            written += 1
        file.write("\n]\n")
    return written


def _rows(answer: Answer) -> Any:
    for batch in answer.batches:
        yield from batch.to_pylist()


def _table(answer: Answer, output: Path | None) -> int:
    from rich.console import Console
    from rich.table import Table

    table = Table(*answer.batches.schema.names)
    written = 0
    for row in _rows(answer):
        if written == _SHOWN_ROWS:
            table.caption = f"the first {_SHOWN_ROWS} rows; --format csv, json or parquet gives all"
            break
        table.add_row(*("" if value is None else str(value) for value in row.values()))
        written += 1
    if output is None:
        out.print(table, markup=False)
    else:
        with output.open("w", encoding="utf-8") as file:
            Console(file=file, width=160).print(table)
    return written


class _screen:  # noqa: N801  # stands where open() stands
    """Standard output, left open behind the block."""

    def __enter__(self) -> Any:
        return sys.stdout

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()


def _format_of(output: Path | None) -> _Format:
    endings: dict[str, _Format] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
    return endings.get(output.suffix.lower(), "table") if output is not None else "table"


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        fail(f"{text!r} is no time; allowed: 2026-03-01, 2026-03-01T08:30, 2026-03-01T08:30+01:00", code=2)
    return value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)
