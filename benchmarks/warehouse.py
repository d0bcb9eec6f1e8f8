"""The warehouse against its bars: bulk writes, the common queries, the way to Parquet, one day out of a cold year.

    python -m benchmarks.warehouse write  [--rows 5000]
    python -m benchmarks.warehouse export [--rows 5000000] [--cameras 64]
    python -m benchmarks.warehouse page   [--rows 50000000] [--days 90] [--cameras 64] [--queries 400]
    python -m benchmarks.warehouse cold   [--days 365] [--cameras 4] [--rows 400]

Each also takes --rounds, --cores, --json FILE and --folder FOLDER (where the server and the store go: 300 bytes a row).
Everything runs on a durable PostgreSQL of its own with the embedded stack's settings (128 MB of shared buffers).

write    a clip's detections by binary COPY, by COPY row by row, by executemany; rolled back each time, so that the
         table stays as it is. Bars: 2x and 10x. psycopg 3 sends executemany's statements in a pipeline; psycopg 2,
         which most tools of today use, waits for each: both are told. So are the floors: COPY of bytes that are
         ready-made, into the table with its three indexes, and into one without any.
export   one day from claim to dropped partitions, each file read back and compared; in a process of its own whose peak
         memory is told, beside a writer and a reader of today's rows whose longest waits are told, with and without the
         export. The baseline takes one camera's rows out by fetching and to a file by rows. Bars: 200,000 rows/s,
         600 MB, 1 s.
page     100 rows of a camera and hours, and of a class and hours, newest first; each question once with nothing in the
         operating system's memory, once more with what that read. Bar: p95 of 20 ms, partitions pruned.
cold     one camera and day out of a year of files, against DuckDB over all files.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import threading
import time
import uuid
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import psycopg2  # type: ignore[import-untyped]

from benchmarks._timing import Case, Timing, arguments, compare, pin_cores, report
from benchmarks.lifecycle._postgres import fresh_database
from cv_platform.pipeline.platform import open_platform
from cv_platform.settings import Settings
from cv_platform.storage.binary_copy import Column, blocks, float4, float4_arrays, int2, text, timestamps, uuids
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.days import midnight
from cv_platform.storage.warehouse import DetectionRows, ensure_days, write_detections

DAY = date(2026, 3, 1)
COLUMNS = '(id, camera_id, "timestamp", class_id, confidence, bbox, clip_s3_key)'
OLDER = "executemany of psycopg 2"


def main() -> None:
    """Measure one part and print."""
    parser = arguments(__doc__)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--rows", type=int, default=None, help="detections, see above")
    parser.add_argument("--cameras", type=int, default=None)
    parser.add_argument("--days", type=int, default=None)
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--folder", type=Path, default=None)
    parser.set_defaults(cores=2)
    options = parser.parse_args()
    pin_cores(options.cores)
    part, defaults = PARTS[options.part]
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    with fresh_database(options.folder) as database:
        cases = part(database, options)
    report(
        f"warehouse: {options.part}",
        cases,
        packages=("psycopg", "psycopg2-binary", "pyarrow", "duckdb"),
        json_path=options.json,
    )


def write(database: Database, options: Namespace) -> list[Case]:
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


def on_the_wire(camera_id: str, key: str, rows: DetectionRows) -> bytes:
    """What `write_detections` sends."""
    columns: list[Column] = [uuids(rows.ids), text(camera_id), timestamps(rows.timestamps), int2(rows.class_ids)]
    columns += [float4(rows.confidences), float4_arrays(rows.boxes), text(key)]
    return b"".join(blocks(len(rows), columns))


def copy_bytes(connection: Connection, table: str, ready: bytes) -> None:
    """COPY of bytes that are ready-made."""
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} {COLUMNS} FROM STDIN (FORMAT binary)") as copy:
        copy.write(ready)


def export(database: Database, options: Namespace) -> list[Case]:
    """A whole day to Parquet."""
    per_clip = options.rows // (options.cameras * 144)
    load_day(database, DAY, options.cameras, clips=144, rows=per_clip)
    know_day(database, DAY, options.cameras)
    today = datetime.now(UTC).date()
    ensure_days(database, [DAY, today])
    rows = per_clip * options.cameras * 144
    with tempfile.TemporaryDirectory(prefix="cvp-bench-", dir=options.folder) as folder:
        settings = Settings(state_dir=Path(folder), postgres_url=database.url)
        baseline = naive_export(database, Path(folder) / "naive.parquet")
        alone = Beside(database, today)
        time.sleep(5.0)
        alone.stop()
        beside = Beside(database, today)
        receiver, sender = multiprocessing.Pipe(duplex=False)
        worker = multiprocessing.get_context("spawn").Process(target=export_in_child, args=(settings, sender))
        worker.start()
        sender.close()  # so that a worker that fails ends this too
        told = receiver.recv()
        worker.join()
        beside.stop()
    wall_s, cpu_s = told.pop("wall_s"), told.pop("cpu_s")
    facts = {
        **told,
        "rows": rows,
        "rows a second": round(rows / wall_s),
        "baseline, rows a second": round(1 / baseline),
        "writer, longest commit, ms": waits(beside.write_s, alone.write_s),
        "reader, longest query, ms": waits(beside.read_s, alone.read_s),
        "commits beside the export": len(beside.write_s),
    }
    timings = {
        "warm_to_cold": Timing([wall_s], [cpu_s]),
        "rows fetched, then written": Timing([baseline * rows], [baseline * rows]),
    }
    return [Case(f"export of {rows:,} rows", "warm_to_cold", timings, rows, facts)]


def export_in_child(settings: Settings, sender: Any) -> None:
    """The export, in a process whose memory is its own."""
    from cv_platform.pipeline.warm_to_cold import warm_to_cold

    database = Database(str(settings.postgres_url))
    platform = open_platform(settings, database)
    before = peak_memory_mb()
    cpu, started = time.process_time(), time.perf_counter()
    moved = warm_to_cold(platform, midnight(DAY) + timedelta(days=92))
    wall_s = time.perf_counter() - started
    assert moved.cold == [DAY], moved
    sender.send(
        {
            "wall_s": wall_s,
            "cpu_s": time.process_time() - cpu,
            "files": moved.files,
            "bytes a row": round(moved.size_bytes / moved.rows, 1),
            "peak memory, MB": peak_memory_mb(),
            "of that before the export, MB": before,
            "processor seconds of the export's own process": round(time.process_time() - cpu, 1),
        }
    )
    database.close()


def waits(beside: list[float], alone: list[float]) -> str:
    """The longest of each, in milliseconds."""
    return f"{1e3 * max(beside):.0f} beside the export, {1e3 * max(alone):.0f} alone"


def peak_memory_mb() -> int:
    """This process's own: `getrusage` tells that of the one that started it too."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) // 1024


