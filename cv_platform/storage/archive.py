"""Model outputs as Parquet: what the cold tier keeps when the warm one has let go."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cv_platform.storage.warehouse import DetectionRows

if TYPE_CHECKING:
    import pyarrow as pa


def detection_schema() -> pa.Schema:
    """The columns of warehouse.detections, with the frame's index beside them."""
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.string()),
            ("camera_id", pa.string()),
            ("timestamp", pa.timestamp("us", tz="UTC")),
            ("frame", pa.int32()),
            ("class_id", pa.int16()),
            ("confidence", pa.float32()),
            ("bbox", pa.list_(pa.float32(), 4)),
            ("clip_s3_key", pa.string()),
        ]
    )


def write_detections_file(path: Path, camera_id: str, clip_s3_key: str, rows: DetectionRows) -> None:
    """Write a clip's detections as one Parquet file (zstd): the same rows give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = len(rows)
    table = pa.table(
        [
            pa.array(_texts(rows.ids), pa.string()),
            pa.array([camera_id] * n, pa.string()),
            pa.array(rows.timestamps.astype("datetime64[us]"), pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC")),
            pa.array(rows.frames, pa.int32()),
            pa.array(rows.class_ids, pa.int16()),
            pa.array(rows.confidences, pa.float32()),
            pa.FixedSizeListArray.from_arrays(pa.array(rows.boxes.reshape(-1), pa.float32()), 4),
            pa.array([clip_s3_key] * n, pa.string()),
        ],
        schema=detection_schema(),
    )
    pq.write_table(table, path, compression="zstd")


def _texts(ids: Sequence[uuid.UUID] | npt.NDArray[np.void]) -> list[str]:
    if isinstance(ids, np.ndarray):
        return [str(uuid.UUID(bytes=bytes(row_id))) for row_id in ids]
    return [str(row_id) for row_id in ids]
