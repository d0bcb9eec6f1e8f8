"""The box filter of SORT (Bewley 2016) and OC-SORT (Cao 2023), and their rule of when to tell: centre, area, aspect
ratio; a track is told after so many matches in a row. Compiled.

Both trackers' `marks` have, after the common columns, STREAK: consecutive matches.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled
from cv_platform.vision.tracking import kalman
from cv_platform.vision.tracking.rows import (
    FRAME,
    MISSES,
    Columns,
    Table,
    answer,
    area_of_corners,
    corners_of_area,
    move,
)

Rows = npt.NDArray[np.float64]

STREAK = 3

# Variances of the paper's filter. Axes: centre x, centre y, area, aspect ratio (which has no velocity).
START_POSITION = np.array([10.0, 10.0, 10.0, 10.0])
START_VELOCITY = np.array([10000.0, 10000.0, 10000.0, 0.0])
POSITION_NOISE = np.array([1.0, 1.0, 1.0, 1.0])
VELOCITY_NOISE = np.array([0.01, 0.01, 0.0001, 0.0])
MEASUREMENT_NOISE = np.array([1.0, 1.0, 10.0, 10.0])


@compiled
def start(row: Rows, box: npt.NDArray[np.float32], measured: Rows) -> None:
    """Begin a filter in `row` at `box`, which has an area; `measured` (4,) is overwritten."""
    area_of_corners(box, measured)
    kalman.start(row, measured, START_POSITION, START_VELOCITY)


@compiled
def correct(row: Rows, box: npt.NDArray[np.float32], measured: Rows) -> None:
    """Correct the filter in `row` by `box`; `measured` (4,) is overwritten."""
    area_of_corners(box, measured)
    kalman.correct(row, measured, MEASUREMENT_NOISE)


@compiled
def predict(row: Rows) -> None:
    """Advance the filter in `row` by one frame; an area that would turn negative stays."""
    if row[2] + row[6] <= 0.0:
        row[6] = 0.0
    kalman.predict(row, POSITION_NOISE, VELOCITY_NOISE)


@compiled
def predict_tracks(filters: Rows, marks: npt.NDArray[np.int64], live: int) -> tuple[Rows, int]:
    """Advance all tracks; returns their boxes (live, 4) and how many are left: one whose area turned negative goes."""
    predicted = np.empty((live, 4))
    left = 0
    for t in range(live):
        row = filters[t]
        predict(row)
        if marks[t, MISSES] > 0:
            marks[t, STREAK] = 0
        marks[t, MISSES] += 1
        if not corners_of_area(row, predicted[left]):
            continue
        move(filters, marks, t, left)
        left += 1
    return predicted, left


@compiled
def answers(table: Table, columns: Columns, track_of: npt.NDArray[np.int64], min_hits: int, filtered: bool) -> int:
    """Pack the detections of tracks with `min_hits` matches in a row (at the beginning: of all); how many there are."""
    filters, marks, counters = table
    boxes, _, _, _, _ = columns
    early = counters[FRAME] <= min_hits
    kept = 0
    for d in range(len(track_of)):
        t = track_of[d]
        if t >= 0 and (early or marks[t, STREAK] >= min_hits):
            answer(kept, d, marks[t], counters, columns)
            if filtered:
                corners_of_area(filters[t], boxes[kept])
            kept += 1
    return kept
