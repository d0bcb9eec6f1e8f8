"""Weighted boxes fusion: cases worked out by hand, and equality with ensemble-boxes where that is installed."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cv_platform.vision.detections import Detections
from cv_platform.vision.fusion import fuse_detections, weighted_boxes_fusion
from cv_platform_tests.vision import boxes as sets

CONF_TYPES = ("avg", "max", "box_and_model_avg", "absent_model_aware_avg")
A, B, FAR = [0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.46], [0.7, 0.7, 0.9, 0.9]


@pytest.mark.parametrize(
    ("conf_type", "weights", "fused", "alone"),
    [
        # A 0.8 and B 0.4 make one group; FAR 0.5 was found by the first model alone
        ("avg", None, 0.6, 0.25),
        ("max", None, 0.8, 0.5),
        ("box_and_model_avg", None, 0.6, 0.25),
        ("absent_model_aware_avg", None, 0.6, 0.25),
        ("avg", [3, 1], (0.8 * 3 + 0.4) / 2 * 2 / 4, 0.5 * 3 / 4),
        ("max", [3, 1], 0.8, 0.5),
        ("box_and_model_avg", [3, 1], (2.4 + 0.4) / 4, 0.5 * 3 / 4),
        ("absent_model_aware_avg", [3, 1], (2.4 + 0.4) / 4, 1.5 / 4),
    ],
)
def test_two_models(conf_type: Any, weights: Any, fused: float, alone: float) -> None:
    boxes, scores, labels = weighted_boxes_fusion(
        [[A, FAR], [B]], [[0.8, 0.5], [0.4]], [[1, 1], [1]], weights=weights, conf_type=conf_type
    )
    first, second = weights or (1, 1)
    bottom = (0.5 * 0.8 * first + 0.46 * 0.4 * second) / (0.8 * first + 0.4 * second)
    np.testing.assert_allclose(boxes, [[0.1, 0.1, 0.5, bottom], FAR], atol=1e-6)
    np.testing.assert_allclose(scores, [fused, alone], atol=1e-6)
    assert labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0.5, 0.5, 0.1, 0.1], [[0.1, 0.1, 0.5, 0.5]]),
        ([-1.0, 0.1, 2.0, 0.5], [[0.0, 0.1, 1.0, 0.5]]),
        ([0.2, 0.1, 0.2, 0.5], []),
        ([1.5, 0.1, 2.0, 0.5], []),
    ],
    ids=["corners swapped", "outside", "no width", "beyond the edge"],
)
def test_invalid_boxes_are_put_right_or_left_out(box: list[float], expected: list[list[float]]) -> None:
    boxes, _, _ = weighted_boxes_fusion([[box]], [[0.5]], [[0]])
    np.testing.assert_allclose(boxes.reshape(-1, 4), np.array(expected).reshape(-1, 4), atol=1e-12)


def test_labels_do_not_mix_and_low_scores_are_skipped() -> None:
    boxes, scores, labels = weighted_boxes_fusion([[A, A, A]], [[0.9, 0.8, 0.1]], [[2, 5, 2]], skip_box_threshold=0.2)
    assert labels.tolist() == [2, 5]
    np.testing.assert_allclose(scores, [0.9, 0.8])
    np.testing.assert_allclose(boxes, [A, A])


def test_a_group_without_confidence_keeps_its_first_box() -> None:
    boxes, scores, _ = weighted_boxes_fusion([[A], [B]], [[0.0], [0.0]], [[0], [0]])
    assert np.isfinite(boxes).all()
    assert scores.tolist() == [0.0]


@pytest.mark.parametrize("models", [0, 1, 3])
def test_nothing_gives_nothing(models: int) -> None:
    boxes, scores, labels = weighted_boxes_fusion([[]] * models, [[]] * models, [[]] * models)
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)
    assert labels.shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"conf_type": "median"}, "conf_type is 'median'; allowed is one of avg"),
        ({"weights": [1, 2]}, r"weights have shape \(2,\); allowed is \(1,\)"),
        ({"weights": [0]}, "more than 0 for at least one model"),
        ({"iou_threshold": -0.1}, "iou_threshold is -0.1"),
        ({"scores_list": [[0.5, 0.5]]}, r"model 0 has boxes \(1, 4\), scores \(2,\)"),
        ({"scores_list": []}, "1 models' boxes, 0 models' scores"),
        ({"boxes_list": [[[0, 0, 1, np.nan]]]}, "NaN"),
    ],
)
def test_what_is_not_allowed_is_said(arguments: dict[str, Any], message: str) -> None:
    given_: dict[str, Any] = {"boxes_list": [[A]], "scores_list": [[0.5]], "labels_list": [[0]], **arguments}
    with pytest.raises(ValueError, match=message):
        weighted_boxes_fusion(**given_)


def test_detections_fuse_in_pixels() -> None:
    one = Detections(np.array([[10, 20, 30, 60]]), np.array([0.9]), np.array([0]))
    two = Detections(np.array([[10, 20, 30, 58], [70, 70, 90, 99]]), np.array([0.3, 0.6]), np.array([0, 1001]))
    fused = fuse_detections([one, two], height=100, width=200)
    np.testing.assert_allclose(fused.boxes, [[10, 20, 30, 59.5], [70, 70, 90, 99]], atol=1e-4)
    np.testing.assert_allclose(fused.scores, [0.6, 0.3], atol=1e-6)
    assert fused.class_ids.tolist() == [0, 1001]


fraction = st.one_of(st.integers(-1, 9).map(lambda v: v / 8), st.floats(-0.25, 1.25))
row = st.tuples(fraction, fraction, fraction, fraction)
model = st.lists(st.tuples(row, st.floats(0.01, 1), st.integers(0, 2)), max_size=25)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(model, st.floats(0.1, 5)), min_size=1, max_size=4),
    st.sampled_from([0.1, 0.3, 0.55, 0.8]),
    st.sampled_from([0.0, 0.2]),
    st.sampled_from(CONF_TYPES),
    st.booleans(),
)
def test_fusion_equals_ensemble_boxes(
    models: list[Any], threshold: float, skip: float, conf_type: Any, weighted: bool
) -> None:
    boxes = [np.array([b for b, _, _ in rows], float).reshape(-1, 4) for rows, _ in models]
    scores = [np.array([s for _, s, _ in rows], float) for rows, _ in models]
    labels = [np.array([c for _, _, c in rows], int) for rows, _ in models]
    same_as_ensemble_boxes(
        boxes, scores, labels, [w for _, w in models] if weighted else None, threshold, skip, conf_type
    )


@pytest.mark.parametrize("conf_type", CONF_TYPES)
@pytest.mark.parametrize("pattern", [sets.uniform, sets.wide, sets.clustered])
def test_large_sets_equal_ensemble_boxes(pattern: Any, conf_type: Any) -> None:
    boxes = [pattern(700, seed) / 2000 for seed in (1, 2, 3)]
    scores = [sets.scores(700, seed) for seed in (1, 2, 3)]
    labels = [np.arange(700) % 2] * 3
    same_as_ensemble_boxes(boxes, scores, labels, [2.0, 1.0, 0.5], 0.55, 0.1, conf_type)


def same_as_ensemble_boxes(
    boxes: Any, scores: Any, labels: Any, weights: Any, threshold: float, skip: float, conf_type: Any
) -> None:
    reference = pytest.importorskip("ensemble_boxes", reason="ensemble-boxes is not installed (extra: bench)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = reference.weighted_boxes_fusion(
            boxes, scores, labels, weights=weights, iou_thr=threshold, skip_box_thr=skip, conf_type=conf_type
        )
    ours = weighted_boxes_fusion(
        boxes, scores, labels, weights=weights, iou_threshold=threshold, skip_box_threshold=skip, conf_type=conf_type
    )
    table = [np.column_stack([s, c, b]) for b, s, c in (ours, theirs)]
    assert table[0].shape == table[1].shape
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-6, rtol=0)  # the order too
    # equal scores may swap places by a last bit, so rows are compared in an order of their own
    rows = [t[np.lexsort(np.round(t, 5).T)] for t in table]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6, rtol=0)
