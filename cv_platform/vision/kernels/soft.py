"""Soft suppression: overlap lowers a score instead of removing the box."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled
from cv_platform.vision.kernels.order import descending_order

_BLOCK = 32
"""Boxes that lie near each other form blocks of so many; a block that the chosen box does not touch is skipped."""

_ALMOST = 1.0 - 1e-9


@compiled
def _near_each_other(boxes: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """An order along the Z curve of the boxes' centres (Morton 1966), on a raster of 256 × 256."""
    n = rows.shape[0]
    xs = np.empty(n, np.float64)
    ys = np.empty(n, np.float64)
    for i in range(n):
        xs[i] = boxes[rows[i], 0] + boxes[rows[i], 2]
        ys[i] = boxes[rows[i], 1] + boxes[rows[i], 3]
    left, top = xs.min(), ys.min()
    per_x = 255.0 / max(xs.max() - left, 1e-300)
    per_y = 255.0 / max(ys.max() - top, 1e-300)
    curve = np.empty(n, np.float32)
    for i in range(n):
        x = int(min(255.0, max(0.0, (xs[i] - left) * per_x)))
        y = int(min(255.0, max(0.0, (ys[i] - top) * per_y)))
        key = 0
        for bit in range(8):
            key |= ((x >> bit) & 1) << (2 * bit) | ((y >> bit) & 1) << (2 * bit + 1)
        curve[i] = key
    return descending_order(curve)


@compiled
def _any_over(
    chosen: tuple[float, float, float, float, float],
    corners: npt.NDArray[np.float64],
    areas: npt.NDArray[np.float64],
    iou_threshold: float,
) -> bool:
    """Whether any box of a block may overlap the chosen one by more than the threshold.

    The linear rule changes few scores, and division is most of its work: a product (with room for rounding) tells
    where there is nothing to do.
    """
    left, top, right, bottom, area = chosen
    x1, y1, x2, y2 = corners[0], corners[1], corners[2], corners[3]
    share = iou_threshold * _ALMOST
    over = 0
    for i in range(_BLOCK):
        w = (right if right < x2[i] else x2[i]) - (left if left > x1[i] else x1[i])
        h = (bottom if bottom < y2[i] else y2[i]) - (top if top > y1[i] else y1[i])
        shared = (w if w > 0.0 else 0.0) * (h if h > 0.0 else 0.0)
        over += shared > (area + areas[i] - shared) * share
    return over > 0


@compiled
def _lower(
    chosen: tuple[float, float, float, float, float],
    corners: npt.NDArray[np.float64],
    areas: npt.NDArray[np.float64],
    keys: npt.NDArray[np.float64],
    gaussian: bool,
    parameter: float,
    overlaps: npt.NDArray[np.float64],
) -> None:
    """Lower one block's keys by their boxes' overlap with the chosen one; plain loops over rows, which vectorise.

    `overlaps` is room to work in, a block wide: memory of its own would cost as much as the work.
    """
    left, top, right, bottom, area = chosen
    x1, y1, x2, y2 = corners[0], corners[1], corners[2], corners[3]
    for i in range(_BLOCK):
        w = (right if right < x2[i] else x2[i]) - (left if left > x1[i] else x1[i])
        h = (bottom if bottom < y2[i] else y2[i]) - (top if top > y1[i] else y1[i])
        shared = (w if w > 0.0 else 0.0) * (h if h > 0.0 else 0.0)
        union = area + areas[i] - shared
        overlaps[i] = shared / (union if shared > 0.0 else 1.0)
    if gaussian:
        for i in range(_BLOCK):
            keys[i] -= overlaps[i] * overlaps[i] * parameter
    else:
        for i in range(_BLOCK):
            keys[i] *= 1.0 - overlaps[i] if overlaps[i] > parameter else 1.0


