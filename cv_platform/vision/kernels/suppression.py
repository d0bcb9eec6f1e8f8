"""Greedy suppression: of boxes that overlap, only the first in the order stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled
from cv_platform.vision.kernels.order import descending_order

_SMALL_RUN = 96
"""Runs up to this long compare each box with all kept ones; a grid would cost more than it saves."""
_MOST_CELLS = 64
"""Cells along one side of the grid, at most."""
_SMALLEST_AREA = 1e-30
_LARGEST_AREA = 1e30
"""Outside these the areas of float32 boxes under- or overflow, and the bounds that the grid rests on do not hold."""


@compiled
def _overlaps(a: npt.NDArray[Any], b: npt.NDArray[Any], area_a: Any, area_b: Any, iou_threshold: float) -> bool:
    """Whether IoU > threshold, in the boxes' own precision, with torchvision's order of operations."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    if not width > 0:
        return False
    height = min(a[3], b[3]) - max(a[1], b[1])
    if not height > 0:
        return False
    intersection = width * height
    return bool(intersection / (area_a + area_b - intersection) > iou_threshold)


@compiled
def grid_cell(value: float, origin: float, per_unit: float, cells: int) -> int:
    """The cell along one side that holds `value`; values outside fall into the first or the last."""
    position = (value - origin) * per_unit
    if not position > 0.0:
        return 0
    if position >= cells - 1:
        return cells - 1
    return int(position)


@compiled
def _suppress_all_pairs(
    boxes: npt.NDArray[Any],
    areas: npt.NDArray[Any],
    first: int,
    last: int,
    iou_threshold: float,
    kept: npt.NDArray[Any],
) -> None:
    """Compare each box of the run with every kept one before it."""
    n_kept = 0
    rows = np.empty(last - first, np.int32)
    for i in range(first, last):
        suppressed = False
        for k in range(n_kept):
            row = rows[k]
            if _overlaps(boxes[row], boxes[i], areas[row], areas[i], iou_threshold):
                suppressed = True
                break
        if not suppressed:
            kept[i] = True
            rows[n_kept] = i
            n_kept += 1


@compiled
def _suppress_on_grid(
    boxes: npt.NDArray[Any],
    areas: npt.NDArray[Any],
    first: int,
    last: int,
    iou_threshold: float,
    kept: npt.NDArray[Any],
) -> None:
    """Compare each box of the run only with those kept ones that can overlap it enough.

    Kept boxes lie in the grid cell of their top left corner. If IoU(q, k) > t, the overlap's width exceeds t times the
    wider one's width, so w_k < w_q / t, and the left sides differ by less than (1 - t) times the width of the box that
    begins further left; the same holds vertically. A thousandth of the width covers what rounding adds.
    """
    n = last - first
    left, top = np.inf, np.inf
    right, bottom = -np.inf, -np.inf
    total_w, total_h = 0.0, 0.0
    most_w, most_h = 0.0, 0.0
    solid = 0
    for i in range(first, last):
        w = np.float64(boxes[i, 2]) - np.float64(boxes[i, 0])
        h = np.float64(boxes[i, 3]) - np.float64(boxes[i, 1])
        if w > 0 and h > 0:
            solid += 1
            total_w += w
            total_h += h
            most_w = max(most_w, w)
            most_h = max(most_h, h)
            left = min(left, np.float64(boxes[i, 0]))
            right = max(right, np.float64(boxes[i, 0]))
            top = min(top, np.float64(boxes[i, 1]))
            bottom = max(bottom, np.float64(boxes[i, 1]))
            if areas[i] < _SMALLEST_AREA or areas[i] > _LARGEST_AREA:
                _suppress_all_pairs(boxes, areas, first, last, iou_threshold, kept)
                return
    if solid == 0:
        kept[first:last] = True
        return
    most = max(1, min(_MOST_CELLS, int(np.sqrt(n))))
    cells_x = max(1, min(most, int((right - left) / (total_w / solid)) + 1))
    cells_y = max(1, min(most, int((bottom - top) / (total_h / solid)) + 1))
    per_x = cells_x / (right - left) if right > left else 0.0
    per_y = cells_y / (bottom - top) if bottom > top else 0.0
    heads = np.full(cells_x * cells_y, -1, np.int32)
    following = np.empty(n, np.int32)
    reach = 1.0 - iou_threshold + 1e-3

    for i in range(first, last):
        x, y = np.float64(boxes[i, 0]), np.float64(boxes[i, 1])
        w, h = np.float64(boxes[i, 2]) - x, np.float64(boxes[i, 3]) - y
        if not (w > 0 and h > 0):  # overlaps nothing, so it stays and suppresses nothing
            kept[i] = True
            continue
        x_from = grid_cell(x - min(w / iou_threshold * 1.001, most_w) * reach, left, per_x, cells_x)
        x_to = grid_cell(x + w * reach, left, per_x, cells_x)
        y_from = grid_cell(y - min(h / iou_threshold * 1.001, most_h) * reach, top, per_y, cells_y)
        y_to = grid_cell(y + h * reach, top, per_y, cells_y)
        suppressed = False
        for cy in range(y_from, y_to + 1):
            for cx in range(x_from, x_to + 1):
                k = heads[cy * cells_x + cx]
                while k >= 0:
                    if _overlaps(boxes[k], boxes[i], areas[k], areas[i], iou_threshold):
                        suppressed = True
                        break
                    k = following[k - first]
                if suppressed:
                    break
            if suppressed:
                break
        if not suppressed:
            kept[i] = True
            home = grid_cell(y, top, per_y, cells_y) * cells_x + grid_cell(x, left, per_x, cells_x)
            following[i - first] = heads[home]
            heads[home] = i


