"""The way to Parquet: one day from claim to dropped partitions, each file read back and compared.

In a process of its own whose peak memory is told, beside a writer and a reader of today's rows whose longest waits are
told, with and without the export. The baseline takes one camera's rows out by fetching and to a file by rows. Bars:
200,000 rows/s, 600 MB, 1 s.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._timing import Case, Timing
from benchmarks.warehouse._rows import DAY, know_day, load_day, some_rows
from cv_platform.pipeline.platform import open_platform
from cv_platform.settings import Settings
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.days import midnight
from cv_platform.storage.warehouse import ensure_days, write_detections

DEFAULTS = {"rows": 5_000_000, "cameras": 64}


def measure(database: Database, options: Namespace) -> list[Case]:
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
