"""From a network's outputs to kept boxes, without leaving the device: the batched twin of `detectors.heads` and `nms`.

Every function has fixed shapes and never asks the device for a value, so that all of it can be part of a CUDA graph.
The heads' sources are given in `detectors.heads`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor

COLUMNS: Final = 7
"""Of a result row: x1, y1, x2, y2, score, class id, kept (1 or 0)."""
_ROUNDS: Final = 12
"""Of suppression; more are needed only where boxes overlap in a chain that is longer, which the result then says."""


class Dense(NamedTuple):
    """What a head says of every place it looks at, in pixels of the input.

    Attributes:
        boxes: float32 (N, A, 4), x1, y1, x2, y2.
        scores: float32 (N, A).
        labels: int64 (N, A), the network's own labels.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


Head = Callable[[Mapping[str, Tensor], int, int], Dense]
"""Outputs by name, height and width of the input → what is there."""


def _grid(height: int, width: int, like: Tensor, strides: tuple[int, ...] = (8, 16, 32)) -> tuple[Tensor, Tensor]:
    cells, steps = [], []
    for stride in strides:
        rows = torch.arange(height // stride, device=like.device, dtype=torch.float32)
        columns = torch.arange(width // stride, device=like.device, dtype=torch.float32)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        cells.append(torch.stack([x.reshape(-1), y.reshape(-1)], 1))
        steps.append(torch.full((len(cells[-1]), 1), float(stride), device=like.device))
    return torch.cat(cells), torch.cat(steps)


def _corners(centres: Tensor, sizes: Tensor) -> Tensor:
    half = sizes * 0.5
    return torch.cat([centres - half, centres + half], -1)


def _first(outputs: Mapping[str, Tensor]) -> Tensor:
    return next(iter(outputs.values())).float()


def _yolox(outputs: Mapping[str, Tensor], height: int, width: int) -> Dense:
    rows = _first(outputs)
    cells, steps = _grid(height, width, rows)
    if rows.ndim != 3 or rows.shape[1] != len(cells) or rows.shape[2] < 6:
        raise ValueError(f"output has shape {tuple(rows.shape)}; a YOLOX head gives (N, {len(cells)}, 5 + C)")
    best, labels = rows[..., 5:].max(-1)
    boxes = _corners((rows[..., :2] + cells) * steps, rows[..., 2:4].exp() * steps)
    return Dense(boxes, best * rows[..., 4], labels)


def _yolov5(outputs: Mapping[str, Tensor], height: int, width: int) -> Dense:
    rows = _first(outputs)
    if rows.ndim != 3 or rows.shape[2] < 6:
        raise ValueError(f"output has shape {tuple(rows.shape)}; a YOLOv5 head gives (N, A, 5 + C)")
    best, labels = rows[..., 5:].max(-1)
    return Dense(_corners(rows[..., :2], rows[..., 2:4]), best * rows[..., 4], labels)


def _yolov8(outputs: Mapping[str, Tensor], height: int, width: int) -> Dense:
    columns = _first(outputs)
    if columns.ndim != 3 or columns.shape[1] < 5:
        raise ValueError(f"output has shape {tuple(columns.shape)}; a YOLOv8 head gives (N, 4 + C, A)")
    rows = columns.transpose(1, 2)
    best, labels = rows[..., 4:].max(-1)
    return Dense(_corners(rows[..., :2], rows[..., 2:4]), best, labels)


def _centerface(outputs: Mapping[str, Tensor], height: int, width: int) -> Dense:
    heatmap, sizes, offsets = (value.float() for value in list(outputs.values())[:3])
    rows, columns = heatmap.shape[2:]
    y = torch.arange(rows, device=heatmap.device, dtype=torch.float32)[:, None]
    x = torch.arange(columns, device=heatmap.device, dtype=torch.float32)[None, :]
    centres = torch.stack([(x + offsets[:, 1] + 0.5) * 4, (y + offsets[:, 0] + 0.5) * 4], -1)
    extents = torch.stack([sizes[:, 1], sizes[:, 0]], -1).exp() * 4
    scores = heatmap[:, 0].flatten(1)
    return Dense(_corners(centres, extents).flatten(1, 2), scores, torch.zeros_like(scores, dtype=torch.int64))


def _yunet(outputs: Mapping[str, Tensor], height: int, width: int) -> Dense:
    def levels(kind: str) -> Tensor:
        return torch.cat([outputs[f"{kind}_{stride}"] for stride in (8, 16, 32)], 1).float()

    rows = levels("bbox")
    cells, steps = _grid(height, width, rows)
    scores = (levels("cls").clamp(0, 1) * levels("obj").clamp(0, 1)).sqrt().squeeze(-1)
    boxes = _corners((rows[..., :2] + cells) * steps, rows[..., 2:4].exp() * steps)
    return Dense(boxes, scores, torch.zeros_like(scores, dtype=torch.int64))


def _ultraface(outputs: Mapping[str, Tensor], height: int, width: int) -> Dense:
    boxes, scores = outputs["boxes"].float(), outputs["scores"][..., 1].float()
    scaled = torch.stack([boxes[..., i] * (width if i % 2 == 0 else height) for i in range(4)], -1)
    return Dense(scaled, scores, torch.zeros_like(scores, dtype=torch.int64))


HEADS: Final[dict[str, Head]] = {
    "yolox": _yolox,
    "yolov5": _yolov5,
    "yolov8": _yolov8,
    "centerface": _centerface,
    "yunet": _yunet,
    "ultraface": _ultraface,
}
"""By the name that `models.yaml` uses under `head`."""


class Kept(NamedTuple):
    """The result of a batch, still on the device.

    Attributes:
        rows: float32 (N, K, 7), see `COLUMNS`; best score first, rows without a candidate have score −1.
        counts: int32 (N, 2): candidates there were (more than K: some are missing), and 1 where suppression settled.
    """

    rows: Tensor
    counts: Tensor


def select(
    found: Dense,
    class_ids: Tensor,
    geometry: Tensor,
    *,
    score_threshold: Tensor,
    iou_threshold: float,
    most: int,
    suppress: bool = True,
) -> Kept:
    """The best candidates of every picture, in the frame's pixels, with those marked that suppression keeps.

    Args:
        found: what the head says.
        class_ids: int64 (L,), the platform's class id of each of the network's labels; −1 for none.
        geometry: float32 (N, 6), a picture each: scale x, y; shift x, y; frame's width, height.
        score_threshold: float32 (), candidates are above it.
        iou_threshold: overlap above which the weaker of two boxes of one class goes.
        most: candidates a picture, K.
        suppress: whether to mark by suppression; otherwise every candidate is marked as kept.
    """
    known = (found.labels >= 0) & (found.labels < len(class_ids))
    classes = torch.where(known, class_ids[found.labels.clamp(0, len(class_ids) - 1)], -1)
    scale, shift, most_px = (geometry[:, None, pair : pair + 2].repeat(1, 1, 2) for pair in (0, 2, 4))
    boxes = ((found.boxes - shift) / scale).clamp_min(0).minimum(most_px)
    usable = (found.scores > score_threshold) & (classes >= 0) & found.boxes.isfinite().all(-1)
    usable &= (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    scores = torch.where(usable, found.scores, -1.0)
    most = min(most, scores.shape[1])
    best, order = scores.sort(dim=1, descending=True, stable=True)
    best, order = best[:, :most], order[:, :most]
    boxes = torch.where(best[..., None] > 0, boxes.gather(1, order[..., None].expand(-1, -1, 4)), 0.0)
    classes = classes.gather(1, order)
    valid = best > 0
    kept, settled = suppressed(boxes, classes, valid, iou_threshold) if suppress else (valid, valid.new_ones(len(best)))
    rows = torch.cat([boxes, torch.stack([best, classes.float(), kept.float()], -1)], -1)
    return Kept(rows, torch.stack([usable.sum(1).int(), settled.int()], 1))


def suppressed(boxes: Tensor, classes: Tensor, valid: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Greedy suppression within each class, of every picture at once.

    Keeping is the one fixed point of "stays, unless a better box of its class that stays overlaps it". It is reached
    by repeating that rule: each round settles one more link of the longest chain of overlaps.

    Args:
        boxes: float32 (N, K, 4), best score first.
        classes: (N, K).
        valid: bool (N, K), rows that hold a candidate.

    Returns:
        bool (N, K) what stays, and bool (N,) whether it is settled.
    """
    left_top = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    right_bottom = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    sides = (right_bottom - left_top).clamp_min(0)
    shared = sides[..., 0] * sides[..., 1]
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    overlap = shared / (areas[:, :, None] + areas[:, None, :] - shared)
    # [n, i, j]: the better box j would suppress i
    beats = (overlap > iou_threshold) & (classes[:, :, None] == classes[:, None, :])
    beats = beats.tril(-1).to(torch.float16 if boxes.is_cuda else torch.float32)
    stays = valid
    before = stays
    for _ in range(_ROUNDS):
        before = stays
        stays = valid & (torch.matmul(beats, stays.to(beats.dtype)[..., None])[..., 0] == 0)
    return stays, (stays == before).all(1)
