"""DeepSORT's own rules: appearance bridges gaps, the gate of motion holds, galleries are bounded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from cv_platform.vision.detections import Detections
from cv_platform.vision.tracking import DeepSortTracker

RED, BLUE = [1.0, 0.0, 0.1], [0.0, 1.0, 0.1]


def seen(*people: tuple[float, float, list[float]]) -> Detections:
    """Detections of 40 × 100 boxes at (x, y) that look like the given vectors."""
    boxes = np.array([[x, y, x + 40, y + 100] for x, y, _ in people]).reshape(-1, 4)
    looks = np.array([look for _, _, look in people], np.float32).reshape(len(people), 3)
    return Detections(boxes, np.full(len(people), 0.9), np.zeros(len(people)), embeddings=looks)


def ids(found: Detections) -> list[int]:
    assert found.track_ids is not None
    return found.track_ids.tolist()


def confirmed_pair(**parameters: object) -> DeepSortTracker:
    """A tracker that knows two people side by side: red is 1 at x=100, blue 2 at x=150."""
    tracker = DeepSortTracker(**parameters)  # type: ignore[arg-type]
    for _ in range(5):
        found = tracker.update(seen((100, 100, RED), (150, 100, BLUE)))
    assert ids(found) == [1, 2]
    return tracker


def test_people_who_swap_places_unseen_keep_their_ids() -> None:
    tracker = confirmed_pair()
    for _ in range(6):
        assert len(tracker.update(Detections.empty())) == 0
    assert ids(tracker.update(seen((150, 100, RED), (100, 100, BLUE)))) == [1, 2]


def test_by_place_alone_they_would_be_mistaken() -> None:
    """The same swap with nobody to be told apart: place decides."""
    tracker = DeepSortTracker()
    for _ in range(5):
        tracker.update(seen((100, 100, RED), (150, 100, RED)))
    for _ in range(6):
        tracker.update(Detections.empty())
    assert sorted(ids(tracker.update(seen((150, 100, RED), (100, 100, RED))))) == [1, 2]


def test_looks_alone_do_not_carry_across_the_picture() -> None:
    tracker = confirmed_pair()
    tracker.update(Detections.empty())
    assert ids(tracker.update(seen((1500, 700, RED)))) == []


def test_a_stranger_in_the_same_place_after_a_gap_is_new() -> None:
    tracker = confirmed_pair()
    for _ in range(3):
        tracker.update(Detections.empty())
    stranger = [0.0, 0.1, 1.0]
    found = [ids(tracker.update(seen((100, 100, stranger)))) for _ in range(3)]
    assert found == [[], [], [3]]


def test_galleries_are_bounded_and_in_the_state() -> None:
    tracker = confirmed_pair(budget=4)
    for _ in range(9):
        tracker.update(seen((100, 100, RED), (150, 100, BLUE)))
    vectors = tracker.state_dict()["vectors"]
    assert vectors.shape == (8, 3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


class ColourEmbedder:
    """The mean colour of the box."""

    dimension = 3
    version = "colour"

    def embed(self, frame: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.array(
            [frame[int(y1) : int(y2), int(x1) : int(x2)].mean((0, 1)) for x1, y1, x2, y2 in boxes], np.float32
        ).reshape(-1, 3)


def test_the_embedder_looks_at_the_frame() -> None:
    tracker = DeepSortTracker(ColourEmbedder())
    box = np.array([[10.0, 10, 50, 90], [60, 10, 100, 90]])

    def frame(left: tuple[int, int, int], right: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
        picture = np.zeros((100, 120, 3), np.uint8)
        picture[10:90, 10:50], picture[10:90, 60:100] = left, right
        return picture

    detections = Detections(box, np.array([0.9, 0.9]), np.zeros(2))
    for _ in range(4):
        found = tracker.update(detections, frame=frame((255, 0, 0), (0, 0, 255)))
    assert ids(found) == [1, 2]
    assert found.embeddings is None
    for _ in range(4):
        tracker.update(Detections.empty(), frame=frame((0, 0, 0), (0, 0, 0)))
    assert ids(tracker.update(detections, frame=frame((0, 0, 255), (255, 0, 0)))) == [2, 1]


def test_says_what_it_lacks() -> None:
    plain = Detections(np.array([[1.0, 1, 5, 9]]), np.array([0.9]), np.array([0]))
    with pytest.raises(ValueError, match="an embedder"):
        DeepSortTracker().update(plain)
    with pytest.raises(ValueError, match="give `frame`"):
        DeepSortTracker(ColourEmbedder()).update(plain)
    tracker = confirmed_pair()
    longer = Detections(plain.boxes, plain.scores, plain.class_ids, embeddings=np.ones((1, 7), np.float32))
    with pytest.raises(ValueError, match="length 7; allowed is that of the tracks', 3"):
        tracker.update(longer)
    with pytest.raises(ValueError, match="allowed is 1 or more"):
        DeepSortTracker(budget=0)
