"""What every compiled tracker is in Python: arrays that grow, a step a frame, a state that can be saved.

State is three arrays: `filters` float64 (capacity, F), `marks` int64 (capacity, M) and `counters` int64 (LIVE, FRAME,
NEXT_ID), a row a live track; rows beyond `counters[LIVE]` are spare. A step is one call into machine code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from cv_platform.vision.detections import Detections
from cv_platform.vision.tracking.base import OutputBoxes
from cv_platform.vision.tracking.rows import FRAME, LIVE, NEXT_ID, TRACK_ID, Columns, Table

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def columns_of(detections: Detections) -> Columns:
    """Fresh copies of a frame's detections, and room for the track ids and row numbers of the answer.

    Copies are always contiguous and writable, so there is one compiled version of each step.
    """
    count = len(detections.scores)
    return (
        detections.boxes.copy(),
        detections.scores.copy(),
        detections.class_ids.copy(),
        np.empty(count, np.int32),
        np.empty(count, np.int64),
    )


class TableTracker(ABC):
    """Base of the trackers: a subclass names its `kind` and writes `_step`."""

    kind: ClassVar[str]

    def __init__(self, *, filter_width: int, mark_width: int, boxes: str, parameters: dict[str, Any]) -> None:
        if boxes not in ("filtered", "measured"):
            raise ValueError(f"boxes is {boxes!r}; allowed are 'filtered' and 'measured'")
        self.boxes = cast(OutputBoxes, boxes)
        self.parameters = parameters
        self._filters = np.zeros((64, filter_width))
        self._marks = np.zeros((64, mark_width), np.int64)
        self._counters = np.array([0, 0, 1], np.int64)
        self._matched_rows = np.empty(0, np.int64)

    @abstractmethod
    def _step(self, columns: Columns) -> int:
        """Advance by one frame; pack the answer to the front of `columns` and return its length."""

    def update(self, detections: Detections, *, frame: npt.NDArray[np.uint8] | None = None) -> Detections:
        """Advance by one frame: see `Tracker.update`. `frame` is not looked at."""
        columns = columns_of(detections)
        self._reserve(len(columns[0]))
        kept = self._step(columns)
        return self._answer(detections, columns, kept)

    @property
    def _table(self) -> Table:
        return self._filters, self._marks, self._counters

    @property
    def matched_rows(self) -> npt.NDArray[np.int64]:
        """See `Tracker.matched_rows`."""
        return self._matched_rows

    def state_dict(self) -> dict[str, Any]:
        """See `Tracker.state_dict`: live rows only, so that equal histories give equal bytes."""
        live = int(self._counters[LIVE])
        return {
            "tracker": self.kind,
            "parameters": dict(self.parameters),
            "frame": int(self._counters[FRAME]),
            "next_id": int(self._counters[NEXT_ID]),
            "filters": self._filters[:live].copy(),
            "marks": self._marks[:live].copy(),
        }

    def settle(self) -> dict[int, int]:
        """See `Tracker.settle`."""
        live = int(self._counters[LIVE])
        ids = self._marks[:live, TRACK_ID]
        confirmed = np.flatnonzero(ids)
        old = np.sort(ids[confirmed])
        ids[confirmed] = np.searchsorted(old, ids[confirmed]) + 1
        self._counters[NEXT_ID] = len(old) + 1
        self._counters[FRAME] = min(int(self._counters[FRAME]), self._beginning + 1)
        return {int(before): after for after, before in enumerate(old, start=1)}

    @property
    def _beginning(self) -> int:
        """Frames at the start in which a tracker confirms tracks sooner than later on."""
        return max(1, int(self.parameters.get("min_hits", 1)))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Tracker.load_state_dict`. Raises ValueError for a state of another tracker or other parameters."""
        if state.get("tracker") != self.kind:
            raise ValueError(f"the state is of tracker {state.get('tracker')!r}; allowed is {self.kind!r}")
        if state.get("parameters") != self.parameters:
            raise ValueError(
                f"the state was made with {state.get('parameters')}, this tracker has {self.parameters}; "
                "make a tracker with the state's parameters, or start anew"
            )
        filters, marks = np.asarray(state["filters"], np.float64), np.asarray(state["marks"], np.int64)
        live = len(filters)
        for name, found, allowed in (("filters", filters, self._filters), ("marks", marks, self._marks)):
            if found.shape != (live, allowed.shape[1]):
                raise ValueError(
                    f"the state's {name} have shape {found.shape}; allowed is ({live}, {allowed.shape[1]})"
                )
        self._counters[LIVE] = 0
        self._reserve(live)
        self._filters[:live], self._marks[:live] = filters, marks
        self._counters[:] = live, int(state["frame"]), int(state["next_id"])
        self._matched_rows = np.empty(0, np.int64)

    def _reserve(self, extra: int) -> None:
        """Make room for `extra` tracks beside the live ones."""
        live = int(self._counters[LIVE])
        capacity = len(self._marks)
        if live + extra <= capacity:
            return
        while capacity < live + extra:
            capacity *= 2
        filters, marks = self._filters, self._marks
        self._filters = np.zeros((capacity, filters.shape[1]))
        self._marks = np.zeros((capacity, marks.shape[1]), np.int64)
        self._filters[:live], self._marks[:live] = filters[:live], marks[:live]

    def _answer(self, detections: Detections, columns: Columns, kept: int) -> Detections:
        """The first `kept` rows as Detections. Built without validation: the rows come from valid Detections."""
        boxes, scores, class_ids, track_ids, rows = columns
        self._matched_rows = rows[:kept]
        embeddings = detections.embeddings
        answer = object.__new__(Detections)
        answer.__dict__.update(
            boxes=boxes[:kept],
            scores=scores[:kept],
            class_ids=class_ids[:kept],
            track_ids=track_ids[:kept],
            embeddings=None if embeddings is None else embeddings[self._matched_rows],
        )
        return answer


def check_frames(**counts: int) -> None:
    """Refuse numbers of frames below 0."""
    for name, count in counts.items():
        if count != int(count) or count < 0:
            raise ValueError(f"{name} is {count}; allowed is a whole number of frames >= 0")


def check_fractions(**values: float) -> None:
    """Refuse values outside 0..1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; allowed is 0..1")
