"""What every tracker's step does with its rows, compiled: take down matches, pack the answer, close the gaps.

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


Table = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""A tracker's state: filters, marks, counters. A row a live track; rows beyond `counters[LIVE]` are spare."""

Columns = tuple[
    npt.NDArray[np.float32],
    npt.NDArray[np.float32],
    npt.NDArray[np.int16],
    npt.NDArray[np.int32],
    npt.NDArray[np.int64],
]
"""A frame's boxes, scores, class ids, and room for track ids and row numbers: a step packs what it keeps to the front.

Plain tuples, since handing a named one to a compiled function takes a third of a step's time.
"""


@compiled
def begin(mark: npt.NDArray[np.int64], class_id: int) -> None:
    """Clear the marks of a new track."""
    for column in range(len(mark)):
        mark[column] = 0
    mark[CLASS] = class_id


@compiled
def take_down(
    found: npt.NDArray[np.int64], detection_of: npt.NDArray[np.int64], track_of: npt.NDArray[np.int64]
) -> None:
    """Add a round's matches, the detection of each track or -1, to those of the rounds before."""
    for t in range(len(found)):
        if found[t] >= 0:
            detection_of[t] = found[t]
            track_of[found[t]] = t


@compiled
def answer(kept: int, row: int, mark: npt.NDArray[np.int64], counters: npt.NDArray[np.int64], columns: Columns) -> None:
    """Detection `row` belongs to the track of `mark`, which is confirmed: put it to place `kept` of the answer."""
    confirm(mark, counters)
    keep(kept, row, mark[TRACK_ID], columns)


@compiled
def confirm(mark: npt.NDArray[np.int64], counters: npt.NDArray[np.int64]) -> None:
    """Give the track of `mark` the next id, unless it has one."""
    if mark[TRACK_ID] == 0:
        mark[TRACK_ID] = counters[NEXT_ID]
        counters[NEXT_ID] += 1


@compiled
def keep(kept: int, row: int, track_id: int, columns: Columns) -> None:
    """Move detection `row` to place `kept` (no later than `row`) of the columns, in place."""
    boxes, scores, class_ids, track_ids, rows = columns
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