class Beside:
    """A writer and a reader of today's rows, and how long each had to wait."""

    def __init__(self, database: Database, day: date) -> None:
        self.write_s: list[float] = []
        self.read_s: list[float] = []
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._loop, args=(database, day, work, waits), daemon=True)
            for work, waits in ((self._write, self.write_s), (self._read, self.read_s))
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both."""
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _loop(
        self, database: Database, day: date, work: Callable[[Connection, date], None], waits: list[float]
    ) -> None:
        while not self._done.is_set():
            started = time.perf_counter()
            with database.transaction() as connection:
                work(connection, day)
            waits.append(time.perf_counter() - started)
            time.sleep(0.01)

    def _write(self, connection: Connection, day: date) -> None:
        rows = some_rows(np.random.default_rng(time.monotonic_ns()), day, 100)
        write_detections(connection, "cam-live", "blurred/00/live.mp4", rows)

    def _read(self, connection: Connection, day: date) -> None:
        connection.execute(
            "SELECT class_id, count(*) FROM warehouse.detections WHERE camera_id = 'cam-live' AND \"timestamp\" >= %s"
            " GROUP BY class_id",
            [midnight(day)],
        ).fetchall()


def naive_export(database: Database, path: Path) -> float:
    """Seconds a row of one camera's rows by an ordinary cursor and an ordinary table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    started = time.perf_counter()
    with database.transaction() as connection:
        cursor = connection.execute(
            'SELECT id::text AS id, camera_id, "timestamp", class_id, confidence, bbox, track_id, clip_s3_key FROM'
            " warehouse.detections WHERE camera_id = 'cam00' ORDER BY \"timestamp\", id"
        )
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    return (time.perf_counter() - started) / max(1, len(rows))


