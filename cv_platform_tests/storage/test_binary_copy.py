"""What binary COPY writes is what PostgreSQL reads back."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from cv_platform.storage import binary_copy
from cv_platform.storage.database import Database
from cv_platform.storage.warehouse import DetectionRows, ensure_days, write_detections

START = datetime(2026, 3, 1, 23, 59, 59, 999_999, tzinfo=UTC)


def rows_of(count: int, *, as_array: bool) -> DetectionRows:
    rng = np.random.default_rng(count)
    ids = [uuid.UUID(bytes=rng.bytes(16)) for _ in range(count)]
    return DetectionRows(
        frames=np.arange(count, dtype=np.int32),
        timestamps=np.datetime64(START.replace(tzinfo=None), "us") + np.arange(count) * np.timedelta64(1, "us"),
        class_ids=rng.integers(-5, 1002, count).astype(np.int16),
        confidences=rng.random(count, dtype=np.float32),
        boxes=rng.random((count, 4), dtype=np.float32),
        ids=np.frombuffer(b"".join(row_id.bytes for row_id in ids), "V16") if as_array else ids,
    )


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_every_value_comes_back(database_url: str, count: int, as_array: bool) -> None:
    database = Database(database_url)
    ensure_days(database, [date(2026, 3, 1), date(2026, 3, 2)])
    rows = rows_of(count, as_array=as_array)
    with database.transaction() as connection:
        write_detections(connection, "camera-ü", "blurred/ab/key.mp4", rows)
        got = connection.execute(
            'SELECT id, camera_id, "timestamp", class_id, confidence, bbox, track_id, clip_s3_key'
            ' FROM warehouse.detections ORDER BY "timestamp"'
        ).fetchall()
    expected_ids = [uuid.UUID(bytes=bytes(i)) for i in rows.ids] if as_array else list(rows.ids)
    assert [row[0] for row in got] == expected_ids
    assert [row[2] for row in got] == [START + timedelta(microseconds=n) for n in range(count)]
    assert [row[3] for row in got] == rows.class_ids.tolist()
    assert np.array_equal(np.array([row[4] for row in got], np.float32), rows.confidences)
    assert np.array_equal(np.array([row[5] for row in got], np.float32).reshape(-1, 4), rows.boxes)
    assert {(row[1], row[6], row[7]) for row in got} <= {("camera-ü", None, "blurred/ab/key.mp4")}


def test_blocks_bound_memory_and_make_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [binary_copy.int2(np.arange(10)), binary_copy.text("x")]
    whole = b"".join(binary_copy.blocks(10, columns))
    monkeypatch.setattr(binary_copy, "_BLOCK_ROWS", 3)
    parts = list(binary_copy.blocks(10, columns))
    assert b"".join(parts) == whole
    assert len(parts) == 2 + 4
