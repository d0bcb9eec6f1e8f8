"""Bulk writes: a clip's detections into the warm table.

By binary COPY, by COPY row by row, by executemany: each call writes a clip with ids and times that no one had before,
in a transaction of its own that is committed, so that nobody meets what another left but what all have in common. What
each starts from is ready before the clock runs: columns for ours, tuples for the others. Two cases: a new day, and one
that holds half a million rows of 64 cameras, where the B-trees are deeper.

Bars: 2x COPY by rows, 10x executemany. psycopg 3 sends executemany's statements in a pipeline; psycopg 2, which most
tools of today use, waits for each: both are told. So are the floors: COPY of bytes that are ready-made, into the table
with its two indexes, and into one without any, which is what any writer pays for rows alone.
"""

from __future__ import annotations

import uuid
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from typing import Any

import numpy as np
import psycopg2  # type: ignore[import-untyped]

from benchmarks._timing import Case, compare
from benchmarks.warehouse._rows import COLUMNS, DAY, copy_bytes, load_day, on_the_wire, some_rows
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.warehouse import DetectionRows, ensure_days, write_detections

DEFAULTS = {"rows": 5000, "cameras": 64}
FILLED = 500_000
OLDER = "executemany of psycopg 2"
WARMUP = 2
SPAN_US = 60_000_000  # of a clip


@dataclass(frozen=True)
class Given:
    """A clip as each of the contenders is given it."""

    camera_id: str
    key: str
    rows: DetectionRows
    tuples: list[tuple[Any, ...]]
    texts: list[tuple[Any, ...]]
    """The tuples with ids as text, since psycopg 2 knows no UUIDs."""
    wire: bytes


def measure(database: Database, options: Namespace) -> list[Case]:
    """A clip's rows into a new day, then into one that is filled."""
    ensure_days(database, [DAY])
    filled = DAY + timedelta(days=1)
    load_day(database, filled, options.cameras, clips=72, rows=max(1, FILLED // (72 * options.cameras)))
    with database.transaction() as connection:
        connection.execute("CREATE TABLE public.bare (LIKE warehouse.detections)")
        connection.execute("ANALYZE warehouse.detections")
    return [
        written(database, "bulk write, a new day", DAY, options),
        written(database, f"bulk write, {FILLED:,} rows there", filled, options),
    ]


def written(database: Database, name: str, day: date, options: Namespace) -> Case:
    """One case."""
    clips = some_clips(day, options.rows, options.cameras)
    older = psycopg2.connect(database.url)
    insert = f"INSERT INTO warehouse.detections {COLUMNS} VALUES (%s, %s, %s, %s, %s, %s, %s)"

    def committed(work: Callable[[Connection, Given], None]) -> Callable[[Given], None]:
        def run(given: Given) -> None:
            with database.transaction() as connection:
                work(connection, given)

        return run

    def ours(connection: Connection, given: Given) -> None:
        write_detections(connection, given.camera_id, given.key, given.rows)

    def by_row(connection: Connection, given: Given) -> None:
        with connection.cursor() as cursor, cursor.copy(f"COPY warehouse.detections {COLUMNS} FROM STDIN") as copy:
            for each in given.tuples:
                copy.write_row(each)

    def many(connection: Connection, given: Given) -> None:
        with connection.cursor() as cursor:
            cursor.executemany(insert, given.tuples)

    def one_at_a_time(given: Given) -> None:
        with older.cursor() as cursor:
            cursor.executemany(insert, given.texts)
        older.commit()

    def bytes_into(table: str) -> Callable[[Connection, Given], None]:
        return lambda connection, given: copy_bytes(connection, table, given.wire)

    contenders = {
        "binary COPY": committed(ours),
        "COPY row by row": committed(by_row),
        "executemany": committed(many),
        OLDER: one_at_a_time,
        "ready-made bytes": committed(bytes_into("warehouse.detections")),
        "ready-made bytes, no index": committed(bytes_into("public.bare")),
    }
    calls = options.rounds + WARMUP + 1
    # Made before anything is timed, and dealt in turns: nobody has the earlier times or the earlier cameras.
    made = [next(clips) for _ in range(calls * len(contenders))]

    def each_anew(work: Callable[[Given], None], n: int) -> Callable[[], None]:
        left = iter(made[n :: len(contenders)])
        return lambda: work(next(left))

    case = compare(
        name,
        {contender: each_anew(work, n) for n, (contender, work) in enumerate(contenders.items())},
        rounds=options.rounds,
        warmup=WARMUP,
        sample_s=0.0,
        units=options.rows,
    )
    older.close()
    with database.transaction() as connection:
        (found,) = connection.execute(
            "SELECT count(*) FROM warehouse.detections WHERE \"timestamp\" >= %s AND clip_s3_key LIKE 'measured/%%'",
            [day],
        ).fetchone() or (0,)
    assert found == 5 * calls * options.rows, f"{found} rows were written"
    case.facts["bars"] = (
        f"2x: {case.ratio('COPY row by row'):.1f}x, 10x: {case.ratio('executemany'):.1f}x,"
        f" psycopg 2's: {case.ratio(OLDER):.1f}x"
    )
    return case


def some_clips(day: date, rows: int, cameras: int) -> Iterator[Given]:
    """Clips one after the other, each of the next camera and, when all have had theirs, of the next minute."""
    rng = np.random.default_rng(day.toordinal())
    number = 0
    while True:
        camera_id, key = f"cam{number % cameras:02}", f"measured/{number % 256:02x}/{uuid.UUID(int=number)}.mp4"
        found = some_rows(rng, day, rows, first_us=43_200_000_000 + number // cameras * SPAN_US, span_us=SPAN_US)
        tuples = [
            (uuid.UUID(bytes=np.asarray(row_id).tobytes()), camera_id, at.replace(tzinfo=UTC), of, score, box, key)
            for row_id, at, of, score, box in zip(
                found.ids,
                found.timestamps.tolist(),
                found.class_ids.tolist(),
                found.confidences.tolist(),
                found.boxes.tolist(),
                strict=True,
            )
        ]
        texts = [(str(row[0]), *row[1:]) for row in tuples]
        yield Given(camera_id, key, found, tuples, texts, on_the_wire(camera_id, key, found))
        number += 1
