"""From a network's raw outputs to candidate boxes: one function an architecture, arrays in, arrays out.

Every function takes one picture's outputs (no batch axis) and gives candidates before suppression, in the pixels of the
network's input: boxes float32 (K, 4) x1, y1, x2, y2, scores float32 (K,), labels int64 (K,), the network's own labels.
Candidates whose score is not above `score_threshold` are dropped as early as possible, since suppression costs most.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Candidates(NamedTuple):
    """Boxes before suppression, in pixels of the network's input."""

    boxes: Floats
    scores: Floats
    labels: Ints


@lru_cache(maxsize=32)
def _grid(height: int, width: int, strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Every cell's column and row, float32 (A, 2), and its stride, float32 (A, 1), level after level."""
    cells, steps = [], []
    for stride in strides:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        steps.append(np.full((cells[-1].shape[0], 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(steps).astype(np.float32)


def _corners(centres: Floats, sizes: Floats) -> Floats:
    half = sizes * np.float32(0.5)
    return np.concatenate([centres - half, centres + half], axis=1)


def _best_label(scores: Floats) -> tuple[Ints, Floats]:
    """Each row's best label and its score."""
    labels = scores.argmax(axis=1)
    return labels, scores[np.arange(len(scores)), labels]


def decode_yolox(
    output: Floats, *, height: int, width: int, score_threshold: float, strides: tuple[int, ...] = (8, 16, 32)
) -> Candidates:
    """YOLOX, exported without its decoding (Ge et al., "YOLOX: Exceeding YOLO Series in 2021").

    Args:
        output: float32 (A, 5 + C): dx, dy in cells, log w, log h in cells, objectness, class scores (both in 0..1), one
            row a cell, level after level.
        height, width: of the network's input, pixels.
        score_threshold: on objectness × class score.
        strides: pixels a cell, one a level.
    """
    cells, steps = _grid(height, width, strides)
    if output.ndim != 2 or output.shape[0] != len(cells) or output.shape[1] < 6:
        raise ValueError(
            f"output has shape {output.shape}; a YOLOX head at {width}×{height} gives ({len(cells)}, 5 + C)"
        )
    # objectness bounds the product, so most cells leave before their classes are looked at
    likely = np.flatnonzero(output[:, 4] > score_threshold)
    rows = output[likely]
    labels, best = _best_label(rows[:, 5:])
    scores = best * rows[:, 4]
    keep = scores > score_threshold
    rows, likely = rows[keep], likely[keep]
    centres = (rows[:, :2] + cells[likely]) * steps[likely]
    return Candidates(_corners(centres, np.exp(rows[:, 2:4]) * steps[likely]), scores[keep], labels[keep])


def decode_yolov5(output: Floats, *, score_threshold: float) -> Candidates:
    """YOLOv5, v6.0 and later, exported with its decoding (Jocher, 2020).

    Args:
        output: float32 (A, 5 + C): centre x, y, width, height in pixels, objectness, class scores.
        score_threshold: on objectness × class score.
    """
    if output.ndim != 2 or output.shape[1] < 6:
        raise ValueError(f"output has shape {output.shape}; a YOLOv5 head gives (A, 5 + C)")
    rows = output[output[:, 4] > score_threshold]
    labels, best = _best_label(rows[:, 5:])
    scores = best * rows[:, 4]
    keep = scores > score_threshold
    return Candidates(_corners(rows[keep, :2], rows[keep, 2:4]), scores[keep], labels[keep])


def decode_yolov8(output: Floats, *, score_threshold: float) -> Candidates:
    """YOLOv8, v9, v11 and others without objectness (Jocher et al., 2023).

    Args:
        output: float32 (4 + C, A): rows centre x, y, width, height in pixels, then class scores.
        score_threshold: on the best class score.
    """
    if output.ndim != 2 or output.shape[0] < 5:
        raise ValueError(f"output has shape {output.shape}; a YOLOv8 head gives (4 + C, A)")
    classes = output[4:]
    best = classes.max(axis=0)
    chosen = np.flatnonzero(best > score_threshold)
    rows = output[:4, chosen].T
    return Candidates(_corners(rows[:, :2], rows[:, 2:]), best[chosen], classes[:, chosen].argmax(axis=0))


def decode_torchvision(boxes: Floats, labels: Ints, scores: Floats, *, score_threshold: float) -> Candidates:
    """Exports of torchvision's detection models, which hold their own suppression.

    Args:
        boxes: float32 (K, 4), x1, y1, x2, y2 in pixels of the input.
        labels: int64 (K,), COCO's 1..90 with gaps (see `COCO91_TO_COCO80`) for the ready-made models.
        scores: float32 (K,).
        score_threshold: on the score.
    """
    if boxes.ndim != 2 or boxes.shape[1:] != (4,) or labels.shape != (len(boxes),) or scores.shape != (len(boxes),):
        raise ValueError(
            f"boxes, labels, scores have shapes {boxes.shape}, {labels.shape}, {scores.shape}; "
            "a torchvision export gives (K, 4), (K,), (K,)"
        )
    keep = scores > score_threshold
    return Candidates(boxes[keep], scores[keep], labels[keep])


def decode_centerface(heatmap: Floats, sizes: Floats, offsets: Floats, *, score_threshold: float) -> Candidates:
    """CenterFace (Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019).

    Args:
        heatmap: float32 (1, H/4, W/4), the face score of each cell.
        sizes: float32 (2, H/4, W/4), log of height and of width, in cells.
        offsets: float32 (2, H/4, W/4), of the centre within its cell, y and x.
        score_threshold: on the heatmap.
    """
    if heatmap.ndim != 3 or sizes.shape != (2, *heatmap.shape[1:]) or offsets.shape != sizes.shape:
        raise ValueError(
            f"heatmap, sizes, offsets have shapes {heatmap.shape}, {sizes.shape}, {offsets.shape}; "
            "CenterFace gives (1, H/4, W/4), (2, H/4, W/4), (2, H/4, W/4)"
        )
    rows, columns = np.nonzero(heatmap[0] > score_threshold)
    scores = heatmap[0, rows, columns]
    height, width = np.exp(sizes[:, rows, columns]) * np.float32(4)
    centre_y = (rows + offsets[0, rows, columns] + np.float32(0.5)) * np.float32(4)
    centre_x = (columns + offsets[1, rows, columns] + np.float32(0.5)) * np.float32(4)
    centres = np.stack([centre_x, centre_y], axis=1).astype(np.float32)
    return Candidates(_corners(centres, np.stack([width, height], axis=1)), scores, np.zeros(len(scores), np.int64))


def decode_yunet(
    classes: Sequence[Floats],
    objectness: Sequence[Floats],
    boxes: Sequence[Floats],
    *,
    height: int,
    width: int,
    score_threshold: float,
    strides: tuple[int, ...] = (8, 16, 32),
) -> Candidates:
    """YuNet (Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector", 2023).

    Args:
        classes: a level each, float32 (A, 1), the face score in 0..1.
        objectness: a level each, float32 (A, 1), in 0..1; the score is the geometric mean of both.
        boxes: a level each, float32 (A, 4): dx, dy in cells, log w, log h in cells.
        height, width: of the network's input, pixels.
        score_threshold: on the score.
        strides: pixels a cell, one a level.
    """
    cells, steps = _grid(height, width, strides)
    face = np.concatenate(classes).reshape(-1)
    objects = np.concatenate(objectness).reshape(-1)
    rows = np.concatenate(boxes)
    if not (len(face) == len(objects) == len(rows) == len(cells)):
        raise ValueError(
            f"YuNet gave {len(face)} scores, {len(objects)} objectness, {len(rows)} boxes; "
            f"{len(cells)} of each belong to {width}×{height}"
        )
    scores = np.sqrt(np.clip(face, 0, 1) * np.clip(objects, 0, 1))
    chosen = np.flatnonzero(scores > score_threshold)
    rows = rows[chosen]
    centres = (rows[:, :2] + cells[chosen]) * steps[chosen]
    return Candidates(
        _corners(centres, np.exp(rows[:, 2:4]) * steps[chosen]), scores[chosen], np.zeros(len(chosen), np.int64)
    )


def decode_ultraface(scores: Floats, boxes: Floats, *, height: int, width: int, score_threshold: float) -> Candidates:
    """UltraFace (Linzaer, "Ultra-Light-Fast-Generic-Face-Detector-1MB", 2019), exported with its decoding.

    Args:
        scores: float32 (A, 2), background and face, in 0..1.
        boxes: float32 (A, 4), x1, y1, x2, y2 as shares of the input.
        height, width: of the network's input, pixels.
        score_threshold: on the face score.
    """
    if scores.shape != (len(boxes), 2) or boxes.shape[1:] != (4,):
        raise ValueError(f"scores, boxes have shapes {scores.shape}, {boxes.shape}; UltraFace gives (A, 2), (A, 4)")
    chosen = np.flatnonzero(scores[:, 1] > score_threshold)
    scale = np.array([width, height, width, height], np.float32)
    return Candidates(boxes[chosen] * scale, scores[chosen, 1], np.zeros(len(chosen), np.int64))


_COCO91_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO91_TO_COCO80: Ints = np.full(91, -1, np.int64)
"""COCO's category ids 1..90, which have gaps, to its 80 classes 0..79; −1 where there is no such class."""
COCO91_TO_COCO80[[i for i in range(1, 91) if i not in _COCO91_GAPS]] = np.arange(80)
COCO91_TO_COCO80.flags.writeable = False
