"""ByteTrack: weak detections extend tracks, strong ones start them. Zhang et al., ECCV 2022."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled
from cv_platform.vision.tracking import aspect_filter, kalman
from cv_platform.vision.tracking.assignment import match
from cv_platform.vision.tracking.base import OutputBoxes
from cv_platform.vision.tracking.overlap import iou_matrix
from cv_platform.vision.tracking.rows import (
    CLASS,
    FRAME,
    LIVE,
    MISSES,
    TRACK_ID,
    Columns,
    Table,
    answer,
    aspect_of_corners,
    begin,
    corners_of_aspect,
    drop,
    has_area,
    take_down,
)
from cv_platform.vision.tracking.table import TableTracker, check_fractions, check_frames

AGE = 3
MARKS = 4

SECOND_LIMIT = 0.5
PROBATION_LIMIT = 0.7
DUPLICATE_IOU = 0.85


class ByteTracker(TableTracker):
    """Tracks are matched to strong detections first, then those seen a frame ago to weak ones.

    A track is confirmed by its second match (in a camera's first frame at once). Tracks and detections of different
    classes are never matched.

    Args:
        track_threshold: least score of a strong detection.
        low_threshold: least score of a weak one; below it a detection is not looked at.
        new_threshold: least score of a detection that may start a track.
        match_threshold: greatest cost (1 - IoU × score) of a match with a strong detection.
        track_buffer: frames that a track lives without a detection.
        boxes: what boxes to answer with, see `OutputBoxes`.
    """

    kind = "bytetrack"

    def __init__(
        self,
        track_threshold: float = 0.5,
        low_threshold: float = 0.1,
        new_threshold: float = 0.6,
        match_threshold: float = 0.8,
        track_buffer: int = 30,
        *,
        boxes: OutputBoxes = "filtered",
    ) -> None:
        check_fractions(
            track_threshold=track_threshold,
            low_threshold=low_threshold,
            new_threshold=new_threshold,
            match_threshold=match_threshold,
        )
        check_frames(track_buffer=track_buffer)
        self.track_threshold, self.low_threshold = float(track_threshold), float(low_threshold)
        self.new_threshold, self.match_threshold = float(new_threshold), float(match_threshold)
        self.track_buffer = int(track_buffer)
        super().__init__(
            filter_width=kalman.WIDTH,
            mark_width=MARKS,
            boxes=boxes,
            parameters={
                "track_threshold": self.track_threshold,
                "low_threshold": self.low_threshold,
                "new_threshold": self.new_threshold,
                "match_threshold": self.match_threshold,
                "track_buffer": self.track_buffer,
            },
        )

    def _step(self, columns: Columns) -> int:
        return _step(
            self._table,
            columns,
            self.track_threshold,
            self.low_threshold,
            self.new_threshold,
            self.match_threshold,
            self.track_buffer,
            self.boxes == "filtered",
        )


@compiled
def _step(
    table: Table,
    columns: Columns,
    track_threshold: float,
    low_threshold: float,
    new_threshold: float,
    match_threshold: float,
    track_buffer: int,
    filtered: bool,
) -> int:
    """One frame; packs the detections of confirmed tracks to the front of the columns and returns how many."""
    filters, marks, counters = table
    boxes, scores, class_ids, _, _ = columns
    counters[FRAME] += 1
    live, n = counters[LIVE], len(boxes)
    for t in range(live):
        if marks[t, MISSES] > 0:
            filters[t, kalman.VELOCITY + 3] = 0.0  # a lost track keeps its height
        marks[t, AGE] += 1
    predicted = aspect_filter.predict_tracks(filters, marks, live)
    overlaps = iou_matrix(predicted, marks, boxes, class_ids)

    # in three rounds: confirmed tracks with strong detections, those seen a frame ago with weak ones, and the tracks on
    # probation with the strong ones that are left
    detection_of = np.full(live, -1, np.int64)
    track_of = np.full(n, -1, np.int64)
    for turn in range(3):
        similarity = np.zeros((live, n))
        for t in range(live):
            on_probation = marks[t, TRACK_ID] == 0
            if detection_of[t] >= 0 or on_probation != (turn == 2) or (turn == 1 and marks[t, MISSES] > 1):
                continue
            for d in range(n):
                strong = scores[d] > track_threshold
                if track_of[d] >= 0 or strong == (turn == 1) or scores[d] <= low_threshold or overlaps[t, d] <= 0.0:
                    continue
                if turn == 0:
                    similarity[t, d] = match_threshold - (1.0 - overlaps[t, d] * scores[d])
                elif turn == 1:
                    similarity[t, d] = SECOND_LIMIT - (1.0 - overlaps[t, d])
                else:
                    similarity[t, d] = PROBATION_LIMIT - (1.0 - overlaps[t, d] * scores[d])
        take_down(match(similarity), detection_of, track_of)

    gone = np.zeros(live + n, np.bool_)
    measured = np.empty(4)
    for t in range(live):
        d = detection_of[t]
        if d >= 0:
            aspect_of_corners(boxes[d], measured)
            aspect_filter.correct(filters[t], measured)
            marks[t, MISSES] = 0
        else:
            gone[t] = marks[t, TRACK_ID] == 0 or marks[t, MISSES] > track_buffer
    for d in range(n):
        if track_of[d] < 0 and scores[d] >= new_threshold and scores[d] > track_threshold and has_area(boxes[d]):
            aspect_of_corners(boxes[d], measured)
            aspect_filter.start(filters[live], measured)
            begin(marks[live], class_ids[d])
            track_of[d] = live
            live += 1

    kept = 0
    for d in range(n):
        t = track_of[d]
        if t >= 0 and (marks[t, AGE] > 0 or counters[FRAME] == 1):
            answer(kept, d, marks[t], counters, columns)
            if filtered:
                corners_of_aspect(filters[t], boxes[kept])
            kept += 1

    _forget_duplicates(filters, marks, live, gone)
    counters[LIVE] = drop(filters, marks, live, gone)
    return kept


@compiled
def _forget_duplicates(
    filters: npt.NDArray[np.float64], marks: npt.NDArray[np.int64], live: int, gone: npt.NDArray[np.bool_]
) -> None:
    """Where a lost track lies on a seen one, the younger of the two goes."""
    corners = np.zeros((live, 4))
    for t in range(live):
        corners_of_aspect(filters[t], corners[t])
    for lost in range(live):
        if gone[lost] or marks[lost, MISSES] == 0:
            continue
        for seen in range(live):
            if gone[seen] or marks[seen, MISSES] > 0 or marks[seen, CLASS] != marks[lost, CLASS]:
                continue
            a, b = corners[lost], corners[seen]
            width = min(a[2], b[2]) - max(a[0], b[0])
            height = min(a[3], b[3]) - max(a[1], b[1])
            if width <= 0.0 or height <= 0.0:
                continue
            shared = width * height
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
            if shared > DUPLICATE_IOU * union:
                younger = lost if marks[lost, AGE] - marks[lost, MISSES] <= marks[seen, AGE] else seen
                gone[younger] = True
                if younger == lost:
                    break
