"""Suppression: the rule itself, and the same kept set as torchvision where that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cv_platform.vision.nms import batched_nms, nms, soft_nms
from cv_platform_tests.vision import boxes as sets

THRESHOLDS = (0.0, 0.2, 0.45, 0.7, 0.95, 1.0)
PATTERNS = {"uniform": sets.uniform, "wide": sets.wide, "clustered": sets.clustered}


@pytest.mark.parametrize(
    ("boxes", "scores", "threshold", "expected"),
    [
        pytest.param([], [], 0.45, [], id="empty"),
        pytest.param([[0, 0, 10, 10]], [0.1], 0.45, [0], id="one"),
        pytest.param([[0, 0, 10, 10]] * 3, [0.5, 0.5, 0.5], 0.45, [0], id="duplicates with equal scores: lowest index"),
        pytest.param([[0, 0, 10, 10]] * 3, [0.5, 0.9, 0.5], 0.45, [1], id="duplicates: best score"),
        pytest.param([[0, 0, 10, 10]] * 2, [0.5, 0.9], 1.0, [1, 0], id="IoU equal to the threshold stays"),
        pytest.param([[0, 0, 10, 10], [0, 0, 10, 5]], [0.9, 0.8], 0.5, [0, 1], id="IoU of one half, threshold a half"),
        pytest.param([[0, 0, 10, 10], [0, 0, 10, 5]], [0.9, 0.8], 0.49, [0], id="IoU of one half, threshold below"),
        pytest.param([[0, 0, 5, 5], [5, 0, 10, 5]], [0.9, 0.8], 0.0, [0, 1], id="touching"),
        pytest.param([[3, 3, 3, 3]] * 2, [0.9, 0.8], 0.0, [0, 1], id="points overlap nothing"),
        pytest.param([[9, 9, 1, 1], [1, 1, 9, 9]], [0.9, 0.8], 0.0, [0, 1], id="inverted overlap nothing"),
        pytest.param([[0, 0, 1, 1], [5, 5, 6, 6]], [-0.0, 0.0], 0.5, [0, 1], id="minus zero equals zero"),
    ],
)
def test_nms_follows_the_rule(boxes: Any, scores: Any, threshold: float, expected: list[int]) -> None:
    assert nms(boxes, scores, threshold).tolist() == expected


@settings(max_examples=150, deadline=None)
@given(sets.awkward_boxes(), st.sampled_from(THRESHOLDS))
def test_nms_equals_the_slow_rule(case: tuple[Any, Any, Any], threshold: float) -> None:
    boxes, scores, _ = case
    assert nms(boxes, scores, threshold).tolist() == sets.slow_nms(boxes, scores, threshold)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_grid_changes_nothing(pattern: str, threshold: float, dtype: Any) -> None:
    boxes = PATTERNS[pattern](300, seed=7).astype(dtype)  # more than a small run
    boxes[::17, 2] = boxes[::17, 0]
    boxes[5::23] = boxes[4::23][: len(boxes[5::23])]
    boxes[3] = [-1e5, -1e5, 1e5, 1e5]
    scores = sets.scores(300, 7, ties=True).astype(dtype)
    assert nms(boxes, scores, threshold).tolist() == sets.slow_nms(boxes, scores, threshold)


@pytest.mark.parametrize("scale", [1e-22, 1e-12, 1e12, 1e22])
def test_extreme_sizes_follow_the_rule(scale: float) -> None:
    boxes = (sets.clustered(200, seed=3) * scale).astype(np.float32)
    scores = sets.scores(200, 3)
    assert nms(boxes, scores, 0.45).tolist() == sets.slow_nms(boxes, scores, 0.45)


@settings(max_examples=100, deadline=None)
@given(sets.awkward_boxes(), st.sampled_from(THRESHOLDS))
def test_batched_nms_is_nms_within_each_class(case: tuple[Any, Any, Any], threshold: float) -> None:
    boxes, scores, classes = case
    expected = []
    for class_id in np.unique(classes):
        rows = np.flatnonzero(classes == class_id)
        expected += rows[sets.slow_nms(boxes[rows], scores[rows], threshold)].tolist()
    assert batched_nms(boxes, scores, classes, threshold).tolist() == sorted(expected, key=lambda i: (-scores[i], i))


def test_batched_nms_keeps_classes_apart_in_huge_pictures() -> None:
    box = np.array([[1e6, 1e6, 1e6 + 1, 1e6 + 1]], np.float32)
    boxes = np.repeat(box, 2000, axis=0)
    classes = np.arange(2000) % 1000
    assert batched_nms(boxes, np.linspace(1, 0, 2000, dtype=np.float32), classes).tolist() == list(range(1000))


@pytest.mark.parametrize("classes", [[0, 10**12, 0], [-(2**40), 5, -(2**40)]])
def test_class_ids_may_lie_far_apart(classes: list[int]) -> None:
    assert batched_nms([[0, 0, 9, 9]] * 3, [0.3, 0.2, 0.9], classes).tolist() == [2, 1]


@settings(max_examples=100, deadline=None)
@given(sets.awkward_boxes(20), st.sampled_from(["gaussian", "linear"]), st.sampled_from([0.001, 0.0, 0.3]))
@example((np.array([[0, 0, 9, 9]] * 2, np.float32), np.array([1, 1], np.float32), None), "linear", 0.0)
def test_soft_nms_equals_the_slow_rule(case: tuple[Any, Any, Any], method: Any, least: float) -> None:
    boxes, scores, _ = case
    kept, lowered = soft_nms(boxes, scores, method=method, sigma=0.4, iou_threshold=0.3, score_threshold=least)
    expected, values = sets.slow_soft_nms(
        boxes, scores, gaussian=method == "gaussian", sigma=0.4, threshold=0.3, least=least
    )
    got = dict(zip(kept.tolist(), lowered.tolist(), strict=True))
    for index, value in zip(expected, values, strict=True):  # at the limit itself the last bit decides
        assert abs(value - least) < 1e-6 or got[index] == pytest.approx(value, abs=1e-6)
    assert all(index in expected or abs(value - least) < 1e-6 for index, value in got.items())
    assert (np.diff(lowered) <= 0).all()


@pytest.mark.parametrize("method", ["gaussian", "linear"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_soft_nms_in_blocks_equals_the_slow_rule(pattern: str, method: Any) -> None:
    boxes, scores = PATTERNS[pattern](300, seed=5), sets.scores(300, 5)
    kept, lowered = soft_nms(boxes, scores, method=method)
    expected, values = sets.slow_soft_nms(
        boxes, scores, gaussian=method == "gaussian", sigma=0.5, threshold=0.45, least=0.001
    )
    assert kept.tolist() == expected
    np.testing.assert_allclose(lowered, values, atol=1e-6)


def test_a_box_that_overlaps_nothing_keeps_its_very_score() -> None:
    scores = sets.scores(50, 1)
    boxes = np.arange(50, dtype=np.float32)[:, None] * 20 + np.array([0, 0, 10, 10], np.float32)
    kept, lowered = soft_nms(boxes, scores, score_threshold=0.0)
    assert lowered.tolist() == scores[kept].tolist()
    assert len(kept) == 50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nms([[0, 0, 1]], [1.0]), r"boxes have shape \(1, 3\)"),
        (lambda: nms([[0, 0, 1, 1]], [1.0, 0.5]), r"scores have shape \(2,\); allowed is \(1,\)"),
        (lambda: nms([[0, 0, 1, 1]], [1.0], 1.5), "iou_threshold is 1.5; allowed is 0..1"),
        (lambda: nms([[0, 0, 1, np.nan]], [1.0]), "NaN or infinity"),
        (lambda: nms(np.array([[0, 0, 1, 1]], np.float32), np.array([np.inf], np.float32)), "NaN or infinity"),
        (lambda: batched_nms([[0, 0, 1, 1]], [1.0], [0.5]), "allowed are integers"),
        (lambda: batched_nms([[0, 0, 1, 1]], [1.0], [0, 1]), "allowed are integers"),
        (lambda: soft_nms([[0, 0, 1, 1]], [1.0], method="cubic"), "method is 'cubic'; allowed is one of gaussian"),  # type: ignore[arg-type]
        (lambda: soft_nms([[0, 0, 1, 1]], [1.0], sigma=0.0), "sigma is 0.0"),
        (lambda: soft_nms([[0, 0, 1, 1]], [1.0], score_threshold=-1), "score_threshold is -1"),
    ],
)
def test_what_is_not_allowed_is_said(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@settings(max_examples=150, deadline=None)
@given(sets.awkward_boxes(), st.sampled_from(THRESHOLDS))
def test_the_kept_set_is_torchvisions(case: tuple[Any, Any, Any], threshold: float) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed (extra: torch)")
    torch = pytest.importorskip("torch")
    boxes, scores, classes = case
    b, s, c = torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes.astype(np.int64))
    assert nms(boxes, scores, threshold).tolist() == torchvision.ops.nms(b, s, threshold).tolist()
    if len(boxes):
        theirs = torchvision.ops.boxes._batched_nms_vanilla(b, s, c, threshold)  # its order of ties is not defined
        assert sorted(batched_nms(boxes, scores, classes, threshold).tolist()) == sorted(theirs.tolist())


@pytest.mark.parametrize("n", [100, 1000, 5000])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_large_kept_sets_are_torchvisions(pattern: str, n: int) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed (extra: torch)")
    torch = pytest.importorskip("torch")
    boxes, scores = PATTERNS[pattern](n, seed=n), sets.scores(n, n)
    for threshold in THRESHOLDS:
        theirs = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
        assert nms(boxes, scores, threshold).tolist() == theirs.tolist()


@pytest.mark.skipif(os.name != "posix" or shutil.which("true") is None, reason="needs a POSIX system")
def test_kernels_work_where_no_cache_can_be_written(tmp_path: Path) -> None:
    # a file where the cache folder would be: nobody, root included, can make a folder below it
    blocked = tmp_path / "file"
    blocked.write_text("")
    code = (
        "import numba.core.caching as c\n"
        "for locator in c.CacheImpl._locator_classes: locator.from_function = classmethod(lambda *_: None)\n"
        "from cv_platform.vision.compiled import compiled\n"
        "print(compiled(lambda x: x + 1)(1))\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(blocked / "below"), "XDG_CACHE_HOME": str(blocked)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert run.stdout.strip() == "2", run.stderr[-500:]
