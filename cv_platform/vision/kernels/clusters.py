"""Clusters of boxes that several models found, each with its weighted mean."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled
from cv_platform.vision.kernels.suppression import grid_cell

_MOST_CELLS = 96
"""Cells along one side of the grid, at most."""
_CHUNK = 64
"""Clusters compared side by side."""
_SINGLE = 1e-6
"""A mean is held in single precision; so far may rounding move it in a picture of width 1."""


@compiled
def _best_of_all(
    means: npt.NDArray[np.float64],
    first: int,
    last: int,
    box: tuple[float, float, float, float],
    iou_threshold: float,
) -> int:
    """The cluster from first to last - 1 that overlaps the box most, by more than the threshold, or -1.

    For large boxes, which would visit most of the grid: chunks whose arithmetic vectorises.
    """
    x, y, right, bottom = box
    area = (right - x) * (bottom - y)
    best, best_iou = -1, iou_threshold
    overlaps = np.empty(_CHUNK, np.float64)
    for start in range(first, last, _CHUNK):
        length = min(_CHUNK, last - start)
        x1, y1 = means[0, start : start + length], means[1, start : start + length]
        x2, y2 = means[2, start : start + length], means[3, start : start + length]
        better = False
        for i in range(length):
            w = (right if right < x2[i] else x2[i]) - (x if x > x1[i] else x1[i])
            h = (bottom if bottom < y2[i] else y2[i]) - (y if y > y1[i] else y1[i])
            shared = (w if w > 0.0 else 0.0) * (h if h > 0.0 else 0.0)
            union = (x2[i] - x1[i]) * (y2[i] - y1[i]) + area - shared
            iou = shared / (union if shared > 0.0 else 1.0)
            overlaps[i] = iou
            better |= iou > best_iou
        if better:
            for i in range(length):
                if overlaps[i] > best_iou:
                    best, best_iou = start + i, overlaps[i]
    return int(best)


@compiled
def cluster(
    boxes: npt.NDArray[np.float64],
    confidences: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    starts: npt.NDArray[np.int64],
    iou_threshold: float,
) -> tuple[
    npt.NDArray[np.int64],
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
    npt.NDArray[np.int64],
]:
    """Put each box into the cluster whose mean it overlaps most, or open a new one (Solovyev et al. 2021, section 2).

    Means are sums in single precision divided by sums in double precision, as `ensemble-boxes` computes them, because
    the last bit of a mean may decide on the next box. They move, so a cluster's place in the grid moves with them; the
    grid's bounds are those of `suppression`.

    Args:
        boxes: float64 (N, 4), within 0..1, each with an area; label after label, the most confident of a label first.
        confidences: float64 (N,), score times the model's weight.
        weights: float64 (N,), the model's weight.
        starts: int64 (L + 1,), where the labels start; the last is N.
        iou_threshold: 0..1; a box joins where its IoU is greater.

    Returns:
        For each box its cluster, int64 (N,); for each cluster its mean box (C, 4), sum of confidences (C,), sum of
        weights (C,), float64, and number of boxes, int64 (C,). Clusters come in the order in which they were opened.
    """
    n = boxes.shape[0]
    assigned = np.empty(n, np.int64)
    means = np.empty((4, n), np.float64)
    sums = np.zeros((n, 4), np.float32)
    total_confidence = np.zeros(n, np.float64)
    total_weight = np.zeros(n, np.float64)
    counts = np.zeros(n, np.int64)
    before = np.empty(n, np.int64)
    after = np.empty(n, np.int64)
    home = np.empty(n, np.int64)
    heads = np.empty(_MOST_CELLS * _MOST_CELLS, np.int64)
    reach = 1.0 - iou_threshold + 1e-3
    opened = 0
    for run in range(starts.shape[0] - 1):
        first, last = starts[run], starts[run + 1]
        of_run = opened
        mean_w, mean_h, most_w, most_h = 0.0, 0.0, 0.0, 0.0
        for i in range(first, last):
            w, h = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
            mean_w += w / (last - first)
            mean_h += h / (last - first)
            most_w, most_h = max(most_w, w), max(most_h, h)
        most = max(1, min(_MOST_CELLS, int(np.sqrt(last - first))))
        cells_x = max(1, min(most, int(1.0 / max(mean_w, 1e-6))))
        cells_y = max(1, min(most, int(1.0 / max(mean_h, 1e-6))))
        heads[: cells_x * cells_y] = -1
        for i in range(first, last):
            x, y, right, bottom = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
            w, h = right - x, bottom - y
            area = w * h
            to_left = min(w / iou_threshold, most_w) * 1.001 * reach + _SINGLE
            to_top = min(h / iou_threshold, most_h) * 1.001 * reach + _SINGLE
            x_from, x_to = (
                grid_cell(x - to_left, 0.0, cells_x, cells_x),
                grid_cell(x + w * reach + _SINGLE, 0.0, cells_x, cells_x),
            )
            y_from, y_to = (
                grid_cell(y - to_top, 0.0, cells_y, cells_y),
                grid_cell(y + h * reach + _SINGLE, 0.0, cells_y, cells_y),
            )
            visited = (x_to - x_from + 1) * (y_to - y_from + 1)
            if 16 * visited >= cells_x * cells_y:
                best = _best_of_all(means, of_run, opened, (x, y, right, bottom), iou_threshold)
            else:
                best, best_iou = -1, iou_threshold
                for cy in range(y_from, y_to + 1):
                    for cx in range(x_from, x_to + 1):
                        k = heads[cy * cells_x + cx]
                        while k >= 0:
                            shared_w = min(means[2, k], right) - max(means[0, k], x)
                            shared_h = min(means[3, k], bottom) - max(means[1, k], y)
                            if shared_w > 0.0 and shared_h > 0.0:
                                shared = shared_w * shared_h
                                union = (means[2, k] - means[0, k]) * (means[3, k] - means[1, k]) + area - shared
                                if shared > best_iou * union * 0.999999:  # else not worth a division
                                    iou = shared / union
                                    if iou > best_iou or (iou == best_iou and best >= 0 and k < best):
                                        best, best_iou = k, iou
                            k = after[k]
            k = best
            if k < 0:
                k = opened
                opened += 1
                for c in range(4):
                    means[c, k] = boxes[i, c]
            assigned[i] = k
            counts[k] += 1
            total_confidence[k] += confidences[i]
            total_weight[k] += weights[i]
            for c in range(4):
                sums[k, c] = np.float32(np.float64(sums[k, c]) + confidences[i] * boxes[i, c])
                if counts[k] > 1 and total_confidence[k] > 0.0:
                    means[c, k] = np.float64(np.float32(np.float64(sums[k, c]) / total_confidence[k]))
            cell = grid_cell(means[1, k], 0.0, cells_y, cells_y) * cells_x + grid_cell(
                means[0, k], 0.0, cells_x, cells_x
            )
            if counts[k] > 1:
                if home[k] == cell:
                    continue
                if before[k] >= 0:
                    after[before[k]] = after[k]
                else:
                    heads[home[k]] = after[k]
                if after[k] >= 0:
                    before[after[k]] = before[k]
            home[k], before[k], after[k] = cell, -1, heads[cell]
            if heads[cell] >= 0:
                before[heads[cell]] = k
            heads[cell] = k
    return assigned, means[:, :opened].T.copy(), total_confidence[:opened], total_weight[:opened], counts[:opened]
