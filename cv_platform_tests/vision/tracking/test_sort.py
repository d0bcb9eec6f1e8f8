"""SORT against a plain matrix version of the paper's algorithm written here, and its own rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import linear_sum_assignment

from cv_platform.vision.detections import Detections
from cv_platform.vision.tracking import SortTracker
from cv_platform_tests.vision.tracking.scenes import walkers

Array = npt.NDArray[np.float64]


class MatrixSort:
    """SORT as the paper says it, with full 7×7 matrices and an object a track: slow, and hard to get wrong."""

    F = np.eye(7) + np.eye(7, k=4)
    H = np.eye(4, 7)
    Q = np.diag([1, 1, 1, 1, 0.01, 0.01, 0.0001])
    R = np.diag([1.0, 1.0, 10.0, 10.0])

    def __init__(self, max_age: int, min_hits: int, iou_threshold: float) -> None:
        self.max_age, self.min_hits, self.iou_threshold = max_age, min_hits, iou_threshold
        self.tracks: list[dict[str, object]] = []
        self.frame, self.ids = 0, 0

    @staticmethod
    def box(x: Array) -> Array:
        width = np.sqrt(x[2] * x[3])
        height = x[2] / width
        return np.array([x[0] - width / 2, x[1] - height / 2, x[0] + width / 2, x[1] + height / 2])

    @staticmethod
    def iou(a: Array, b: Array) -> float:
        shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
        return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))

    def update(self, boxes: Array) -> list[tuple[int, Array, int]]:
        self.frame += 1
        for track in self.tracks:
            x, p = track["x"], track["p"]
            if x[6] + x[2] <= 0:
                x[6] = 0
            track["x"], track["p"] = self.F @ x, self.F @ p @ self.F.T + self.Q
            if track["misses"] > 0:
                track["streak"] = 0
            track["misses"] += 1
        self.tracks = [track for track in self.tracks if track["x"][2] * track["x"][3] > 0]
        overlaps = np.array([[self.iou(box, self.box(track["x"])) for track in self.tracks] for box in boxes])
        overlaps = overlaps.reshape(len(boxes), len(self.tracks))
        over = overlaps > self.iou_threshold
        if over.any() and over.sum(0).max() == 1 and over.sum(1).max() == 1:
            pairs = list(zip(*np.nonzero(over), strict=True))
        else:
            pairs = list(zip(*linear_sum_assignment(-overlaps), strict=True))
        owner: dict[int, dict[str, object]] = {}
        for d, t in pairs:
            if overlaps[d, t] < self.iou_threshold:
                continue
            track = self.tracks[t]
            x, p = track["x"], track["p"]
            gain = p @ self.H.T @ np.linalg.inv(self.H @ p @ self.H.T + self.R)
            track["x"] = x + gain @ (self.measure(boxes[d]) - self.H @ x)
            track["p"] = (np.eye(7) - gain @ self.H) @ p
            track["misses"], track["streak"] = 0, track["streak"] + 1
            owner[d] = track
        for d, box in enumerate(boxes):
            if d not in owner:
                x = np.concatenate([self.measure(box), np.zeros(3)])
                p = np.diag([10.0, 10, 10, 10, 1e4, 1e4, 1e4])
                owner[d] = {"x": x, "p": p, "misses": 0, "streak": 0, "id": 0}
                self.tracks.append(owner[d])
        answer = []
        for d in sorted(owner):
            track = owner[d]
            if track["streak"] >= self.min_hits or self.frame <= self.min_hits:
                if not track["id"]:
                    self.ids += 1
                    track["id"] = self.ids
                answer.append((d, self.box(track["x"]), track["id"]))
        self.tracks = [track for track in self.tracks if track["misses"] <= self.max_age]
        return answer

    @staticmethod
    def measure(box: Array) -> Array:
        size = box[2:] - box[:2]
        return np.array([*(box[:2] + size / 2), size[0] * size[1], size[0] / size[1]])


@pytest.mark.parametrize(("max_age", "min_hits", "iou_threshold"), [(1, 3, 0.3), (5, 2, 0.1), (0, 0, 0.5), (3, 1, 0.3)])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_matrix_version(max_age: int, min_hits: int, iou_threshold: float, seed: int) -> None:
    plain = MatrixSort(max_age, min_hits, iou_threshold)
    ours = SortTracker(max_age, min_hits, iou_threshold)
    for detections in walkers(seed=seed, people=15, frames=50, clutter=2.0):
        expected = plain.update(detections.boxes.astype(np.float64))
        found = ours.update(detections)
        assert found.track_ids is not None
        assert ours.matched_rows.tolist() == [d for d, _, _ in expected]
        assert found.track_ids.tolist() == [number for _, _, number in expected]
        boxes = np.array([box for _, box, _ in expected]).reshape(-1, 4)
        np.testing.assert_allclose(found.boxes, boxes, rtol=1e-4, atol=1e-2)


def test_equals_the_matrix_version_on_a_real_sequence(shared_data: Path) -> None:
    rows = np.loadtxt(shared_data / "mot15" / "TUD-Stadtmitte" / "det" / "det.txt", delimiter=",")
    plain, ours = MatrixSort(1, 3, 0.3), SortTracker()
    answered = 0
    for frame in range(1, 180):
        found = rows[rows[:, 0] == frame]
        corners = np.hstack([found[:, 2:4], found[:, 2:4] + found[:, 4:6]])
        detections = Detections(corners, np.clip(found[:, 6], 0, 1), np.zeros(len(found)))
        expected = plain.update(detections.boxes.astype(np.float64))
        answer = ours.update(detections)
        assert answer.track_ids is not None
        assert answer.track_ids.tolist() == [number for _, _, number in expected]
        np.testing.assert_allclose(answer.boxes, np.array([box for _, box, _ in expected]).reshape(-1, 4), atol=0.01)
        answered += len(answer)
    assert answered > 700


def test_defaults_are_the_papers() -> None:
    tracker = SortTracker()
    assert (tracker.max_age, tracker.min_hits, tracker.iou_threshold) == (1, 3, 0.3)


def test_one_box_gets_one_id_after_the_probation() -> None:
    tracker = SortTracker(min_hits=2)
    box = np.array([[10.0, 10, 50, 90]])
    nothing = Detections.empty()
    for _ in range(3):
        assert len(tracker.update(nothing)) == 0
    confirmed = []
    for step in range(4):
        found = tracker.update(Detections(box + step, np.array([0.9]), np.array([0])))
        confirmed.append([] if found.track_ids is None else found.track_ids.tolist())
    assert confirmed == [[], [], [1], [1]]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"max_age": -1}, "max_age"),
        ({"min_hits": -2}, "min_hits"),
        ({"iou_threshold": 1.5}, "0..1"),
        ({"boxes": "x"}, "x"),
    ],
)
def test_refuses_impossible_parameters(parameters: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SortTracker(**parameters)  # type: ignore[arg-type]
