"""Filters and the geometry under them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cv_platform.vision import filters, geometry
from cv_platform.vision.detections import Detections
from cv_platform_tests.vision import boxes as sets

FOUND = Detections(
    np.array([[0, 0, 10, 10], [20, 20, 24, 60], [50, 5, 90, 15], [5, 5, 5, 5]]),
    np.array([0.9, 0.5, 0.3, 0.05]),
    np.array([0, 2, 1001, 0]),
    track_ids=np.array([1, 2, 3, 4]),
)
L_SHAPE = [(0, 0), (100, 0), (100, 20), (20, 20), (20, 100), (0, 100)]


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (filters.by_class(FOUND, [0]), [1, 4]),
        (filters.by_class(FOUND, {2, 1001}), [2, 3]),
        (filters.by_class(FOUND, []), []),
        (filters.by_confidence(FOUND, 0.5), [1, 2]),
        (filters.by_confidence(FOUND, 0.0), [1, 2, 3, 4]),
        (filters.by_confidence(FOUND, 0.5, per_class={1001: 0.3, 0: 0.95}), [2, 3]),
        (filters.by_size(FOUND, least_width=5), [1, 3]),
        (filters.by_size(FOUND, least_height=11), [2]),
        (filters.by_size(FOUND, least_area=160), [2, 3]),
        (filters.by_size(FOUND), [1, 2, 3, 4]),
        (filters.by_region(FOUND, L_SHAPE), [1, 3, 4]),
        (filters.by_region(FOUND, L_SHAPE, inside=False), [2]),
        (filters.by_region(FOUND, L_SHAPE, anchor="top_left"), [1, 2, 3, 4]),
        (filters.by_region(FOUND, L_SHAPE, anchor="centre"), [1, 3, 4]),
        (filters.by_region(FOUND, [(0, 0), (5, 0), (5, 5), (0, 5)], anchor="centre"), [1, 4]),
        (filters.by_region(Detections.empty(), L_SHAPE), []),
    ],
)
def test_filters_keep_what_they_say(kept: Detections, expected: list[int]) -> None:
    assert ([] if kept.track_ids is None else kept.track_ids.tolist()) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: filters.by_confidence(FOUND, 1.2), "a least confidence is 1.2"),
        (lambda: filters.by_confidence(FOUND, 0.5, per_class={0: -1}), "a least confidence is -1"),
        (lambda: filters.by_region(FOUND, [(0, 0), (1, 1)]), "at least 3 corners"),
        (lambda: filters.by_region(FOUND, [(0, 0), (1, 1), (np.nan, 0)]), "NaN"),
        (lambda: filters.by_region(FOUND, L_SHAPE, anchor="middle"), "anchor is 'middle'; allowed is one of centre"),  # type: ignore[arg-type]
    ],
)
def test_what_is_not_allowed_is_said(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=3, max_size=8, unique=True),
    st.tuples(st.integers(-1, 9), st.integers(-1, 9)),
)
def test_points_in_polygon_follow_the_winding_of_the_edge(corners: list[Any], point: tuple[int, int]) -> None:
    import cv2

    sign = cv2.pointPolygonTest(np.array(corners, np.float32).reshape(-1, 1, 2), tuple(map(float, point)), False)
    assert geometry.points_in_polygon([point], corners).tolist() == [sign >= 0]
    assert geometry.points_in_polygon([point], corners[::-1]).tolist() == [sign >= 0]


@settings(max_examples=60, deadline=None)
@given(sets.awkward_boxes(8), sets.awkward_boxes(8))
def test_iou_matrix_equals_the_slow_rule(first: Any, second: Any) -> None:
    a, b = (
        first[0][(first[0][:, 2:] >= first[0][:, :2]).all(1)],
        second[0][(second[0][:, 2:] >= second[0][:, :2]).all(1)],
    )
    expected = np.array([[np.nan_to_num(sets.slow_iou(x, y)) for y in b] for x in a]).reshape(len(a), len(b))
    np.testing.assert_allclose(geometry.iou_matrix(a, b), expected, rtol=1e-5, atol=1e-7)


def test_covered_share() -> None:
    share = geometry.covered_share([[0, 0, 10, 10], [3, 3, 3, 3]], [[5, 0, 50, 50], [0, 0, 10, 10]])
    np.testing.assert_allclose(share, [[0.5, 1.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("there", "back", "expected"),
    [
        (geometry.xyxy_to_xywh, geometry.xywh_to_xyxy, [[10, 20, 30, 60]]),
        (geometry.xyxy_to_cxcywh, geometry.cxcywh_to_xyxy, [[25, 50, 30, 60]]),
    ],
)
def test_forms_of_boxes(there: Any, back: Any, expected: Any) -> None:
    boxes = [[10, 20, 40, 80]]
    assert there(boxes).tolist() == expected
    assert back(there(boxes)).tolist() == boxes
    assert there([]).shape == (0, 4)


def test_clipping_and_fractions() -> None:
    assert geometry.clip_boxes([[-5, 5, 300, 90]], height=80, width=200).tolist() == [[0, 5, 200, 80]]
    assert geometry.normalise_boxes([[20, 40, 100, 80]], height=80, width=200).tolist() == pytest.approx(
        np.array([[0.1, 0.5, 0.5, 1.0]], np.float32)
    )
    assert geometry.denormalise_boxes([[0.5, 0.5, 1, 1]], height=80, width=200).tolist() == [[100, 40, 200, 80]]
    with pytest.raises(ValueError, match=r"boxes have shape \(2, 3\)"):
        geometry.box_areas(np.zeros((2, 3)))
