"""detections: rows, Parquet and live counts of a clip, and frames that are gone or changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cv_platform.pipeline.platform import open_platform
from cv_platform.settings import Settings
from cv_platform_tests.pipeline.world import MORNING, World, short_clip, with_settings


@pytest.fixture
def decoded(world: World, tmp_path: Path) -> World:
    """A clip whose frames are sampled."""
    world.upload(short_clip(tmp_path / "a.mp4", frames=5))
    world.ingest()
    world.run("raw_clips", "decoded_frames")
    return world


def test_rows_and_parquet_tell_the_same(decoded: World, tmp_path: Path) -> None:
    decoded.run("detections")
    rows = decoded.rows(
        'SELECT id::text, "timestamp", class_id, confidence, bbox FROM warehouse.detections ORDER BY "timestamp", id'
    )
    assert len(rows) == 10
    [(key,)] = decoded.rows("SELECT output_key FROM cv.stages WHERE stage = 'detections'")
    decoded.platform.cold.download(key, tmp_path / "parquet")
    table = pq.read_table(tmp_path / "parquet").to_pylist()
    told = [(row["id"], row["timestamp"], row["class_id"], row["confidence"], row["bbox"]) for row in table]
    # psycopg reads a float4 by its shortest text, Parquet by its bits: the same number.
    assert sorted(told, key=lambda row: (row[1], row[0])) == [
        (*row[:3], float(np.float32(row[3])), [float(np.float32(corner)) for corner in row[4]]) for row in rows
    ]
    assert all(0 <= corner <= 1 for row in rows for corner in row[4])
    assert {row[1] for row in rows} == {MORNING + timedelta(milliseconds=200 * n) for n in range(5)}


@pytest.mark.parametrize(("change", "code"), [("delete", "frames_missing"), ("overwrite", "frames_damaged")])
def test_frames_that_are_gone_or_changed(decoded: World, change: str, code: str) -> None:
    [(key,)] = decoded.rows("SELECT output_key FROM cv.stages WHERE stage = 'decoded_frames'")
    if change == "delete":
        decoded.platform.restricted.delete([key])
    else:
        decoded.platform.restricted.put_bytes(key, b"other")
    assert dict(decoded.run("detections")["detections"].quarantined) == {code: 1}


@pytest.mark.parametrize("ago", [timedelta(0), timedelta(hours=1)])
def test_only_what_is_seen_now_is_live(world: World, tmp_path: Path, redis_url: str, ago: timedelta) -> None:
    at = datetime.now(UTC).replace(microsecond=0) - ago
    world.upload(short_clip(tmp_path / "a.mp4", frames=3), at)
    world.ingest()
    world.run("raw_clips", "decoded_frames", "detections")
    assert world.platform.hot is not None
    live = world.platform.hot.read_current("cam1")
    assert (live and live["counts"]) == ({"0": 2} if not ago else None)


def test_redis_down_holds_up_nothing(settings: Settings, tmp_path: Path) -> None:
    down = World.at(with_settings(settings, redis_url="redis://127.0.0.1:1"))
    assert open_platform(down.settings, down.database).hot is not None
    down.upload(short_clip(tmp_path / "a.mp4", frames=3), datetime.now(UTC))
    down.ingest()
    reports = down.run("raw_clips", "decoded_frames", "detections")
    assert (reports["detections"].done, reports["detections"].postponed) == (1, 0)