def page(database: Database, options: Namespace) -> list[Case]:
    """The two common queries."""
    per_clip = max(1, options.rows // (options.days * options.cameras * 4))
    started = time.perf_counter()
    for n in range(options.days):
        load_day(database, DAY + timedelta(days=n), options.cameras, clips=4, rows=per_clip)
    rows = per_clip * options.days * options.cameras * 4
    filled_s = time.perf_counter() - started
    settle(database)
    with database.transaction() as connection:
        size = connection.execute(
            "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits"
            " WHERE inhparent = 'warehouse.detections'::regclass"
        ).fetchone()
    print(f"# {rows:,} rows in {filled_s:.0f} s, {size[0] / 2**30:.1f} GiB" if size else "", flush=True)
    cases = []
    for name, column, values in (
        ("camera and time", "camera_id", [f"cam{m:02}" for m in range(options.cameras)]),
        ("class and time", "class_id", list(range(80))),
    ):
        query = (
            'SELECT id, camera_id, "timestamp", class_id, confidence, bbox, track_id FROM warehouse.detections'
            f' WHERE {column} = %s AND "timestamp" >= %s AND "timestamp" < %s ORDER BY "timestamp" DESC LIMIT 100'
        )
        asked = some_questions(np.random.default_rng(1), values, options.days, options.queries)
        dropped = drop_pages(database)
        cold, rows_found = pages(database, query, asked)
        warm, _ = pages(database, query, asked)
        with database.transaction() as connection:
            looked_at = [looks(connection, query, given) for given in asked[:: max(1, len(asked) // 20)]]
        facts = {
            "rows in the table": rows,
            "partitions": options.days,
            "GiB": round(size[0] / 2**30, 1) if size else None,
            "GiB dropped from memory before": round(dropped / 2**30, 1),
            "cold: p50, p95, longest, ms": spread(cold),
            "warm: p50, p95, longest, ms": spread(warm),
            "rows a page": f"{min(rows_found)} to {max(rows_found)}",
            "partitions in the plan": f"{min(n for n, _ in looked_at)} to {max(n for n, _ in looked_at)}",
            "8 KiB pages looked at": f"{min(n for _, n in looked_at)} to {max(n for _, n in looked_at)}",
        }
        timings = {"cold": Timing(cold, cold), "warm": Timing(warm, warm)}
        cases.append(Case(name, "cold", timings, 100, facts))
    return cases


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


def cold(database: Database, options: Namespace) -> list[Case]:
    """One camera and day out of a year of files."""
    import duckdb

    from cv_platform.pipeline.row_query import query_rows
    from cv_platform.pipeline.warm_to_cold import warm_to_cold

    for n in range(options.days):
        fill_day(database, DAY + timedelta(days=n), options.cameras, clips=2, rows=options.rows // 2)
    with tempfile.TemporaryDirectory(prefix="cvp-bench-", dir=options.folder) as folder:
        platform = open_platform(Settings(state_dir=Path(folder), postgres_url=database.url), database)
        moved = warm_to_cold(platform, midnight(DAY) + timedelta(days=options.days + 91))
        middle = DAY + timedelta(days=options.days // 2)
        where = f"WHERE camera_id = 'cam01' AND timestamp >= '{middle}' AND timestamp < '{middle + timedelta(days=1)}'"
        opened: dict[str, Any] = {}

        def ours() -> None:
            with query_rows(platform, f"SELECT count(*) AS n, avg(confidence) FROM detections {where}") as answer:
                (row,) = answer.batches.read_all().to_pylist()
                assert row["n"] == options.rows // 2 * 2, row
                opened.update(files=len(answer.files["detections"]), cold_bytes=answer.cold_bytes)

        def everything() -> None:
            files = f"{platform.cold.folder}/warehouse/detections/*.parquet"
            with duckdb.connect() as engine:
                engine.execute("SET TimeZone = 'UTC'")
                engine.execute(f"SELECT count(*), avg(confidence) FROM read_parquet('{files}') {where}").fetchone()

        contenders = {"cv-platform query": ours, "DuckDB over all files": everything}
        case = compare("one camera and day of a year", contenders, rounds=options.rounds, warmup=1)
        case.facts.update({"files of detections": moved.files, "files opened": opened["files"], **opened})
    return [case]


def fill_day(database: Database, day: date, cameras: int, *, clips: int, rows: int) -> None:
    """A day as the pipeline writes it: clip after clip, in order of time; its marts count as built."""
    ensure_days(database, [day])
    rng = np.random.default_rng(day.toordinal())
    span_us = 86_400_000_000 // clips
    for number in range(clips):
        with database.transaction() as connection:
            for camera in range(cameras):
                found = some_rows(rng, day, rows, first_us=number * span_us, span_us=span_us)
                key = f"blurred/{number:02x}/{uuid.UUID(int=number * cameras + camera)}.mp4"
                write_detections(connection, f"cam{camera:02}", key, found)
    know_day(database, day, cameras)


def know_day(database: Database, day: date, cameras: int) -> None:
    """What the ledger would know of the day."""
    with database.transaction() as connection:
        connection.execute("INSERT INTO cv.sites (site_id) VALUES ('bench') ON CONFLICT DO NOTHING")
        names = [f"cam{camera:02}" for camera in range(cameras)]
        connection.execute(
            "INSERT INTO cv.cameras (camera_id, site_id) SELECT unnest(%s::text[]), 'bench' ON CONFLICT DO NOTHING",
            [names],
        )
        connection.execute("INSERT INTO cv.mart_days (day, dirty_seq, built_seq) VALUES (%s, 1, 1)", [day])


def load_day(database: Database, day: date, cameras: int, *, clips: int, rows: int) -> None:
    """The same rows as `fill_day`'s, loaded before the indexes are made: minutes, not an hour, for many days.

    Loaded in the order in which clips are committed, so that the heap is the pipeline's; attached as `ensure_day` does.
    """
    table = f"warehouse.detections_{day:%Y%m%d}"
    rng = np.random.default_rng(day.toordinal())
    span_us = 86_400_000_000 // clips
    with database.transaction() as connection:
        connection.execute(
            f"CREATE TABLE {table} (LIKE warehouse.detections INCLUDING ALL EXCLUDING INDEXES EXCLUDING COMMENTS)"
        )
    # In another transaction: into a table that is new in its own, COPY leaves every second page empty.
    with database.transaction() as connection:
        connection.execute("SET LOCAL maintenance_work_mem = '256MB'")
        connection.execute("SET LOCAL synchronous_commit = off")
        for number in range(clips):
            for camera in range(cameras):
                found = some_rows(rng, day, rows, first_us=number * span_us, span_us=span_us)
                key = f"blurred/{number:02x}/{uuid.UUID(int=number * cameras + camera)}.mp4"
                copy_bytes(connection, table, on_the_wire(f"cam{camera:02}", key, found))
        connection.execute(f'ALTER TABLE {table} ADD PRIMARY KEY (id, "timestamp")')
        connection.execute(f'CREATE INDEX ON {table} (camera_id, "timestamp" DESC)')
        connection.execute(f'CREATE INDEX ON {table} (class_id, "timestamp" DESC)')
        connection.execute(
            f"ALTER TABLE warehouse.detections ATTACH PARTITION {table}"
            f" FOR VALUES FROM ('{day} 00:00+00') TO ('{day + timedelta(days=1)} 00:00+00')"
        )


def some_rows(
    rng: np.random.Generator, day: date, n: int, *, first_us: int = 0, span_us: int = 86_400_000_000
) -> DetectionRows:
    """Random detections in order of time."""
    start = np.datetime64(day.isoformat(), "us") + np.timedelta64(first_us, "us")
    return DetectionRows(
        frames=np.zeros(n, np.int32),
        timestamps=start + np.sort(rng.integers(0, span_us, n)).astype("timedelta64[us]"),
        class_ids=rng.integers(0, 80, n).astype(np.int16),
        confidences=rng.random(n, np.float32),
        boxes=rng.random((n, 4), np.float32),
        ids=np.frombuffer(rng.bytes(16 * n), "V16"),
    )


PARTS: dict[str, tuple[Callable[[Database, Namespace], list[Case]], dict[str, int]]] = {
    "write": (write, {"rows": 5000}),
    "export": (export, {"rows": 5_000_000, "cameras": 64}),
    "page": (page, {"rows": 50_000_000, "days": 90, "cameras": 64}),
    "cold": (cold, {"rows": 400, "days": 365, "cameras": 4}),
}


if __name__ == "__main__":
    main()
