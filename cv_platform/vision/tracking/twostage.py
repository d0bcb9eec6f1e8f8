"""The platform's own tracker, its default: two stages, expanded boxes, a moving camera. Compiled.

From the literature: strong detections are matched before weak ones (ByteTrack, Zhang 2022), overlap is measured
between expanded boxes, so that small and fast objects are not lost (C-BIoU, Yang 2023), boxes of unlike height are less
alike (Hybrid-SORT, Yang 2024), the score counts towards a match (ByteTrack), noise grows with the height of the box
(DeepSORT, Wojke 2017). Its own: boxes expand further the longer a track is not seen, while its claim fades; and what
all matched tracks have in common, their median shift from the prediction, is taken for the camera's motion, and moves
the tracks that were not matched too. No picture is needed for it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled
from cv_platform.vision.tracking import kalman
from cv_platform.vision.tracking.assignment import match, sort_in_place
from cv_platform.vision.tracking.base import OutputBoxes
from cv_platform.vision.tracking.rows import (
    CLASS,
    FRAME,
    LIVE,
    MISSES,
    TRACK_ID,
    Columns,
    Table,
    answer,
    begin,
    drop,
    has_area,
)
from cv_platform.vision.tracking.table import TableTracker, check_fractions, check_frames

MARKS = 3
EVIDENCE = kalman.WIDTH  # column after the filter

# Standard deviations as shares of the box's height. They decide how much boxes are smoothed; the benchmark's selection
# shows them flat around these values.
START_NOISE = 0.12
START_SPEED = 0.25
POSITION_NOISE = 0.025
SPEED_NOISE = 0.007
CENTRE_NOISE = 0.06
SIZE_NOISE = 0.15

STRONG_ROUND, WEAK_ROUND, PROBATION_ROUND = 0, 1, 2


class TwoStageTracker(TableTracker):
    """Tracks are matched to strong detections, those seen a frame ago to weak ones, then tracks on probation.

    Likeness of a track and a detection is the IoU of their boxes, both expanded, times the agreement of their heights,
    times (for strong detections) the score, less the longer the track was not seen. Tracks and detections of different
    classes are never matched.

    Args:
        strong_threshold: least score of a strong detection.
        weak_threshold: least score of a weak one; below it a detection is not looked at.
        new_threshold: least score of a detection that may start a track.
        match_threshold: least likeness of a confirmed track and a strong detection.
        weak_match_threshold: the same for a weak detection.
        probation_threshold: the same for a track on probation.
        expansion: by how much of its size a box is expanded to each side; >= 0.
        expansion_growth: by how much of itself the expansion grows a frame without a match; >= 0.
        probation_expansion: the expansion for tracks on probation; >= 0.
        height_weight: exponent of the agreement of heights; 0 looks at IoU alone.
        score_weight: how much the score counts towards likeness, 0..1.
        fading: share of its likeness that a track loses a frame without a match, 0..1.
        confirmation: sum of squared scores, over detections without a miss, that confirms a track: at 2.7 three of
            0.95, four of 0.85, eleven of 0.5 (in a camera's first frame every track is); >= 0.
        max_age: frames that a confirmed track lives without a detection.
        camera_votes: matched tracks that it takes to tell the camera's motion; 0 holds the camera for fixed.
        boxes: what boxes to answer with, see `OutputBoxes`.
    """

    kind = "twostage"

    def __init__(
        self,
        *,
        strong_threshold: float = 0.5,
        weak_threshold: float = 0.1,
        new_threshold: float = 0.6,
        match_threshold: float = 0.28,
        weak_match_threshold: float = 0.5,
        probation_threshold: float = 0.4,
        expansion: float = 0.3,
        expansion_growth: float = 0.3,
        probation_expansion: float = 0.1,
        height_weight: float = 0.9,
        score_weight: float = 1.0,
        fading: float = 0.05,
        confirmation: float = 2.7,
        max_age: int = 20,
        camera_votes: int = 4,
        boxes: OutputBoxes = "filtered",
    ) -> None:
        fractions = {
            "strong_threshold": float(strong_threshold),
            "weak_threshold": float(weak_threshold),
            "new_threshold": float(new_threshold),
            "match_threshold": float(match_threshold),
            "weak_match_threshold": float(weak_match_threshold),
            "probation_threshold": float(probation_threshold),
            "score_weight": float(score_weight),
            "fading": float(fading),
        }
        check_fractions(**fractions)
        check_frames(max_age=max_age, camera_votes=camera_votes)
        weights = {
            "expansion": float(expansion),
            "expansion_growth": float(expansion_growth),
            "probation_expansion": float(probation_expansion),
            "height_weight": float(height_weight),
            "confirmation": float(confirmation),
        }
        for name, value in weights.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}; allowed is a number >= 0")
        super().__init__(
            filter_width=kalman.WIDTH + 1,
            mark_width=MARKS,
            boxes=boxes,
            parameters={
                **fractions,
                **weights,
                "max_age": int(max_age),
                "camera_votes": int(camera_votes),
            },
        )
        self._score_limits = self._given("strong_threshold", "weak_threshold", "new_threshold")
        self._thresholds = self._given("match_threshold", "weak_match_threshold", "probation_threshold")
        self._expansions = self._given("expansion", "expansion_growth", "probation_expansion")
        self._weights = self._given("height_weight", "score_weight", "fading")

    def _given(self, *names: str) -> npt.NDArray[np.float64]:
        return np.array([self.parameters[name] for name in names])

    def _step(self, columns: Columns) -> int:
        return _step(
            self._table,
            columns,
            self._score_limits,
            self._thresholds,
            self._expansions,
            self._weights,
            self.parameters["confirmation"],
            self.parameters["max_age"],
            self.parameters["camera_votes"],
            self.boxes == "filtered",
        )


@compiled
def _step(
    table: Table,
    columns: Columns,
    score_limits: npt.NDArray[np.float64],
    thresholds: npt.NDArray[np.float64],
    expansions: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    confirmation: float,
    max_age: int,
    camera_votes: int,
    filtered: bool,
) -> int:
    """One frame; packs the detections of confirmed tracks to the front of the columns and returns how many.

    `score_limits` are strong, weak, new; `thresholds` a round's each; `expansions` for confirmed tracks, its growth,
    for tracks on probation; `weights` of height and score, and the fading.
    """
    filters, marks, counters = table
    boxes, scores, class_ids, _, _ = columns
    counters[FRAME] += 1
    live, n = counters[LIVE], len(boxes)
    _predict(filters, marks, live)
    measured = np.empty((n, 4))
    for d in range(n):
        _measure(boxes[d], measured[d])

    detection_of = np.full(live, -1, np.int64)
    track_of = np.full(n, -1, np.int64)
    candidates, choices = np.empty(live, np.int64), np.empty(n, np.int64)
    for turn in range(3):
        tracks = 0
        for t in range(live):
            its_round = (marks[t, TRACK_ID] == 0) == (turn == PROBATION_ROUND)
            if detection_of[t] < 0 and its_round and (turn != WEAK_ROUND or marks[t, MISSES] == 1):
                candidates[tracks] = t
                tracks += 1
        left = 0
        for d in range(n):
            its_round = (scores[d] < score_limits[0]) == (turn == WEAK_ROUND)
            if track_of[d] < 0 and its_round and scores[d] >= score_limits[1]:
                choices[left] = d
                left += 1
        if tracks == 0 or left == 0:
            continue
        similarity = np.zeros((tracks, left))
        for i in range(tracks):
            t = candidates[i]
            missed = marks[t, MISSES] - 1
            expansion = expansions[2] if turn == PROBATION_ROUND else expansions[0] * (1.0 + expansions[1] * missed)
            claim = (1.0 - weights[2]) ** missed
            for j in range(left):
                d = choices[j]
                if marks[t, CLASS] != class_ids[d]:
                    continue
                alike = _alike(filters[t], measured[d], expansion, weights[0]) * claim
                if turn != WEAK_ROUND:
                    alike *= 1.0 - weights[1] + weights[1] * scores[d]
                if alike > thresholds[turn]:
                    similarity[i, j] = alike - thresholds[turn]
        found = match(similarity)
        for i in range(tracks):
            if found[i] >= 0:
                detection_of[candidates[i]] = choices[found[i]]
                track_of[choices[found[i]]] = candidates[i]
        if turn == STRONG_ROUND and camera_votes > 0:
            _move_with_camera(filters, live, detection_of, measured, camera_votes)

    gone = np.zeros(live + n, np.bool_)
    noise = np.empty(4)
    for t in range(live):
        d = detection_of[t]
        if d >= 0:
            height = max(filters[t, 3], 1.0)
            noise[0] = noise[1] = (CENTRE_NOISE * height) ** 2
            noise[2] = noise[3] = (SIZE_NOISE * height) ** 2
            kalman.correct(filters[t], measured[d], noise)
            marks[t, MISSES] = 0
            if marks[t, TRACK_ID] == 0:
                filters[t, EVIDENCE] += np.float64(scores[d]) ** 2
        else:
            gone[t] = marks[t, TRACK_ID] == 0 or marks[t, MISSES] > max_age
    for d in range(n):
        if track_of[d] < 0 and scores[d] >= score_limits[2] and has_area(boxes[d]):
            _start(filters[live], measured[d])
            begin(marks[live], class_ids[d])
            filters[live, EVIDENCE] = np.float64(scores[d]) ** 2
            track_of[d] = live
            live += 1

    kept = 0
    for d in range(n):
        t = track_of[d]
        if t < 0:
            continue
        if marks[t, TRACK_ID] > 0 or filters[t, EVIDENCE] >= confirmation or counters[FRAME] == 1:
            answer(kept, d, marks[t], counters, columns)
            filters[t, EVIDENCE] = 0.0  # what a confirmed track was once worth must not keep equal states apart
            if filtered:
                _estimate(filters[t], boxes[kept])
            kept += 1

    counters[LIVE] = drop(filters, marks, live, gone)
    return kept


@compiled
def _predict(filters: npt.NDArray[np.float64], marks: npt.NDArray[np.int64], live: int) -> None:
    """Advance all tracks by one frame; one that is not seen keeps its size."""
    position_noise, speed_noise = np.empty(4), np.empty(4)
    for t in range(live):
        height = max(filters[t, 3], 1.0)
        if marks[t, MISSES] > 0:
            filters[t, 6] = 0.0
            filters[t, 7] = 0.0
        for axis in range(kalman.AXES):
            position_noise[axis] = (POSITION_NOISE * height) ** 2
            speed_noise[axis] = (SPEED_NOISE * height) ** 2
        kalman.predict(filters[t], position_noise, speed_noise)
        marks[t, MISSES] += 1


@compiled
def _start(row: npt.NDArray[np.float64], measured: npt.NDArray[np.float64]) -> None:
    """Begin a filter: the place is known, the speed hardly, the change of size is small."""
    height = measured[3]
    position_variance = np.full(4, (START_NOISE * height) ** 2)
    speed_variance = np.full(4, (START_SPEED * height) ** 2)
    speed_variance[2] = speed_variance[3] = (10.0 * SPEED_NOISE * height) ** 2
    kalman.start(row, measured, position_variance, speed_variance)


@compiled
def _alike(
    row: npt.NDArray[np.float64], measured: npt.NDArray[np.float64], expansion: float, height_weight: float
) -> float:
    """IoU of a predicted track (its filter) and a measured box, both expanded, times the agreement of their heights."""
    scale = 1.0 + 2.0 * expansion
    track_width, box_width = scale * max(row[2], 1.0), scale * measured[2]
    width = min(min(track_width, box_width), (track_width + box_width) / 2.0 - abs(row[0] - measured[0]))
    if width <= 0.0:
        return 0.0
    track_height, box_height = scale * max(row[3], 1.0), scale * measured[3]
    height = min(min(track_height, box_height), (track_height + box_height) / 2.0 - abs(row[1] - measured[1]))
    if height <= 0.0:
        return 0.0
    shared = width * height
    alike = shared / (track_width * track_height + box_width * box_height - shared)
    if height_weight > 0.0:
        alike *= (min(track_height, box_height) / max(track_height, box_height)) ** height_weight
    return float(alike)


@compiled
def _move_with_camera(
    filters: npt.NDArray[np.float64],
    live: int,
    detection_of: npt.NDArray[np.int64],
    measured: npt.NDArray[np.float64],
    camera_votes: int,
) -> None:
    """Move tracks without a match by the median shift of those with one, where there are enough of them."""
    shift_x, shift_y = np.empty(live), np.empty(live)
    votes = 0
    for t in range(live):
        d = detection_of[t]
        if d >= 0:
            shift_x[votes] = measured[d, 0] - filters[t, 0]
            shift_y[votes] = measured[d, 1] - filters[t, 1]
            votes += 1
    if votes < camera_votes:
        return
    camera_x, camera_y = _median(shift_x, votes), _median(shift_y, votes)
    for t in range(live):
        if detection_of[t] < 0:
            filters[t, 0] += camera_x
            filters[t, 1] += camera_y


@compiled
def _median(values: npt.NDArray[np.float64], count: int) -> float:
    """Median of the first `count` values, which are sorted on the way."""
    sort_in_place(values[:count])
    return float((values[(count - 1) // 2] + values[count // 2]) / 2.0)


@compiled
def _measure(box: npt.NDArray[np.float32], measured: npt.NDArray[np.float64]) -> None:
    """x1, y1, x2, y2 to centre x, centre y, width, height."""
    measured[2] = np.float64(box[2]) - box[0]
    measured[3] = np.float64(box[3]) - box[1]
    measured[0] = box[0] + measured[2] / 2.0
    measured[1] = box[1] + measured[3] / 2.0


@compiled
def _estimate(row: npt.NDArray[np.float64], box: npt.NDArray[np.float32]) -> None:
    """The filter's x1, y1, x2, y2, at least a pixel wide and high."""
    width, height = max(row[2], 1.0), max(row[3], 1.0)
    box[0] = row[0] - width / 2.0
    box[1] = row[1] - height / 2.0
    box[2] = row[0] + width / 2.0
    box[3] = row[1] + height / 2.0
