"""The two common queries: 100 rows of a camera and hours, and of a class and hours, newest first.

Each question once with nothing in the operating system's memory, once more with what that read. A class is asked for
twice: on days as they are while they are written, and as the nightly job leaves them behind their end, with the index
that holds the page's columns. Bar: p95 of 20 ms, partitions pruned.

A smaller run tells of a large one's disk with `--shared-buffers` smaller alike: 128 MB are made for 50,000,000 rows.
"""

from __future__ import annotations

import os
import statistics
import time
from argparse import Namespace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from benchmarks._timing import Case, Timing
from benchmarks.warehouse._rows import DAY, load_day
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.days import midnight
from cv_platform.storage.page_index import build_page_index, days_without_page_index

DEFAULTS = {"rows": 50_000_000, "days": 90, "cameras": 64}


def measure(database: Database, options: Namespace) -> list[Case]:
    """The two common queries."""
    per_clip = max(1, options.rows // (options.days * options.cameras * 4))
    started = time.perf_counter()
    for n in range(options.days):
        load_day(database, DAY + timedelta(days=n), options.cameras, clips=4, rows=per_clip)
    rows = per_clip * options.days * options.cameras * 4
    filled_s = time.perf_counter() - started
    settle(database)
    print(f"# {rows:,} rows in {filled_s:.0f} s", flush=True)
    cameras, classes = [f"cam{m:02}" for m in range(options.cameras)], list(range(80))
    facts = {"rows in the table": rows, "partitions": options.days, "shared buffers": options.shared_buffers}
    cases = [
        asked_pages(database, "camera and time", "camera_id", cameras, options, facts),
        asked_pages(database, "class and time, days not closed", "class_id", classes, options, facts),
    ]
    started = time.perf_counter()
    with database.transaction() as connection:
        days = days_without_page_index(connection, DAY + timedelta(days=options.days))
    assert len(days) == options.days
    assert all(build_page_index(database, day) for day in days)
    facts["seconds to index the closed days"] = round(time.perf_counter() - started, 1)
    return [*cases, asked_pages(database, "class and time", "class_id", classes, options, facts)]


def asked_pages(
    database: Database, name: str, column: str, values: list[Any], options: Namespace, facts: dict[str, Any]
) -> Case:
    """One kind of question, cold and warm."""
    query = (
        'SELECT id, camera_id, "timestamp", class_id, confidence, bbox, track_id FROM warehouse.detections'
        f' WHERE {column} = %s AND "timestamp" >= %s AND "timestamp" < %s ORDER BY "timestamp" DESC LIMIT 100'
    )
    asked = some_questions(np.random.default_rng(1), values, options.days, options.queries)
    with database.transaction() as connection:
        (size,) = connection.execute(
            "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits"
            " WHERE inhparent = 'warehouse.detections'::regclass"
        ).fetchone() or (0,)
    dropped = drop_pages(database)
    cold, rows_found = pages(database, query, asked)
    warm, _ = pages(database, query, asked)
    with database.transaction() as connection:
        looked_at = [looks(connection, query, given) for given in asked[:: max(1, len(asked) // 20)]]
    found = {
        **facts,
        "GiB": round(size / 2**30, 1),
        "GiB dropped from memory before": round(dropped / 2**30, 1),
        "cold: p50, p95, longest, ms": spread(cold),
        "warm: p50, p95, longest, ms": spread(warm),
        "rows a page": f"{min(rows_found)} to {max(rows_found)}",
        "partitions in the plan": f"{min(n for n, _ in looked_at)} to {max(n for n, _ in looked_at)}",
        "8 KiB pages looked at": f"{min(n for _, n in looked_at)} to {max(n for _, n in looked_at)}",
    }
    return Case(name, "cold", {"cold": Timing(cold, cold), "warm": Timing(warm, warm)}, 100, found)


def settle(database: Database) -> None:
    """What autovacuum does behind a day's writers: statistics, and which pages all can see."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) warehouse.detections")


def some_questions(rng: np.random.Generator, values: list[Any], days: int, n: int) -> list[list[Any]]:
    """Value, start and end: from one hour to a day anywhere in the days."""
    asked = []
    for _ in range(n):
        start = midnight(DAY) + timedelta(seconds=float(rng.uniform(0, (days - 1) * 86400)))
        end = start + timedelta(hours=float(rng.uniform(1, 24)))
        asked.append([values[int(rng.integers(len(values)))], start, end])
    return asked


def pages(database: Database, query: str, asked: list[list[Any]]) -> tuple[list[float], list[int]]:
    """Seconds and rows of each question, on a connection of its own age."""
    taken, found = [], []
    with database.transaction() as connection:
        for given in asked:
            started = time.perf_counter()
            found.append(len(connection.execute(query, given).fetchall()))
            taken.append(time.perf_counter() - started)
    return taken, found


def spread(taken: list[float]) -> str:
    """p50, p95 and the longest in milliseconds."""
    p95 = statistics.quantiles(taken, n=20)[-1]
    return " ".join(f"{1e3 * t:.2f}" for t in (statistics.median(taken), p95, max(taken)))


def drop_pages(database: Database) -> int:
    """Have the operating system forget the server's files; how many bytes. The server's own 128 MB stay."""
    with database.transaction() as connection:
        (folder,) = connection.execute("SHOW data_directory").fetchone() or ("",)
        connection.execute("CHECKPOINT")
    os.sync()  # only what is on the disk is forgotten
    size = 0
    for path in (Path(folder) / "base").rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                size += path.stat().st_size
    return size


def looks(connection: Connection, query: str, given: list[Any]) -> tuple[int, int]:
    """How many partitions a query's plan names, and how many pages of 8 KiB its execution looks at."""
    row = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", given).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]

    def relations(node: dict[str, Any]) -> set[str]:
        found = {node["Relation Name"]} if "Relation Name" in node else set()
        return found.union(*(relations(child) for child in node.get("Plans", [])))

    return len(relations(plan)), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
