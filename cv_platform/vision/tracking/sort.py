"""SORT: Kalman filter, IoU, assignment. Bewley et al., "Simple online and realtime tracking", ICIP 2016."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled
from cv_platform.vision.tracking import area_filter, kalman
from cv_platform.vision.tracking.area_filter import STREAK
from cv_platform.vision.tracking.assignment import match
from cv_platform.vision.tracking.base import OutputBoxes
from cv_platform.vision.tracking.overlap import iou_matrix
from cv_platform.vision.tracking.rows import FRAME, LIVE, MISSES, Columns, Table, begin, drop_missing, has_area
from cv_platform.vision.tracking.table import TableTracker, check_fractions, check_frames

MARKS = 4


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
            self._table,
            columns,
            self.max_age,
            self.min_hits,
            self.iou_threshold,
            self.boxes == "filtered",
        )


@compiled
def _step(
    table: Table,
    columns: Columns,
    max_age: int,
    min_hits: int,
    iou_threshold: float,
    filtered: bool,
) -> int:
    """One frame; packs the detections of confirmed tracks to the front of the columns and returns how many."""
    filters, marks, counters = table
    boxes, _, class_ids, _, _ = columns
    counters[FRAME] += 1
    predicted, live = area_filter.predict_tracks(filters, marks, counters[LIVE])
    n = len(boxes)
    detection_of = associate(iou_matrix(predicted[:live], marks, boxes, class_ids), iou_threshold)

    track_of = np.full(n, -1, np.int64)
    measured = np.empty(4)
    for t in range(live):
        d = detection_of[t]
        if d >= 0:
            area_filter.correct(filters[t], boxes[d], measured)
            marks[t, MISSES] = 0
            marks[t, STREAK] += 1
            track_of[d] = t
    for d in range(n):
        if track_of[d] < 0 and has_area(boxes[d]):
            area_filter.start(filters[live], boxes[d], measured)
            begin(marks[live], class_ids[d])
            track_of[d] = live
            live += 1

    kept = area_filter.answers(table, columns, track_of, min_hits, filtered)
    counters[LIVE] = drop_missing(filters, marks, live, max_age)
    return kept


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
