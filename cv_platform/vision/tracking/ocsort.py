"""OC-SORT: the last observation counts for more than the filter's guess. Cao et al., CVPR 2023.

Three additions to SORT: candidates are preferred in the direction in which the track was going (momentum), tracks that
were lost are matched once more at the place where they were last seen (recovery), and a track that comes back has its
filter re-run along the straight line between its two observations (re-update).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled
from cv_platform.vision.tracking import area_filter, kalman
from cv_platform.vision.tracking.area_filter import STREAK
from cv_platform.vision.tracking.assignment import match
from cv_platform.vision.tracking.base import OutputBoxes
from cv_platform.vision.tracking.overlap import iou_matrix
from cv_platform.vision.tracking.rows import (
    FRAME,
    LIVE,
    MISSES,
    Columns,
    Table,
    begin,
    drop_missing,
    has_area,
    take_down,
)
from cv_platform.vision.tracking.table import TableTracker, check_fractions, check_frames

AGE = 4
MARKS = 5

# Columns after the filter: the filter as it was in the first frame without a match, the last observed box, the
# direction of travel (dy, dx), then a ring of observed boxes by age, each with its age + 1 (0: none yet).
FROZEN = kalman.WIDTH
LAST = 2 * kalman.WIDTH
DIRECTION = LAST + 4
RING = DIRECTION + 2
RING_ENTRY = 5


class OcSortTracker(TableTracker):
    """SORT centred on observations.

    Tracks and detections of different classes are never matched.

    Args:
        score_threshold: least score of a detection that is looked at.
        max_age: frames that a track lives without a detection.
        min_hits: consecutive matches after which a track counts as confirmed.
        iou_threshold: least IoU of a match.
        delta_t: frames over which the direction of travel is measured; >= 1.
        inertia: weight of the direction against the IoU.
        boxes: what boxes to answer with, see `OutputBoxes`; the paper's are the measured ones.
    """

    kind = "ocsort"

    def __init__(
        self,
        score_threshold: float = 0.6,
        max_age: int = 30,
        min_hits: int = 3,
        iou_threshold: float = 0.3,
        delta_t: int = 3,
        inertia: float = 0.2,
        *,
        boxes: OutputBoxes = "measured",
    ) -> None:
        check_fractions(score_threshold=score_threshold, iou_threshold=iou_threshold, inertia=inertia)
        check_frames(max_age=max_age, min_hits=min_hits, delta_t=delta_t)
        if delta_t < 1:
            raise ValueError(f"delta_t is {delta_t}; allowed is a whole number of frames >= 1")
        self.score_threshold, self.iou_threshold = float(score_threshold), float(iou_threshold)
        self.inertia = float(inertia)
        self.max_age, self.min_hits, self.delta_t = int(max_age), int(min_hits), int(delta_t)
        super().__init__(
            filter_width=RING + RING_ENTRY * self.delta_t,
            mark_width=MARKS,
            boxes=boxes,
            parameters={
                "score_threshold": self.score_threshold,
                "max_age": self.max_age,
                "min_hits": self.min_hits,
                "iou_threshold": self.iou_threshold,
                "delta_t": self.delta_t,
                "inertia": self.inertia,
            },
        )

    def _step(self, columns: Columns) -> int:
        return _step(
            self._table,
            columns,
            self.score_threshold,
            self.max_age,
            self.min_hits,
            self.iou_threshold,
            self.delta_t,
            self.inertia,
            self.boxes == "filtered",
        )


@compiled
def _step(
    table: Table,
    columns: Columns,
    score_threshold: float,
    max_age: int,
    min_hits: int,
    iou_threshold: float,
    delta_t: int,
    inertia: float,
    filtered: bool,
) -> int:
    """One frame; packs the detections of confirmed tracks to the front of the columns and returns how many."""
    filters, marks, counters = table
    boxes, scores, class_ids, _, _ = columns
    counters[FRAME] += 1
    n = len(boxes)
    marks[: counters[LIVE], AGE] += 1
    predicted, live = area_filter.predict_tracks(filters, marks, counters[LIVE])
    overlaps = iou_matrix(predicted[:live], marks, boxes, class_ids)

    similarity = np.zeros((live, n))
    for t in range(live):
        for d in range(n):
            if scores[d] > score_threshold and overlaps[t, d] >= iou_threshold and overlaps[t, d] > 0.0:
                turn = _momentum(filters[t], marks[t, AGE], boxes[d], delta_t) * inertia * scores[d]
                similarity[t, d] = overlaps[t, d] + turn
    detection_of, track_of = np.full(live, -1, np.int64), np.full(n, -1, np.int64)
    take_down(match(similarity), detection_of, track_of)

    # recovery: who is left, at the place where it was last seen
    overlaps = iou_matrix(filters[:live, LAST : LAST + 4], marks, boxes, class_ids)
    for t in range(live):
        for d in range(n):
            free = detection_of[t] < 0 and track_of[d] < 0 and scores[d] > score_threshold
            if not free or overlaps[t, d] < iou_threshold:
                overlaps[t, d] = 0.0
    take_down(match(overlaps), detection_of, track_of)

    measured = np.empty(4)
    for t in range(live):
        d = detection_of[t]
        if d < 0:
            if marks[t, MISSES] == 1:
                filters[t, FROZEN : FROZEN + kalman.WIDTH] = filters[t, : kalman.WIDTH]
            continue
        if marks[t, MISSES] > 1:
            _update_again(filters[t], boxes[d], marks[t, MISSES])
        area_filter.correct(filters[t], boxes[d], measured)
        _observe(filters[t], marks[t, AGE], boxes[d], delta_t)
        marks[t, MISSES] = 0
        marks[t, STREAK] += 1
    for d in range(n):
        if track_of[d] < 0 and scores[d] > score_threshold and has_area(boxes[d]):
            filters[live] = 0.0
            area_filter.start(filters[live], boxes[d], measured)
            _remember(filters[live], 0, boxes[d], delta_t)
            begin(marks[live], class_ids[d])
            track_of[d] = live
            live += 1

    kept = area_filter.answers(table, columns, track_of, min_hits, filtered)
    counters[LIVE] = drop_missing(filters, marks, live, max_age)
    return kept


@compiled
def _remembered(row: npt.NDArray[np.float64], age: int, delta_t: int) -> int:
    """The column of the oldest observation within the last `delta_t` frames before `age`; the last one's if none."""
    for back in range(delta_t, 0, -1):
        then = age - back
        if then >= 0:
            column = RING + RING_ENTRY * (then % delta_t)
            if row[column + 4] == then + 1:
                return column
    return LAST


