"""DeepSORT: motion says what is possible, appearance says what is likely. Wojke et al., ICIP 2017."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled
from cv_platform.vision.detections import Detections
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
)
from cv_platform.vision.tracking.table import TableTracker, check_fractions, check_frames

if TYPE_CHECKING:
    from cv_platform.vision.embeddings import Embedder

HITS, VECTORS = 3, 4
MARKS = 5

GATE = 9.4877
"""0.95 quantile of the chi-square distribution with 4 degrees of freedom: the squared Mahalanobis distance allowed."""


class DeepSortTracker(TableTracker):
    """Confirmed tracks are matched by appearance, the most recently seen first; what is left by IoU.

    Each track keeps its last `budget` vectors; the distance to a detection is the least cosine distance to any of them.
    Embeddings come with the detections, or from the embedder and the frame. They are personal data, and so is this
    tracker's state. Tracks and detections of different classes are never matched.

    Args:
        embedder: makes vectors of detections that bring none; None where all do.
        score_threshold: least score of a detection that is looked at.
        max_cosine_distance: greatest distance of a match by appearance, 0..1.
        max_iou_distance: greatest 1 - IoU of a match by place.
        max_age: frames that a track lives without a detection.
        n_init: matches, the first detection counted, that confirm a track.
        budget: vectors that a track keeps; >= 1.
        boxes: what boxes to answer with, see `OutputBoxes`.
    """

    kind = "deepsort"

    def __init__(
        self,
        embedder: Embedder | None = None,
        *,
        score_threshold: float = 0.3,
        max_cosine_distance: float = 0.2,
        max_iou_distance: float = 0.7,
        max_age: int = 30,
        n_init: int = 3,
        budget: int = 100,
        boxes: OutputBoxes = "filtered",
    ) -> None:
        check_fractions(
            score_threshold=score_threshold,
            max_cosine_distance=max_cosine_distance,
            max_iou_distance=max_iou_distance,
        )
        check_frames(max_age=max_age, n_init=n_init, budget=budget)
        if n_init < 1 or budget < 1:
            raise ValueError(f"n_init is {n_init}, budget {budget}; allowed is 1 or more")
        self.embedder = embedder
        self.score_threshold, self.max_cosine_distance = float(score_threshold), float(max_cosine_distance)
        self.max_iou_distance = float(max_iou_distance)
        self.max_age, self.n_init, self.budget = int(max_age), int(n_init), int(budget)
        super().__init__(
            filter_width=kalman.WIDTH,
            mark_width=MARKS,
            boxes=boxes,
            parameters={
                "embedder": None if embedder is None else embedder.version,
                "score_threshold": self.score_threshold,
                "max_cosine_distance": self.max_cosine_distance,
                "max_iou_distance": self.max_iou_distance,
                "max_age": self.max_age,
                "n_init": self.n_init,
                "budget": self.budget,
            },
        )
        self._gallery = np.zeros((0, self.budget, 0 if embedder is None else embedder.dimension), np.float32)
        self._vectors = np.empty((0, 0), np.float32)

    def update(self, detections: Detections, *, frame: npt.NDArray[np.uint8] | None = None) -> Detections:
        """Advance by one frame: see `Tracker.update`.

        Raises:
            ValueError: where the detections bring no embeddings and there is no embedder or no frame to make them, or
                their length is not that of the vectors before.
        """
        self._vectors = self._look(detections, frame)
        if len(self._vectors) and self._vectors.shape[1] != self._gallery.shape[2]:
            if int(self._counters[LIVE]) or self.embedder is not None:
                found, allowed = self._vectors.shape[1], self._gallery.shape[2]
                raise ValueError(f"the embeddings have length {found}; allowed is that of the tracks', {allowed}")
            self._gallery = np.zeros((len(self._marks), self.budget, self._vectors.shape[1]), np.float32)
        return super().update(detections)

    def state_dict(self) -> dict[str, Any]:
        """See `Tracker.state_dict`. `vectors` are the tracks' galleries, oldest first, one track after the other."""
        live = int(self._counters[LIVE])
        kept = np.minimum(self._marks[:live, VECTORS], self.budget)
        newest = self._marks[:live, VECTORS]
        # vector number v of a track stands at v % budget
        rows = np.repeat(np.arange(live), kept)
        numbers = np.concatenate([np.arange(n - k, n) for n, k in zip(newest, kept, strict=True)] or [kept])
        return {**super().state_dict(), "vectors": self._gallery[rows, numbers % self.budget]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Tracker.load_state_dict`. Raises ValueError for a state of another tracker or other parameters."""
        super().load_state_dict(state)
        live = int(self._counters[LIVE])
        vectors = np.asarray(state["vectors"], np.float32)
        newest = self._marks[:live, VECTORS]
        kept = np.minimum(newest, self.budget)
        if vectors.ndim != 2 or len(vectors) != kept.sum():
            raise ValueError(f"vectors of the state have shape {vectors.shape}; allowed: ({kept.sum()}, D)")
        self._gallery = np.zeros((len(self._marks), self.budget, vectors.shape[1]), np.float32)
        rows = np.repeat(np.arange(live), kept)
        numbers = np.concatenate([np.arange(n - k, n) for n, k in zip(newest, kept, strict=True)] or [kept])
        self._gallery[rows, numbers % self.budget] = vectors

    def _look(self, detections: Detections, frame: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.float32]:
        """Vectors of all detections, each of length 1 (or 0, where there is nothing to see)."""
        if detections.embeddings is not None:
            vectors = detections.embeddings
        elif len(detections) == 0:
            return np.empty((0, self._gallery.shape[2]), np.float32)
        elif self.embedder is None:
            raise ValueError("the detections bring no embeddings; give them some, or the tracker an embedder")
        elif frame is None:
            raise ValueError("the detections bring no embeddings; give `frame`, so that the embedder can make them")
        else:
            vectors = self.embedder.embed(frame, detections.boxes)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.zeros(vectors.shape, np.float32)
        np.divide(vectors, lengths, out=unit, where=lengths > 0)
        return unit

    def _step(self, columns: Columns) -> int:
        live = int(self._counters[LIVE])
        if len(self._gallery) < len(self._marks):
            grown = np.zeros((len(self._marks), *self._gallery.shape[1:]), np.float32)
            grown[: len(self._gallery)] = self._gallery
            self._gallery = grown
        return _step(
            self._table,
            columns,
            self._gallery,
            self._vectors,
            self._likeness(live, len(columns[0])),
            self.score_threshold,
            self.max_cosine_distance,
            self.max_iou_distance,
            self.max_age,
            self.n_init,
            self.boxes == "filtered",
        )

    def _likeness(self, live: int, count: int) -> npt.NDArray[np.float32]:
        """Greatest cosine of any vector of each live track (live, N) with each detection: one product for all."""
        likeness = np.full((live, count), -1.0, np.float32)
        kept = np.minimum(self._marks[:live, VECTORS], self.budget)
        if kept.sum() == 0 or count == 0:
            return likeness
        filled = np.arange(self.budget) < kept[:, None]
        product = self._gallery[:live][filled] @ self._vectors.T
        some = np.flatnonzero(kept)
        starts = np.concatenate([[0], np.cumsum(kept[some])[:-1]])
        likeness[some] = np.maximum.reduceat(product, starts, axis=0)
        return likeness


@compiled
def _step(
    table: Table,
    columns: Columns,
    gallery: npt.NDArray[np.float32],
    vectors: npt.NDArray[np.float32],
    likeness: npt.NDArray[np.float32],
    score_threshold: float,
    max_cosine_distance: float,
    max_iou_distance: float,
    max_age: int,
    n_init: int,
    filtered: bool,
) -> int:
    """One frame; packs the detections of confirmed tracks to the front of the columns and returns how many."""
    filters, marks, counters = table
    boxes, scores, class_ids, _, _ = columns
    counters[FRAME] += 1
    live, n = counters[LIVE], len(boxes)
    predicted = aspect_filter.predict_tracks(filters, marks, live)
    free = np.zeros(n, np.bool_)
    measured = np.zeros((n, 4))
    for d in range(n):
        free[d] = scores[d] >= score_threshold and has_area(boxes[d])
        if free[d]:
            aspect_of_corners(boxes[d], measured[d])

    detection_of = _cascade(filters, marks, live, measured, class_ids, free, likeness, max_cosine_distance, max_age)
    _match_by_place(detection_of, predicted, marks, boxes, class_ids, free, max_iou_distance)

    track_of = np.full(n, -1, np.int64)
    gone = np.zeros(live + n, np.bool_)
    for t in range(live):
        d = detection_of[t]
        if d >= 0:
            aspect_filter.correct(filters[t], measured[d])
            marks[t, MISSES] = 0
            marks[t, HITS] += 1
            track_of[d] = t
        else:
            gone[t] = marks[t, TRACK_ID] == 0 or marks[t, MISSES] > max_age
    for d in range(n):
        if free[d]:
            aspect_filter.start(filters[live], measured[d])
            begin(marks[live], class_ids[d])
            marks[live, HITS] = 1
            track_of[d] = live
            live += 1

    kept = 0
    for d in range(n):
        t = track_of[d]
        if t < 0:
            continue
        gallery[t, marks[t, VECTORS] % gallery.shape[1]] = vectors[d]
        marks[t, VECTORS] += 1
        if marks[t, HITS] >= n_init:
            answer(kept, d, marks[t], counters, columns)
            if filtered:
                corners_of_aspect(filters[t], boxes[kept])
            kept += 1

    left = 0
    for t in range(live):
        if not gone[t]:
            if left != t:
                gallery[left] = gallery[t]
            left += 1
    counters[LIVE] = drop(filters, marks, live, gone)
    return kept


@compiled
def _cascade(
    filters: npt.NDArray[np.float64],
    marks: npt.NDArray[np.int64],
    live: int,
    measured: npt.NDArray[np.float64],
    class_ids: npt.NDArray[np.int16],
    free: npt.NDArray[np.bool_],
    likeness: npt.NDArray[np.float32],
    max_cosine_distance: float,
    max_age: int,
) -> npt.NDArray[np.int64]:
    """Match confirmed tracks by appearance within the gate of motion, those seen last first; clears `free`."""
    n = len(free)
    detection_of = np.full(live, -1, np.int64)
    similarity = np.zeros((live, n))
    waiting = np.zeros(max_age + 2, np.bool_)
    for t in range(live):
        if marks[t, TRACK_ID] == 0:
            continue
        waiting[min(marks[t, MISSES], max_age + 1)] = True
        noise = aspect_filter.measurement_noise(filters[t])
        for d in range(n):
            distance = 1.0 - likeness[t, d]
            if not free[d] or marks[t, CLASS] != class_ids[d] or distance > max_cosine_distance:
                continue
            surprise = 0.0
            for axis in range(kalman.AXES):
                spread = filters[t, kalman.POSITION_VARIANCE + axis] + noise[axis]
                surprise += (measured[d, axis] - filters[t, axis]) ** 2 / spread
            if surprise <= GATE:
                # a pair at the limit still counts as a pair
                similarity[t, d] = max_cosine_distance - distance + 1e-9
    level = np.empty((live, n))
    for misses in range(1, max_age + 2):
        if not waiting[misses]:
            continue
        level[:] = 0.0
        for t in range(live):
            if marks[t, TRACK_ID] > 0 and marks[t, MISSES] == misses:
                for d in range(n):
                    if free[d]:
                        level[t, d] = similarity[t, d]
        found = match(level)
        for t in range(live):
            if found[t] >= 0:
                detection_of[t] = found[t]
                free[found[t]] = False
    return detection_of


@compiled
def _match_by_place(
    detection_of: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.float64],
    marks: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int16],
    free: npt.NDArray[np.bool_],
    max_iou_distance: float,
) -> None:
    """Match tracks on probation, and those seen a frame ago, by IoU; writes `detection_of` and clears `free`."""
    live = len(detection_of)
    similarity = iou_matrix(predicted, marks, boxes, class_ids)
    for t in range(live):
        candidate = detection_of[t] < 0 and marks[t, MISSES] == 1
        for d in range(len(boxes)):
            overlap = similarity[t, d]
            if candidate and free[d] and overlap > 0.0 and 1.0 - overlap <= max_iou_distance:
                similarity[t, d] = overlap - (1.0 - max_iou_distance) + 1e-9
            else:
                similarity[t, d] = 0.0
    found = match(similarity)
    for t in range(live):
        if found[t] >= 0:
            detection_of[t] = found[t]
            free[found[t]] = False
