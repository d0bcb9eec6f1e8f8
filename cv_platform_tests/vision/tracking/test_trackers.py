"""What holds for every tracker: the protocol, exact states, order, classes, odd input."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cv_platform.vision.detections import Detections
from cv_platform.vision.tracking import TRACKERS, Tracker
from cv_platform.vision.tracking import make_tracker as make_named_tracker
from cv_platform_tests.vision.tracking.scenes import walkers

FRAME = np.zeros((4, 4, 3), np.uint8)


class SizeEmbedder:
    """People look alike here where their boxes have the same size."""

    dimension = 3
    version = "size"

    def embed(self, frame: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        size = boxes[:, 2:] - boxes[:, :2]
        return np.column_stack([size, np.full(len(size), 5.0)]).astype(np.float32)


class FrameAlwaysGiven:
    """A tracker whose `update` always gets a frame."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def update(self, detections: Detections) -> Detections:
        return self.tracker.update(detections, frame=FRAME)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tracker, name)


def make_tracker(name: str, **parameters: Any) -> Any:
    """The tracker, with all that it needs to see."""
    if name == "deepsort":
        parameters = {"embedder": SizeEmbedder(), "score_threshold": 0.1, **parameters}
    return FrameAlwaysGiven(make_named_tracker(name, **parameters))


DIGESTS = {
    "bytetrack": "380c0bd8be9ff986",
    "deepsort": "f2943687128c4849",
    "ocsort": "7e863fc52dcc0371",
    "sort": "d08b87704fd9d6e7",
    "twostage": "7cdf0f2f5e190ea2",
}
"""A change of these is a change of what trackers answer: measure them anew before writing it down."""
names = pytest.mark.parametrize("name", sorted(TRACKERS))


def canonical(state: Any) -> bytes:
    """The state as bytes that are equal exactly where every value, dtype and shape is."""
    if isinstance(state, dict):
        return b"{" + b",".join(repr(key).encode() + canonical(state[key]) for key in sorted(state)) + b"}"
    if isinstance(state, list):
        return b"[" + b",".join(canonical(value) for value in state) + b"]"
    if isinstance(state, np.ndarray):
        return f"{state.dtype}{state.shape}".encode() + state.tobytes()
    assert state is None or type(state) in (int, float, str, bool), type(state)
    return repr(state).encode()


@names
def test_follows_the_protocol(name: str) -> None:
    assert isinstance(make_tracker(name).tracker, Tracker)


@names
@pytest.mark.parametrize("cut", [0, 1, 17, 59])
def test_two_halves_equal_one(name: str, cut: int) -> None:
    scene = walkers(seed=5, people=20, classes=2)
    whole, first = make_tracker(name), make_tracker(name)
    expected = [whole.update(detections) for detections in scene]
    for detections in scene[:cut]:
        first.update(detections)
    second = make_tracker(name)
    for detections in walkers(seed=6, people=70)[:5]:
        second.update(detections)  # what it saw before must leave no trace
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    assert [second.update(detections) for detections in scene[cut:]] == expected[cut:]
    assert canonical(second.state_dict()) == canonical(whole.state_dict())


@names
def test_equal_histories_give_equal_bytes_whatever_came_before(name: str) -> None:
    fresh, used = make_tracker(name), make_tracker(name)
    empty = fresh.state_dict()
    for detections in walkers(seed=8, people=100, frames=10):
        used.update(detections)
    used.load_state_dict(empty)
    for detections in walkers(seed=9):
        fresh.update(detections)
        used.update(detections)
        assert canonical(fresh.state_dict()) == canonical(used.state_dict())


@names
def test_answers_are_those_of_before(name: str) -> None:
    """Rows, ids and boxes (to a thousandth of a pixel) of a long scene, as when the trackers were measured."""
    tracker = make_tracker(name)
    found = hashlib.sha256()
    for detections in walkers(seed=3, people=12, frames=150, miss=0.15, clutter=2.0, classes=2):
        answer = tracker.update(detections)
        found.update(tracker.matched_rows.tobytes() + answer.track_ids.tobytes())
        found.update(np.rint(answer.boxes.astype(np.float64) * 1000).astype(np.int64).tobytes())
    assert found.hexdigest()[:16] == DIGESTS[name]


@names
def test_a_state_is_a_copy(name: str) -> None:
    tracker = make_tracker(name)
    scene = walkers(seed=1)
    for detections in scene[:20]:
        tracker.update(detections)
    state = tracker.state_dict()
    before = canonical(state)
    for detections in scene[20:]:
        tracker.update(detections)
    assert canonical(state) == before
    other = make_tracker(name)
    other.load_state_dict(state)
    other.update(scene[20])
    assert canonical(state) == before


