"""Rows for every part: random detections, a day as the pipeline writes it, a day loaded in minutes."""

from __future__ import annotations

import uuid
from datetime import date, timedelta

import numpy as np

from cv_platform.storage.binary_copy import Column, blocks, float4, float4_arrays, int2, text, timestamps, uuids
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.warehouse import DetectionRows, ensure_days, write_detections

DAY = date(2026, 3, 1)
COLUMNS = '(id, camera_id, "timestamp", class_id, confidence, bbox, clip_s3_key)'


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


def on_the_wire(camera_id: str, key: str, rows: DetectionRows) -> bytes:
    """What `write_detections` sends."""
    columns: list[Column] = [uuids(rows.ids), text(camera_id), timestamps(rows.timestamps), int2(rows.class_ids)]
    columns += [float4(rows.confidences), float4_arrays(rows.boxes), text(key)]
    return b"".join(blocks(len(rows), columns))


def copy_bytes(connection: Connection, table: str, ready: bytes) -> None:
    """COPY of bytes that are ready-made."""
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} {COLUMNS} FROM STDIN (FORMAT binary)") as copy:
        copy.write(ready)


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
        connection.execute(f'ALTER TABLE {table} ADD PRIMARY KEY (camera_id, "timestamp", id)')
        connection.execute(f'CREATE INDEX ON {table} (class_id, "timestamp" DESC)')
        connection.execute(
            f"ALTER TABLE warehouse.detections ATTACH PARTITION {table}"
            f" FOR VALUES FROM ('{day} 00:00+00') TO ('{day + timedelta(days=1)} 00:00+00')"
        )


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
