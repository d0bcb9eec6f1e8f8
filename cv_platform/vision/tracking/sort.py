"""SORT: Kalman filter, IoU, assignment. Bewley et al., "Simple online and realtime tracking", ICIP 2016."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled
from cv_platform.vision.tracking import kalman
from cv_platform.vision.tracking.assignment import match
from cv_platform.vision.tracking.base import OutputBoxes
from cv_platform.vision.tracking.overlap import iou_matrix
from cv_platform.vision.tracking.rows import (
    CLASS,
    FRAME,
    LIVE,
    MISSES,
    TRACK_ID,
    area_of_corners,
    confirm,
    corners_of_area,
    drop_missing,
    has_area,
    keep,
    move,
)
from cv_platform.vision.tracking.table import Columns, TableTracker, check_fractions, check_frames

STREAK = 3
MARKS = 4

# Variances of the paper's filter. Axes: centre x, centre y, area, aspect ratio (which has no velocity).
START_POSITION = np.array([10.0, 10.0, 10.0, 10.0])
START_VELOCITY = np.array([10000.0, 10000.0, 10000.0, 0.0])
POSITION_NOISE = np.array([1.0, 1.0, 1.0, 1.0])
VELOCITY_NOISE = np.array([0.01, 0.01, 0.0001, 0.0])
MEASUREMENT_NOISE = np.array([1.0, 1.0, 10.0, 10.0])


class SortTracker(TableTracker):
    """The reference's behaviour, one call into machine code a frame.

    Tracks and detections of different classes are never matched.

    Args:
        max_age: frames that a track lives without a detection; >= 0.
        min_hits: consecutive matches after which a track counts as confirmed (in a camera's first `min_hits` frames
            every track does, as in the reference); >= 0.
        iou_threshold: least IoU of a match, 0..1.
        boxes: what boxes to answer with, see `OutputBoxes`.
    """

    kind = "sort"

    def __init__(
        self, max_age: int = 1, min_hits: int = 3, iou_threshold: float = 0.3, *, boxes: OutputBoxes = "filtered"
    ) -> None:
        check_frames(max_age=max_age, min_hits=min_hits)
        check_fractions(iou_threshold=iou_threshold)
        self.max_age, self.min_hits, self.iou_threshold = int(max_age), int(min_hits), float(iou_threshold)
        super().__init__(
            filter_width=kalman.WIDTH,
            mark_width=MARKS,
            boxes=boxes,
            parameters={"max_age": self.max_age, "min_hits": self.min_hits, "iou_threshold": self.iou_threshold},
        )

    def _step(self, columns: Columns) -> int:
        return _step(
            self._filters,
            self._marks,
            self._counters,
            columns.boxes,
            columns.scores,
            columns.class_ids,
            columns.track_ids,
            columns.rows,
            self.max_age,
            self.min_hits,
            self.iou_threshold,
            self.boxes == "filtered",
        )


@compiled
def _step(
    filters: npt.NDArray[np.float64],
    marks: npt.NDArray[np.int64],
    counters: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int16],
    track_ids: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    max_age: int,
    min_hits: int,
    iou_threshold: float,
    filtered: bool,
) -> int:
    """One frame; packs the detections of confirmed tracks to the front of the columns and returns how many."""
    counters[FRAME] += 1
    early = counters[FRAME] <= min_hits
    predicted, live = _predict(filters, marks, counters[LIVE])
    n = len(boxes)
    detection_of = associate(iou_matrix(predicted[:live], marks, boxes, class_ids), iou_threshold)

    track_of = np.full(n, -1, np.int64)
    measured = np.empty(4)
    for t in range(live):
        d = detection_of[t]
        if d >= 0:
            area_of_corners(boxes[d], measured)
            kalman.correct(filters[t], measured, MEASUREMENT_NOISE)
            marks[t, MISSES] = 0
            marks[t, STREAK] += 1
            track_of[d] = t
    for d in range(n):
        if track_of[d] < 0 and has_area(boxes[d]):
            area_of_corners(boxes[d], measured)
            kalman.start(filters[live], measured, START_POSITION, START_VELOCITY)
            marks[live, TRACK_ID] = 0
            marks[live, MISSES] = 0
            marks[live, CLASS] = class_ids[d]
            marks[live, STREAK] = 0
            track_of[d] = live
            live += 1

    kept = 0
    for d in range(n):
        t = track_of[d]
        if t >= 0 and (early or marks[t, STREAK] >= min_hits):
            confirm(marks[t], counters)
            keep(kept, d, marks[t, TRACK_ID], boxes, scores, class_ids, track_ids, rows)
            if filtered:
                corners_of_area(filters[t], boxes[kept])
            kept += 1

    counters[LIVE] = drop_missing(filters, marks, live, max_age)
    return kept


@compiled
def _predict(
    filters: npt.NDArray[np.float64], marks: npt.NDArray[np.int64], live: int
) -> tuple[npt.NDArray[np.float64], int]:
    """Advance all tracks; returns their boxes (live, 4) and how many are left: one whose area turned negative goes."""
    predicted = np.empty((live, 4))
    left = 0
    for t in range(live):
        row = filters[t]
        if row[2] + row[6] <= 0.0:
            row[6] = 0.0
        kalman.predict(row, POSITION_NOISE, VELOCITY_NOISE)
        if marks[t, MISSES] > 0:
            marks[t, STREAK] = 0
        marks[t, MISSES] += 1
        if not corners_of_area(row, predicted[left]):
            continue
        move(filters, marks, t, left)
        left += 1
    return predicted, left


@compiled
def associate(similarity: npt.NDArray[np.float64], iou_threshold: float) -> npt.NDArray[np.int64]:
    """The reference's rule: threshold alone where it leaves no choice, else the best total, then the threshold.

    Args:
        similarity: float64 (T, D), IoU.
        iou_threshold: least IoU of a match.

    Returns:
        int64 (T,): the detection of each track, -1 for none.
    """
    tracks, detections = similarity.shape
    detection_of = np.full(tracks, -1, np.int64)
    taken = np.zeros(detections, np.bool_)
    unique = True
    found = False
    for t in range(tracks):
        for d in range(detections):
            if similarity[t, d] > iou_threshold:
                if taken[d] or detection_of[t] >= 0:
                    unique = False
                taken[d] = True
                detection_of[t] = d
                found = True
    if unique and found:
        return detection_of
    detection_of = match(similarity)
    for t in range(tracks):
        if detection_of[t] >= 0 and similarity[t, detection_of[t]] < iou_threshold:
            detection_of[t] = -1
    return detection_of
