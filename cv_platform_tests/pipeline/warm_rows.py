"""Made-up rows of the warm warehouse, for tests that are about where rows are, not how they came about."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from multiprocessing.context import ForkServerProcess
from typing import Any

import numpy as np

from cv_platform import faults
from cv_platform.pipeline.cold_rows import bring_back, expire_cold
from cv_platform.pipeline.row_query import query_rows
from cv_platform.pipeline.warm_to_cold import warm_to_cold
from cv_platform.settings import Settings
from cv_platform.storage.cold.kinds import COLUMNS, KINDS, quoted
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.days import midnight
from cv_platform.storage.warehouse import (
    DetectionRows,
    EventRow,
    TrackRow,
    ensure_days,
    write_detections,
    write_events,
    write_tracks,
)
from cv_platform_tests.pipeline import workers
from cv_platform_tests.pipeline.world import World

DAY = date(2026, 3, 1)
LATER = datetime(2026, 8, 1, tzinfo=UTC)
"""Long past the warm term of DAY."""


def key_of(camera: str, number: int) -> str:
    """The published key of a camera's clip."""
    return f"blurred/{number:02x}/{uuid.uuid5(uuid.NAMESPACE_OID, f'{camera}/{number}')}.mp4"


def fill(
    world: World, day: date = DAY, cameras: tuple[str, ...] = ("cam1", "cam2"), *, clips: int = 3, rows: int = 50
) -> None:
    """Rows of every kind for each camera's clips; the day's marts count as built."""
    ensure_days(world.database, [day])
    with world.database.transaction() as connection:
        connection.execute("INSERT INTO cv.sites (site_id) VALUES ('north') ON CONFLICT DO NOTHING")
        for camera in cameras:
            connection.execute("INSERT INTO cv.cameras VALUES (%s, 'north') ON CONFLICT DO NOTHING", [camera])
            for number in range(clips):
                write_clip(connection, day, camera, number, rows=rows)
    build(world, day)


def write_clip(connection: Connection, day: date, camera: str, number: int, *, rows: int = 50) -> None:
    """One clip's rows: detections of which a part is tracked, two tracks, their events."""
    rng = np.random.default_rng([day.toordinal(), number, *camera.encode()])
    start = midnight(day) + timedelta(hours=number)
    stamps = np.datetime64(start.replace(tzinfo=None), "us") + np.sort(rng.integers(0, 3_000_000_000, rows)).astype(
        "timedelta64[us]"
    )
    found = DetectionRows(
        frames=np.zeros(rows, np.int32),
        timestamps=stamps,
        class_ids=rng.integers(0, 80, rows).astype(np.int16),
        confidences=np.concatenate([[0.0, 1.0], rng.random(rows - 2)]).astype(np.float32),
        boxes=np.where(rng.random((rows, 4)) < 0.1, 0.0, rng.random((rows, 4))).astype(np.float32),
        ids=[uuid.UUID(bytes=rng.bytes(16)) for _ in range(rows)],
    )
    key = key_of(camera, number)
    write_detections(connection, camera, key, found)
    connection.execute(
        "UPDATE warehouse.detections SET track_id = %s + class_id %% 2 WHERE camera_id = %s AND clip_s3_key = %s"
        ' AND "timestamp" >= %s AND "timestamp" < %s AND class_id < 40',
        [2 * number, camera, key, midnight(day), midnight(day + timedelta(days=1))],
    )
    tracks = [
        TrackRow(
            id=uuid.UUID(bytes=rng.bytes(16)),
            timestamp=start + timedelta(seconds=k),
            track_day=day,
            track_id=2 * number + k,
            class_id=0,
            last_seen_at=start + timedelta(seconds=30 + k),
            detections=10,
            confidence=float(np.float32(rng.random())),
        )
        for k in range(2)
    ]
    write_tracks(connection, camera, key, tracks)
    events = [
        EventRow(uuid.UUID(bytes=rng.bytes(16)), track.timestamp, "track_started", 0, track.track_id, day)
        for track in tracks
    ]
    write_events(connection, camera, key, events)


def build(world: World, *days: date) -> None:
    """What a build of the marts leaves in the ledger."""
    for day in days:
        world.execute(
            "INSERT INTO cv.mart_days (day, dirty_seq, built_seq) VALUES (%s, 1, 1)"
            " ON CONFLICT (day) DO UPDATE SET built_seq = mart_days.dirty_seq",
            day,
        )


def warm(world: World) -> dict[str, list[tuple[Any, ...]]]:
    """Every row in PostgreSQL, by kind."""
    return {
        kind: world.rows(f"SELECT {', '.join(map(quoted, COLUMNS[kind]))} FROM warehouse.{kind} ORDER BY id")
        for kind in KINDS
    }


def union(world: World) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of both tiers as `cv-platform query` sees them, by kind."""
    found = {}
    for kind in KINDS:
        with query_rows(world.platform, f"SELECT * FROM {kind} ORDER BY id") as answer:
            found[kind] = [tuple(row.values()) for batch in answer.batches for row in batch.to_pylist()]
    return found


def expire_leases(world: World) -> None:
    """What time does to a run that is gone."""
    world.execute("UPDATE cv.cold_days SET lease_expires_at = now() - interval '1 s'")


def start(settings: Settings, what: str, point: str, action: str = "kill") -> ForkServerProcess:
    """`move` the day that is due, `bring_back` cam1's, or `expire`, in a process that is killed at a fault point."""
    # Once: a process that is told to go on meets the point again.
    once = f"@{settings.state_dir.parent / f'once-{point}'}" if action == "stop" else ""
    worker = workers.context().Process(target=_work, args=(settings, what, point, action + once), daemon=True)
    worker.start()
    return worker


def _work(settings: Settings, what: str, point: str, action: str) -> None:
    with faults.plan(**{point.replace(".", "__"): action}):
        world = World.at(settings)
        if what == "move":
            warm_to_cold(world.platform, LATER)
        elif what == "bring_back":
            bring_back(world.platform, "cam1", [DAY])
        else:
            expire_cold(world.platform, LATER + timedelta(days=8 * 365))
