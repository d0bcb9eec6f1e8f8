"""What every tracker's step does with its rows at the end, compiled: pack the answer, close the gaps.

A tracker's `marks` begin with the columns TRACK_ID (0 until the track is confirmed), MISSES (frames since the last
match) and CLASS; its `counters` are LIVE, FRAME, NEXT_ID.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled

LIVE, FRAME, NEXT_ID = 0, 1, 2
TRACK_ID, MISSES, CLASS = 0, 1, 2


@compiled
def confirm(mark: npt.NDArray[np.int64], counters: npt.NDArray[np.int64]) -> None:
    """Give the track of `mark` the next id, unless it has one."""
    if mark[TRACK_ID] == 0:
        mark[TRACK_ID] = counters[NEXT_ID]
        counters[NEXT_ID] += 1


@compiled
def keep(
    kept: int,
    row: int,
    track_id: int,
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int16],
    track_ids: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
) -> None:
    """Move detection `row` to place `kept` (no later than `row`) of the columns, in place."""
    for corner in range(4):
        boxes[kept, corner] = boxes[row, corner]
    scores[kept] = scores[row]
    class_ids[kept] = class_ids[row]
    track_ids[kept] = track_id
    rows[kept] = row


@compiled
def drop(filters: npt.NDArray[np.float64], marks: npt.NDArray[np.int64], live: int, gone: npt.NDArray[np.bool_]) -> int:
    """Close the gaps that the tracks marked in `gone` (live,) leave, in order; returns how many are left."""
    left = 0
    for t in range(live):
        if gone[t]:
            continue
        move(filters, marks, t, left)
        left += 1
    return left


@compiled
def drop_missing(filters: npt.NDArray[np.float64], marks: npt.NDArray[np.int64], live: int, max_age: int) -> int:
    """Drop the tracks that were missed for more than `max_age` frames; returns how many are left."""
    left = 0
    for t in range(live):
        if marks[t, MISSES] <= max_age:
            move(filters, marks, t, left)
            left += 1
    return left


@compiled
def move(filters: npt.NDArray[np.float64], marks: npt.NDArray[np.int64], old: int, new: int) -> None:
    """Copy row `old` over row `new`."""
    if old != new:
        for column in range(filters.shape[1]):
            filters[new, column] = filters[old, column]
        for column in range(marks.shape[1]):
            marks[new, column] = marks[old, column]


@compiled
def corners_of_area(row: npt.NDArray[np.float64], box: npt.NDArray[Any]) -> bool:
    """Centre x, centre y, area, width/height to x1, y1, x2, y2 in `box`; False, `box` untouched, where impossible."""
    if not (row[2] > 0.0 and row[3] > 0.0):
        return False
    width = np.sqrt(row[2] * row[3])
    height = row[2] / width
    box[0] = row[0] - width / 2.0
    box[1] = row[1] - height / 2.0
    box[2] = row[0] + width / 2.0
    box[3] = row[1] + height / 2.0
    return True


@compiled
def area_of_corners(box: npt.NDArray[np.float32], measured: npt.NDArray[np.float64]) -> None:
    """x1, y1, x2, y2 to centre x, centre y, area, width/height in `measured`; the box must have an area."""
    width = np.float64(box[2]) - box[0]
    height = np.float64(box[3]) - box[1]
    measured[0] = box[0] + width / 2.0
    measured[1] = box[1] + height / 2.0
    measured[2] = width * height
    measured[3] = width / height


@compiled
def corners_of_aspect(row: npt.NDArray[np.float64], box: npt.NDArray[Any]) -> bool:
    """Centre x, centre y, width/height, height to x1, y1, x2, y2 in `box`; False, `box` untouched, where impossible."""
    if not (row[2] > 0.0 and row[3] > 0.0):
        return False
    width = row[2] * row[3]
    box[0] = row[0] - width / 2.0
    box[1] = row[1] - row[3] / 2.0
    box[2] = row[0] + width / 2.0
    box[3] = row[1] + row[3] / 2.0
    return True


@compiled
def aspect_of_corners(box: npt.NDArray[np.float32], measured: npt.NDArray[np.float64]) -> None:
    """x1, y1, x2, y2 to centre x, centre y, width/height, height in `measured`; the box must have an area."""
    width = np.float64(box[2]) - box[0]
    height = np.float64(box[3]) - box[1]
    measured[0] = box[0] + width / 2.0
    measured[1] = box[1] + height / 2.0
    measured[2] = width / height
    measured[3] = height


@compiled
def has_area(box: npt.NDArray[np.float32]) -> bool:
    """Whether there is anything to follow: a box without area overlaps nothing and has no aspect ratio."""
    return bool(box[2] > box[0] and box[3] > box[1])