@names
def test_answers_are_rows_of_the_input_in_order(name: str) -> None:
    tracker = make_tracker(name, boxes="measured")
    numbers: set[int] = set()
    for detections in walkers(seed=2, people=25, classes=3):
        with_vectors = Detections(
            detections.boxes, detections.scores, detections.class_ids, embeddings=detections.boxes[:, :3]
        )
        found = tracker.update(with_vectors)
        rows = tracker.matched_rows
        assert (np.diff(rows) > 0).all()
        assert found.track_ids is not None
        assert found == Detections(
            detections.boxes[rows],
            detections.scores[rows],
            detections.class_ids[rows],
            found.track_ids,
            detections.boxes[rows, :3],
        )
        assert len(set(found.track_ids.tolist())) == len(found)
        new = [number for number in found.track_ids.tolist() if number not in numbers]
        assert new == list(range(len(numbers) + 1, len(numbers) + 1 + len(new)))
        numbers.update(new)
    assert len(numbers) >= 25


@names
def test_output_boxes_change_nothing_but_boxes(name: str) -> None:
    measured, filtered = make_tracker(name, boxes="measured"), make_tracker(name, boxes="filtered")
    smoothed = False
    for detections in walkers(seed=12, people=12):
        a, b = measured.update(detections), filtered.update(detections)
        np.testing.assert_array_equal(a.track_ids, b.track_ids)
        np.testing.assert_array_equal(measured.matched_rows, filtered.matched_rows)
        Detections(b.boxes, b.scores, b.class_ids)  # valid
        smoothed = smoothed or not np.array_equal(a.boxes, b.boxes)
    assert smoothed


@names
def test_input_is_left_alone(name: str) -> None:
    tracker = make_tracker(name)
    for detections in walkers(seed=3, frames=20):
        boxes, scores = detections.boxes.copy(), detections.scores.copy()
        detections.boxes.setflags(write=False)
        tracker.update(detections)
        np.testing.assert_array_equal(detections.boxes, boxes)
        np.testing.assert_array_equal(detections.scores, scores)


@names
def test_classes_never_mix(name: str) -> None:
    tracker = make_tracker(name)
    box = np.array([[100.0, 100, 160, 260]])
    kinds = {}
    for index in range(40):
        found = tracker.update(Detections(box, np.array([0.95]), np.array([(index // 10) % 2])))
        for number, kind in zip(found.track_ids.tolist(), found.class_ids.tolist(), strict=True):
            assert kinds.setdefault(number, kind) == kind
    assert set(kinds.values()) == {0, 1}


@names
def test_odd_boxes_do_no_harm(name: str) -> None:
    tracker = make_tracker(name)
    odd = np.array(
        [[5, 5, 5, 5], [0, 0, 0, 50], [10, 10, 60, 10], [-1e6, -1e6, 1e6, 1e6], [1, 1, 1.0001, 1.0001], [7, 7, 30, 90]],
        np.float32,
    )
    for index in range(30):
        boxes = odd if index % 3 else np.vstack([odd, odd])
        found = tracker.update(Detections(boxes, np.full(len(boxes), 0.9), np.zeros(len(boxes))))
        Detections(found.boxes, found.scores, found.class_ids, found.track_ids)
        assert np.isfinite(tracker.state_dict()["filters"]).all()


@names
def test_quiet_frames_then_people(name: str) -> None:
    tracker = make_tracker(name)
    for _ in range(100):
        assert len(tracker.update(Detections.empty())) == 0
    assert tracker.state_dict()["frame"] == 100
    assert sum(len(tracker.update(detections)) for detections in walkers(seed=4)) > 0


@names
def test_states_of_others_are_refused(name: str) -> None:
    state = make_tracker(name).state_dict()
    with pytest.raises(ValueError, match="state is of tracker 'other'"):
        make_tracker(name).load_state_dict({**state, "tracker": "other"})
    with pytest.raises(ValueError, match="state was made with"):
        make_tracker(name).load_state_dict({**state, "parameters": {"max_age": 77}})
    with pytest.raises(ValueError, match="have shape"):
        make_tracker(name).load_state_dict({**state, "filters": np.zeros((1, 3))})


def test_unknown_trackers_and_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"allowed are default, .*sort"):
        make_named_tracker("sorted")
    with pytest.raises(ValueError, match="does not take"):
        make_named_tracker("sort", speed=3)


def test_importing_compiles_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from cv_platform.vision.tracking import make_tracker; make_tracker('default'); "
        "print([name for name in ('cv2', 'onnxruntime', 'torch', 'dagster') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_works_where_no_cache_can_be_written(tmp_path: Path) -> None:
    """numba raises at decoration where it finds no folder for its cache; then nothing is cached."""
    code = (
        "import numba.core.caching as caching; caching.CacheImpl._locator_classes = []; "
        "from cv_platform.vision.tracking.assignment import sort_in_place; import numpy as np; "
        "values = np.array([3, 1, 2]); sort_in_place(values); print(values.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[1, 2, 3]"
