"""The default tracker's own rules: strong and weak detections, expanded boxes, heights, the moving camera."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cv_platform.vision.detections import Detections
from cv_platform.vision.tracking import DEFAULT_TRACKER, TRACKERS, TwoStageTracker, make_tracker


def seen(*boxes: tuple[float, float, float, float, float]) -> Detections:
    """Detections at centre x, centre y, width, height with a score."""
    rows = np.array(boxes, np.float64).reshape(-1, 5)
    low, high = rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2
    return Detections(np.hstack([low, high]), rows[:, 4], np.zeros(len(rows)))


def ids(found: Detections) -> list[int]:
    assert found.track_ids is not None
    return found.track_ids.tolist()


def started(*boxes: tuple[float, float, float, float, float], **parameters: Any) -> TwoStageTracker:
    """A tracker that knows the standing boxes as 1, 2, 3, …"""
    tracker = TwoStageTracker(**parameters)
    for _ in range(8):
        found = tracker.update(seen(*boxes))
    assert ids(found) == list(range(1, len(boxes) + 1))
    return tracker


PERSON = (200.0, 200.0, 40.0, 100.0, 0.9)


def test_is_the_default() -> None:
    assert isinstance(make_tracker(), TwoStageTracker)
    assert TRACKERS[DEFAULT_TRACKER] == "TwoStageTracker"


@pytest.mark.parametrize(
    ("score", "confirmation", "hits"), [(0.95, 2.7, 3), (0.94, 2.7, 4), (0.85, 2.7, 4), (0.7, 2.7, 6), (0.9, 0.5, 1)]
)
def test_surer_detections_confirm_sooner(score: float, confirmation: float, hits: int) -> None:
    tracker = TwoStageTracker(confirmation=confirmation)
    tracker.update(Detections.empty())
    confirmed = [ids(tracker.update(seen((*PERSON[:4], score)))) for _ in range(hits + 1)]
    assert confirmed == [[]] * (hits - 1) + [[1], [1]]


def test_the_first_frame_is_believed() -> None:
    assert ids(TwoStageTracker().update(seen(PERSON))) == [1]


def test_a_miss_on_probation_starts_over() -> None:
    tracker = TwoStageTracker()
    tracker.update(Detections.empty())
    for _ in range(4):
        assert ids(tracker.update(seen(PERSON))) == []
        assert ids(tracker.update(seen(PERSON))) == []
        tracker.update(Detections.empty())


def test_weak_detections_extend_a_track_and_start_none() -> None:
    tracker = started(PERSON)
    weak = (*PERSON[:4], 0.2)
    stranger = (600.0, 200.0, 40.0, 100.0, 0.2)
    for _ in range(20):
        assert ids(tracker.update(seen(weak, stranger))) == [1]
    assert tracker.matched_rows.tolist() == [0]


def test_a_detection_below_the_weak_threshold_is_not_looked_at() -> None:
    assert ids(started(PERSON).update(seen((*PERSON[:4], 0.05)))) == []


def test_a_middling_detection_extends_but_does_not_start() -> None:
    tracker = TwoStageTracker(strong_threshold=0.5, new_threshold=0.7)
    for _ in range(10):
        assert ids(tracker.update(seen((*PERSON[:4], 0.6)))) == []


def test_lost_tracks_come_back_until_they_are_too_old() -> None:
    for gap, back in ((9, [1]), (10, [1]), (11, [])):
        tracker = started(PERSON, max_age=10, fading=0.0)
        for _ in range(gap):
            tracker.update(Detections.empty())
        assert ids(tracker.update(seen(PERSON))) == back


def test_fading_lets_go_earlier() -> None:
    for fading, back in ((0.0, [1]), (0.3, [])):
        tracker = started(PERSON, max_age=10, fading=fading)
        for _ in range(8):
            tracker.update(Detections.empty())
        assert ids(tracker.update(seen(PERSON))) == back


def test_expansion_follows_a_jump_past_the_box() -> None:
    jumped = (PERSON[0] + 42, *PERSON[1:])  # the boxes no longer touch
    parameters = {"match_threshold": 0.1}
    assert ids(started(PERSON, expansion=0.5, **parameters).update(seen(jumped))) == [1]
    assert ids(started(PERSON, expansion=0.0, **parameters).update(seen(jumped))) == []


def test_height_decides_between_two_in_the_same_place() -> None:
    tracker = started(PERSON, height_weight=2.0)
    child = (200.0, 225.0, 38.0, 50.0, 0.9)
    tracker.update(seen(child, PERSON))
    assert tracker.matched_rows.tolist() == [1]


def test_the_camera_moves_those_it_does_not_see() -> None:
    """Four stand, one of them unseen while the camera pans by more than a box; it is found where it must be."""
    people = [(200.0 + 150 * k, 300.0, 40.0, 100.0, 0.9) for k in range(5)]
    for votes, back in ((3, [1, 2, 3, 4, 5]), (0, [1, 2, 3, 4])):
        tracker = started(*people, camera_votes=votes)
        shift = 0.0
        for _ in range(6):
            shift += 12.0
            tracker.update(seen(*[(x + shift, *rest) for x, *rest in people[:4]]))
        shift += 12.0
        found = tracker.update(seen(*[(x + shift, *rest) for x, *rest in people]))
        assert ids(found) == back


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"match_threshold": 1.1}, "match_threshold is 1.1"),
        ({"fading": -0.1}, "fading"),
        ({"confirmation": -1}, "confirmation"),
        ({"max_age": -1}, "max_age"),
        ({"expansion": -0.5}, "expansion"),
        ({"height_weight": float("nan")}, "height_weight"),
    ],
)
def test_refuses_impossible_parameters(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TwoStageTracker(**parameters)
