"""A warehouse to build marts from: sites, clips and tracks, written as the pipeline's commits write them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from cv_platform.resources.dbt import DbtEvent, DbtResource, find_project, read_manifest
from cv_platform.storage import marts
from cv_platform.storage.database import Connection, Database

MARTS = (
    "aggregates.hourly_cells", "aggregates.camera_hourly", "aggregates.site_daily", "aggregates.dwell_histogram",
    "aggregates.pipeline_daily", "aggregates.publication", "restricted.track_summary", "marts.camera_hourly",
    "marts.site_daily", "marts.dwell_histogram", "marts.pipeline_daily",
)  # fmt: skip


def moment(text: str) -> datetime:
    """`2026-03-10 23:59:30` as UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def add_site(connection: Connection, site_id: str, time_zone: str, *camera_ids: str) -> None:
    connection.execute("INSERT INTO cv.sites (site_id, time_zone) VALUES (%s, %s)", [site_id, time_zone])
    for camera_id in camera_ids:
        connection.execute("INSERT INTO cv.cameras (camera_id, site_id) VALUES (%s, %s)", [camera_id, site_id])


def add_clip(
    connection: Connection, camera_id: str, start: datetime, duration_s: float, *, published: bool = True
) -> UUID:
    """A clip and its footage; marks its days dirty."""
    clip_id = uuid5(NAMESPACE_URL, f"{camera_id}/{start.isoformat()}")
    row = connection.execute("SELECT site_id FROM cv.cameras WHERE camera_id = %s", [camera_id]).fetchone()
    assert row is not None
    connection.execute(
        "INSERT INTO cv.clips (clip_id, site_id, camera_id, upload_key, etag, size_bytes, captured_at, capture_date,"
        " received_at, state, duration_s, published_key, published_sha256, published_at)"
        " VALUES (%s, %s, %s, %s, 'e', 1, %s, %s, %s, %s, %s, %s, 'x', %s)",
        [
            clip_id, row[0], camera_id, f"raw/{clip_id}", start, start.date(), start + timedelta(minutes=1),
            "published" if published else "in_progress", duration_s, f"published/{clip_id}.mp4",
            start + timedelta(minutes=3) if published else None,
        ],
    )  # fmt: skip
    connection.execute(
        "INSERT INTO warehouse.clip_facts (clip_id, site_id, camera_id, captured_at, frames, frame_width, frame_height,"
        " frame_offsets_us, clip_s3_key) VALUES (%s, %s, %s, %s, 2, 64, 64, %s, %s)",
        [clip_id, row[0], camera_id, start, [0, int(duration_s * 1e6) - 1], f"published/{clip_id}.mp4"],
    )
    touch(connection, start.date(), (start + timedelta(seconds=duration_s)).date())
    return clip_id


def add_track(
    connection: Connection,
    clip_id: UUID,
    track_id: int,
    start: datetime,
    dwell_s: float,
    *,
    class_id: int = 0,
    track_day: date | None = None,
    detections: int = 3,
) -> None:
    """A track's piece in one clip, and that many detections of it, evenly spaced."""
    row = connection.execute("SELECT camera_id, published_key FROM cv.clips WHERE clip_id = %s", [clip_id]).fetchone()
    assert row is not None
    camera_id, key = row
    end = start + timedelta(seconds=dwell_s)
    for day in {start.date(), end.date()}:
        connection.execute("SELECT warehouse.ensure_day(%s)", [day])
    name = f"{clip_id}/{track_day}/{track_id}"
    connection.execute(
        "INSERT INTO warehouse.tracks VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 0.9, %s)",
        [
            uuid5(NAMESPACE_URL, name), camera_id, start, track_day or start.date(), track_id, class_id, end,
            detections, key,
        ],
    )  # fmt: skip
    for n in range(detections):
        stamp = start + timedelta(seconds=dwell_s * n / max(1, detections - 1))
        connection.execute(
            "INSERT INTO warehouse.detections VALUES (%s, %s, %s, %s, 0.9, '{0,0,1,1}', %s, %s)",
            [uuid5(NAMESPACE_URL, f"{name}/{n}"), camera_id, stamp, class_id, track_id, key],
        )


def remove_clip(connection: Connection, clip_id: UUID) -> None:
    """As an erasure does: its rows go, its days are dirty."""
    row = connection.execute(
        "UPDATE cv.clips SET state = 'erased' WHERE clip_id = %s RETURNING published_key, captured_at, duration_s",
        [clip_id],
    ).fetchone()
    assert row is not None
    for table in ("detections", "tracks", "clip_facts"):
        connection.execute(f"DELETE FROM warehouse.{table} WHERE clip_s3_key = %s", [row[0]])
    touch(connection, row[1].date(), (row[1] + timedelta(seconds=row[2])).date())


def touch(connection: Connection, *days: date) -> None:
    for day in sorted(set(days)):
        connection.execute(
            "INSERT INTO cv.mart_days (day) VALUES (%s)"
            " ON CONFLICT (day) DO UPDATE SET dirty_seq = mart_days.dirty_seq + 1",
            [day],
        )


def dirty_days(database: Database, k: int) -> list[date]:
    with database.transaction() as connection:
        found = marts.dirty_range(
            connection, k=k, first=date(2000, 1, 1), last=date(2100, 1, 1), max_days=10_000, min_interval_s=0
        )
        if found is None:
            return []
        days = [found[0] + timedelta(days=n) for n in range((found[1] - found[0]).days + 1)]
        return list(marts.plan_build(connection, days, k=k, only_dirty=True).days)


def build(database: Database, scratch: Path, *, k: int = 5) -> list[DbtEvent]:
    """One build of all that is dirty."""
    return list(build_stepwise(database, scratch, k=k))


def build_stepwise(database: Database, scratch: Path, *, k: int = 5) -> Iterator[DbtEvent]:
    days = dirty_days(database, k)
    with database.transaction() as connection:
        plan = marts.plan_build(connection, days, k=k, only_dirty=True)
    resource = DbtResource(project_dir=str(find_project()), scratch_dir=str(scratch))
    names = frozenset(read_manifest(find_project())["nodes"])
    yield from resource.build(database.url, days=plan.days, k=k, identifiers=names)
    with database.transaction() as connection:
        marts.record_built(connection, plan, k=k)


def contents(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all marts, sorted."""
    with database.transaction() as connection:
        return {name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in MARTS}