@compiled
def _towards(row: npt.NDArray[np.float64], column: int, box: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Unit vector (dy, dx) from the centre of the box in `row` at `column` to the centre of `box`; 0 where equal."""
    dx = (np.float64(box[0]) + box[2] - row[column] - row[column + 2]) / 2.0
    dy = (np.float64(box[1]) + box[3] - row[column + 1] - row[column + 3]) / 2.0
    length = np.sqrt(dx * dx + dy * dy)
    if length < 1e-6:
        return 0.0, 0.0
    return dy / length, dx / length


@compiled
def _momentum(row: npt.NDArray[np.float64], age: int, box: npt.NDArray[np.float32], delta_t: int) -> float:
    """How well `box` lies in the direction of travel: 0.5 straight ahead, -0.5 straight back, 0 where none is known."""
    if row[DIRECTION] == 0.0 and row[DIRECTION + 1] == 0.0:
        return 0.0
    dy, dx = _towards(row, _remembered(row, age, delta_t), box)
    cosine = min(1.0, max(-1.0, dy * row[DIRECTION] + dx * row[DIRECTION + 1]))
    return float((np.pi / 2.0 - np.arccos(cosine)) / np.pi)


@compiled
def _observe(row: npt.NDArray[np.float64], age: int, box: npt.NDArray[np.float32], delta_t: int) -> None:
    """Measure the direction of travel to `box`, then remember `box`."""
    dy, dx = _towards(row, _remembered(row, age, delta_t), box)
    row[DIRECTION] = dy
    row[DIRECTION + 1] = dx
    _remember(row, age, box, delta_t)


@compiled
def _remember(row: npt.NDArray[np.float64], age: int, box: npt.NDArray[np.float32], delta_t: int) -> None:
    column = RING + RING_ENTRY * (age % delta_t)
    for corner in range(4):
        row[LAST + corner] = box[corner]
        row[column + corner] = box[corner]
    row[column + 4] = age + 1


@compiled
def _update_again(row: npt.NDArray[np.float64], box: npt.NDArray[np.float32], gap: int) -> None:
    """Go back to the first of `gap - 1` frames without a match and walk straight from the last observation to `box`.

    Leaves the filter predicted for the present frame, to be corrected by `box` itself.
    """
    row[: kalman.WIDTH] = row[FROZEN : FROZEN + kalman.WIDTH]
    measured = np.empty(4)
    old_width, old_height = row[LAST + 2] - row[LAST], row[LAST + 3] - row[LAST + 1]
    new_width, new_height = np.float64(box[2]) - box[0], np.float64(box[3]) - box[1]
    old_x, old_y = row[LAST] + old_width / 2.0, row[LAST + 1] + old_height / 2.0
    new_x, new_y = box[0] + new_width / 2.0, box[1] + new_height / 2.0
    for k in range(1, gap):
        share = k / gap
        width = old_width + (new_width - old_width) * share
        height = old_height + (new_height - old_height) * share
        measured[0] = old_x + (new_x - old_x) * share
        measured[1] = old_y + (new_y - old_y) * share
        measured[2] = width * height
        measured[3] = width / height
        kalman.correct(row, measured, area_filter.MEASUREMENT_NOISE)
        area_filter.predict(row)