@compiled
def suppress(
    boxes: npt.NDArray[Any], order: npt.NDArray[np.int32], starts: npt.NDArray[np.int32], iou_threshold: float
) -> npt.NDArray[np.bool_]:
    """Greedy suppression within each run.

    Args:
        boxes: float32 or float64 (N, 4), finite, C order.
        order: int32 (N,), indices, run after run, the best of a run first.
        starts: int32 (G + 1,), where the runs start in `order`; the last is N.
        iou_threshold: 0..1; a box goes if its IoU with a kept box of its run is greater.

    Returns:
        bool (N,), by box, True where it stays.
    """
    n = order.shape[0]
    gathered = np.empty((n, 4), boxes.dtype)
    areas = np.empty(n, boxes.dtype)
    for i in range(n):
        row = order[i]
        for c in range(4):
            gathered[i, c] = boxes[row, c]
        areas[i] = (gathered[i, 2] - gathered[i, 0]) * (gathered[i, 3] - gathered[i, 1])
    kept = np.zeros(n, np.bool_)
    for run in range(starts.shape[0] - 1):
        first, last = starts[run], starts[run + 1]
        if last - first <= _SMALL_RUN:
            _suppress_all_pairs(gathered, areas, first, last, iou_threshold, kept)
        else:
            _suppress_on_grid(gathered, areas, first, last, iou_threshold, kept)
    stays = np.empty(n, np.bool_)
    for i in range(n):
        stays[order[i]] = kept[i]
    return stays


@compiled
def keep_best(
    boxes: npt.NDArray[Any], scores: npt.NDArray[np.float32], iou_threshold: float
) -> tuple[bool, npt.NDArray[np.int64]]:
    """Order, suppression and the kept indices in one call, because for a hundred boxes calls cost more than work.

    Args:
        boxes: float32 or float64 (N, 4), C order.
        scores: float32 (N,), C order.
        iou_threshold: as `suppress`.

    Returns:
        Whether all numbers are finite, and int64 (K,), the highest score first; nothing where they are not.
    """
    n = scores.shape[0]
    if not all_finite(boxes, scores):
        return False, np.empty(0, np.int64)
    order = descending_order(scores)
    starts = np.empty(2, np.int32)
    starts[0], starts[1] = 0, n
    stays = suppress(boxes, order, starts, iou_threshold)
    return True, kept_in_order(order, stays)


@compiled
def kept_in_order(order: npt.NDArray[np.int32], stays: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Those indices of the order that stay, int64 (K,)."""
    n_kept = 0
    for i in range(order.shape[0]):
        n_kept += stays[i]
    kept = np.empty(n_kept, np.int64)
    n_kept = 0
    for i in range(order.shape[0]):
        if stays[order[i]]:
            kept[n_kept] = order[i]
            n_kept += 1
    return kept


@compiled
def all_finite(boxes: npt.NDArray[Any], scores: npt.NDArray[Any]) -> bool:
    """Whether neither array, (N, 4) and (N,), holds NaN or infinity."""
    finite = True
    for i in range(scores.shape[0]):
        finite &= abs(scores[i]) < np.inf
        for c in range(4):
            finite &= abs(boxes[i, c]) < np.inf
    return finite