@compiled
def _highest(keys: npt.NDArray[np.float64], halves: npt.NDArray[np.float64]) -> float:
    """The highest key of a block, by halves: comparisons side by side instead of one after the other.

    `halves` is room to work in, as in `_lower`.
    """
    for i in range(_BLOCK // 2):
        halves[i] = keys[i] if keys[i] > keys[i + _BLOCK // 2] else keys[i + _BLOCK // 2]
    for i in range(_BLOCK // 4):
        halves[i] = halves[i] if halves[i] > halves[i + _BLOCK // 4] else halves[i + _BLOCK // 4]
    best = halves[0]
    for i in range(1, _BLOCK // 4):
        best = halves[i] if halves[i] > best else best
    return float(best)


@compiled
def soft_suppress(
    boxes: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    gaussian: bool,
    sigma: float,
    iou_threshold: float,
    score_threshold: float,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Choose the best box, lower the scores of those that it overlaps, and so on.

    A Gaussian's factors multiply, so their exponents add: the loop compares logarithms of scores and needs no
    exponential at all until a box is chosen. Where a fifth of the boxes have been chosen or have fallen too low, the
    rest is packed into new blocks.

    Args:
        boxes: float64 (N, 4), finite, C order.
        scores: float64 (N,), finite, C order.
        gaussian: whether scores fall by exp(-IoU² / sigma), else by 1 - IoU where IoU > iou_threshold.
        sigma: of the Gaussian.
        iou_threshold: of the linear rule.
        score_threshold: at or below it a box is dropped, 0 or more.

    Returns:
        The chosen boxes, int64 (K,), and their new scores, float64 (K,), in the order of choice.
    """
    rows = np.nonzero(scores > score_threshold)[0]
    chosen = np.empty(rows.shape[0], np.int64)
    lowered = np.empty(rows.shape[0], np.float64)
    if rows.shape[0] == 0:
        return chosen, lowered
    rows = rows[_near_each_other(boxes, rows)]
    keys = np.log(scores[rows]) if gaussian else scores[rows]
    lowest = np.log(score_threshold) if gaussian else score_threshold
    parameter = 1.0 / sigma if gaussian else iou_threshold
    count = 0
    while rows.shape[0] > 0:
        count = _choose_until_thinned(boxes, scores, rows, keys, gaussian, parameter, lowest, chosen, lowered, count)
        alive = keys > lowest
        rows, keys = rows[alive], keys[alive]
    return chosen[:count], lowered[:count]


@compiled
def _choose_until_thinned(
    boxes: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    keys_out: npt.NDArray[np.float64],
    gaussian: bool,
    parameter: float,
    lowest: float,
    chosen: npt.NDArray[np.int64],
    lowered: npt.NDArray[np.float64],
    count: int,
) -> int:
    """Choose from `rows` until a fifth of them are done with; writes their keys back and returns the new count."""
    n = rows.shape[0]
    blocks = (n + _BLOCK - 1) // _BLOCK
    corners = np.zeros((blocks, 4, _BLOCK), np.float64)
    areas = np.zeros((blocks, _BLOCK), np.float64)
    gone = -np.inf if gaussian else -1.0  # infinity times 0 would be NaN
    keys = np.full((blocks, _BLOCK), gone)
    bounds = np.empty((blocks, 4), np.float64)
    bounds[:, :2] = np.inf
    bounds[:, 2:] = -np.inf
    highest = np.full(blocks, -np.inf)
    room = np.empty(_BLOCK, np.float64)
    for i in range(n):
        b, at, row = i // _BLOCK, i % _BLOCK, rows[i]
        for c in range(4):
            corners[b, c, at] = boxes[row, c]
        areas[b, at] = (boxes[row, 2] - boxes[row, 0]) * (boxes[row, 3] - boxes[row, 1])
        keys[b, at] = keys_out[i]
        highest[b] = max(highest[b], keys_out[i])
        for c in range(2):
            bounds[b, c] = min(bounds[b, c], boxes[row, c])
            bounds[b, 2 + c] = max(bounds[b, 2 + c], boxes[row, 2 + c])

    for turn in range(n + 1):
        if n > 4 * _BLOCK and turn % _BLOCK == _BLOCK - 1:
            alive = 0
            for b in range(blocks):
                for i in range(_BLOCK):
                    alive += keys[b, i] > lowest
            if 5 * alive <= 4 * n:
                break
        best = -np.inf
        for b in range(blocks):
            best = highest[b] if highest[b] > best else best
        if not best > lowest:
            break
        row, home, place = np.int64(-1), 0, 0
        for b in range(blocks):
            if highest[b] == best:
                for i in range(_BLOCK):
                    if keys[b, i] == best and (row < 0 or rows[b * _BLOCK + i] < row):
                        row, home, place = rows[b * _BLOCK + i], b, i
        first = np.log(scores[row]) if gaussian else 0.0
        chosen[count] = row
        lowered[count] = scores[row] * np.exp(best - first) if gaussian else best
        count += 1
        keys[home, place] = gone
        box = (boxes[row, 0], boxes[row, 1], boxes[row, 2], boxes[row, 3], areas[home, place])
        for b in range(blocks):
            if not highest[b] > lowest:
                continue
            if b == home or (
                box[0] < bounds[b, 2] and box[2] > bounds[b, 0] and box[1] < bounds[b, 3] and box[3] > bounds[b, 1]
            ):
                if gaussian or _any_over(box, corners[b], areas[b], parameter):
                    _lower(box, corners[b], areas[b], keys[b], gaussian, parameter, room)
                elif b != home:
                    continue
                highest[b] = _highest(keys[b], room)
    for i in range(n):
        keys_out[i] = keys[i // _BLOCK, i % _BLOCK]
    return count
