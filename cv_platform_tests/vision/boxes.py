"""Sets of boxes for tests, and the slow rules that fast code is held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Boxes = npt.NDArray[Any]


def uniform(n: int, seed: int) -> Boxes:
    """Small boxes all over the picture."""
    rng = np.random.default_rng(seed)
    corner = rng.random((n, 2)) * [1920, 1080]
    return np.hstack([corner, corner + rng.random((n, 2)) * 100 + 10]).astype(np.float32)


def wide(n: int, seed: int) -> Boxes:
    """Boxes of all sizes, a third of the picture on average."""
    corners = np.random.default_rng(seed).random((n, 2, 2)) * 1000
    corners.sort(axis=1)
    return corners.reshape(n, 4).astype(np.float32)


def clustered(n: int, seed: int) -> Boxes:
    """As a detector's raw output: many boxes round each of a few objects."""
    rng = np.random.default_rng(seed)
    objects = uniform(max(1, n // 30), seed)[rng.integers(0, max(1, n // 30), n)]
    size = np.tile(objects[:, 2:] - objects[:, :2], 2)
    moved = objects + rng.normal(0, 0.08, (n, 4)) * size
    return np.hstack([np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])]).astype(
        np.float32
    )


def scores(n: int, seed: int, *, ties: bool = False) -> Boxes:
    values = np.random.default_rng(seed + 1).random(n).astype(np.float32)
    return np.round(values, 1) if ties else values


@st.composite
def awkward_boxes(draw: st.DrawFn, most: int = 40) -> tuple[Boxes, Boxes, npt.NDArray[np.int16]]:
    """Touching, nested, duplicate, empty, inverted, huge and ordinary boxes with tied scores, and their classes."""
    grid = st.integers(-3, 12).map(float)
    any_size = st.floats(-1e4, 1e6, width=32)
    number = st.one_of(grid, grid, any_size)
    row = st.tuples(number, number, number, number)
    tidy = st.tuples(grid, grid, grid, grid).map(
        lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
    )
    rows = draw(st.lists(st.one_of(tidy, tidy, row), max_size=most))
    copies = draw(st.lists(st.sampled_from(rows), max_size=5)) if rows else []
    boxes = np.array([*rows, *copies], np.float32).reshape(-1, 4)
    score = st.one_of(st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, width=32))
    values = draw(st.lists(score, min_size=len(boxes), max_size=len(boxes)))
    classes = draw(st.lists(st.sampled_from([-7, 0, 1, 1001]), min_size=len(boxes), max_size=len(boxes)))
    return boxes, np.array(values, np.float32), np.array(classes, np.int16)


def slow_iou(a: Boxes, b: Boxes) -> Any:
    """IoU in the boxes' own precision, 0 / 0 being NaN."""
    zero = a.dtype.type(0)
    with np.errstate(all="ignore"):
        w = max(zero, min(a[2], b[2]) - max(a[0], b[0]))
        h = max(zero, min(a[3], b[3]) - max(a[1], b[1]))
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
        return (w * h) / union


def slow_order(values: Boxes) -> list[int]:
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def slow_nms(boxes: Boxes, values: Boxes, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in slow_order(values):
        if not any(float(slow_iou(boxes[k], boxes[i])) > threshold for k in kept):
            kept.append(i)
    return kept


def slow_soft_nms(
    boxes: Boxes, values: Boxes, *, gaussian: bool, sigma: float, threshold: float, least: float
) -> tuple[list[int], list[float]]:
    boxes, left = boxes.astype(np.float64), {i: float(v) for i, v in enumerate(values) if v > least}
    kept, lowered = [], []
    while left:
        best = min(left, key=lambda i: (-left[i], i))
        kept.append(best)
        lowered.append(left.pop(best))
        for i in list(left):
            iou = np.nan_to_num(slow_iou(boxes[best], boxes[i]), nan=0.0, posinf=0.0, neginf=0.0)
            left[i] *= float(np.exp(-iou * iou / sigma)) if gaussian else 1.0 - iou if iou > threshold else 1.0
            if left[i] <= least:
                del left[i]
    return kept, lowered
