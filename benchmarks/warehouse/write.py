"""Bulk writes: a clip's detections into the warm table.

By binary COPY, by COPY row by row, by executemany; rolled back each time, so that the table stays as it is. Bars: 2x
and 10x. psycopg 3 sends executemany's statements in a pipeline; psycopg 2, which most tools of today use, waits for
each: both are told. So are the floors: COPY of bytes that are ready-made, into the table with its three indexes, and
into one without any.
"""

from __future__ import annotations

import uuid
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC

import numpy as np
import psycopg2  # type: ignore[import-untyped]

from benchmarks._timing import Case, compare
from benchmarks.warehouse._rows import COLUMNS, DAY, copy_bytes, on_the_wire, some_rows
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.warehouse import ensure_days, write_detections

DEFAULTS = {"rows": 5000}
OLDER = "executemany of psycopg 2"


def measure(database: Database, options: Namespace) -> list[Case]:
    """A clip's rows into the warm table."""
    ensure_days(database, [DAY])
    rng = np.random.default_rng(0)
    rows, key = some_rows(rng, DAY, options.rows), "blurred/00/x.mp4"
    ids = [uuid.UUID(bytes=np.asarray(row).tobytes()) for row in rows.ids]
    stamps = [each.replace(tzinfo=UTC) for each in rows.timestamps.tolist()]
    boxes, classes, scores = rows.boxes.tolist(), rows.class_ids.tolist(), rows.confidences.tolist()
    tuples = [
        (row_id, "cam", stamp, class_id, score, box, key)
        for row_id, stamp, class_id, score, box in zip(ids, stamps, classes, scores, boxes, strict=True)
    ]

    def rolled_back(work: Callable[[Connection], None]) -> Callable[[], None]:
        def run() -> None:
            with database.transaction() as connection:
                work(connection)
                connection.rollback()

        return run

    def by_row(connection: Connection) -> None:
        with connection.cursor() as cursor, cursor.copy(f"COPY warehouse.detections {COLUMNS} FROM STDIN") as copy:
            for each in tuples:
                copy.write_row(each)

    def many(connection: Connection) -> None:
        with connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO warehouse.detections {COLUMNS} VALUES (%s, %s, %s, %s, %s, %s, %s)", tuples
            )

    ready = on_the_wire("cam", key, rows)

    def bytes_into(table: str) -> Callable[[Connection], None]:
        return lambda connection: copy_bytes(connection, table, ready)

    older = psycopg2.connect(database.url)
    older_tuples = [(str(row[0]), *row[1:]) for row in tuples]

    def one_at_a_time() -> None:
        with older.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO warehouse.detections {COLUMNS} VALUES (%s, %s, %s, %s, %s, %s, %s)", older_tuples
            )
        older.rollback()

    with database.transaction() as connection:
        connection.execute("CREATE TABLE public.bare (LIKE warehouse.detections)")
    contenders = {
        "binary COPY": rolled_back(lambda connection: write_detections(connection, "cam", key, rows)),
        "COPY row by row": rolled_back(by_row),
        "executemany": rolled_back(many),
        OLDER: one_at_a_time,
        "ready-made bytes": rolled_back(bytes_into("warehouse.detections")),
        "ready-made bytes, no index": rolled_back(bytes_into("public.bare")),
    }
    case = compare("bulk write", contenders, rounds=options.rounds, warmup=1, units=options.rows)
    older.close()
    case.facts["bars"] = (
        f"2x: {case.ratio('COPY row by row'):.1f}x, 10x: {case.ratio('executemany'):.1f}x,"
        f" psycopg 2's: {case.ratio(OLDER):.1f}x"
    )
    return [case]
