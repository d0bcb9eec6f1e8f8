"""Parquet of a clip's detections: what went in comes out, and the same rows give the same bytes."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cv_platform.storage.archive import detection_schema, write_detections_file
from cv_platform.storage.warehouse import DetectionRows


def rows_of(n: int) -> DetectionRows:
    """Made-up rows."""
    rng = np.random.default_rng(n)
    return DetectionRows(
        frames=np.sort(rng.integers(0, 9, n)).astype(np.int32),
        timestamps=np.datetime64("2026-03-01T23:59:59.999999", "us") + np.arange(n).astype("timedelta64[us]"),
        class_ids=rng.integers(0, 1002, n).astype(np.int16),
        confidences=rng.random(n, np.float32),
        boxes=rng.random((n, 4), np.float32),
        ids=[uuid.UUID(int=k) for k in range(n)],
    )


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_rows_come_back(tmp_path: Path, n: int) -> None:
    rows = rows_of(n)
    write_detections_file(tmp_path / "a", "cam", "blurred/x.mp4", rows)
    table = pq.read_table(tmp_path / "a")
    assert table.schema == detection_schema()
    assert [uuid.UUID(text) for text in table["id"].to_pylist()] == list(rows.ids)
    assert np.array_equal(table["frame"].to_numpy(), rows.frames)
    assert np.array_equal(table["timestamp"].to_numpy(), rows.timestamps)
    assert np.array_equal(table["class_id"].to_numpy(), rows.class_ids)
    assert np.array_equal(table["confidence"].to_numpy(), rows.confidences)
    assert np.array_equal(np.array(table["bbox"].to_pylist(), np.float32).reshape(-1, 4), rows.boxes)
    assert set(table["camera_id"].to_pylist()) <= {"cam"}
    write_detections_file(tmp_path / "b", "cam", "blurred/x.mp4", rows)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
