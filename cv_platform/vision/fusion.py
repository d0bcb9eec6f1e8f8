"""Fusion: several models' boxes of one picture into one set.

Source: Solovyev, Wang, Gabruseva, "Weighted boxes fusion: Ensembling boxes from different object detection models",
Image and Vision Computing 107, 2021; the rules where the paper is silent are those of `ensemble-boxes` 1.0.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from cv_platform.vision.detections import Detections
from cv_platform.vision.kernels.clusters import cluster

ConfType = Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"]
Fused = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]


def weighted_boxes_fusion(
    boxes_list: Sequence[npt.ArrayLike],
    scores_list: Sequence[npt.ArrayLike],
    labels_list: Sequence[npt.ArrayLike],
    *,
    weights: Sequence[float] | npt.ArrayLike | None = None,
    iou_threshold: float = 0.55,
    skip_box_threshold: float = 0.0,
    conf_type: ConfType = "avg",
) -> Fused:
    """Replace each group of boxes of one label that overlap by their mean, weighted by confidence.

    Corners in the wrong order are swapped, coordinates outside 0..1 moved to the edge, boxes without an area left out.
    A group whose confidences are all 0 keeps its first box (`ensemble-boxes` divides by zero there).

    Args:
        boxes_list: one array a model, each (N_m, 4), x1, y1, x2, y2 as fractions 0..1 of width and height.
        scores_list: one array a model, each (N_m,).
        labels_list: one array a model, each N_m integers.
        weights: one a model, 0 or more, not all 0; None means 1 each.
        iou_threshold: 0..1; a box joins the group whose mean it overlaps most, if by more than this.
        skip_box_threshold: boxes of lower scores are left out first.
        conf_type: the group's confidence: "avg" is the mean, lowered where fewer boxes than models were found; "max"
            the highest; "box_and_model_avg" weighs boxes and then the models that found any;
            "absent_model_aware_avg" the mean, lowered by the weight of the models that found none.

    Returns:
        boxes float64 (K, 4) as fractions, scores float64 (K,), labels int64 (K,), the highest score first.

    Raises:
        ValueError: lengths do not fit, numbers are not finite, or an argument is outside what is allowed.
    """
    if conf_type not in get_args(ConfType):
        raise ValueError(f"conf_type is {conf_type!r}; allowed is one of {', '.join(get_args(ConfType))}")
    if not 0.0 <= iou_threshold <= 1.0:
        raise ValueError(f"iou_threshold is {iou_threshold}; allowed is 0..1")
    if not len(boxes_list) == len(scores_list) == len(labels_list):
        raise ValueError(
            f"there are {len(boxes_list)} models' boxes, {len(scores_list)} models' scores, {len(labels_list)} models'"
            " labels; allowed is one array of each a model"
        )
    model_weights = _model_weights(weights, len(boxes_list))
    boxes, confidences, labels, models = _collected(
        boxes_list, scores_list, labels_list, model_weights, skip_box_threshold
    )
    if len(boxes) == 0:
        return np.empty((0, 4)), np.empty(0), np.empty(0, np.int64)
    order, starts = _by_label(labels, confidences)
    boxes, confidences, labels, models = boxes[order], confidences[order], labels[order], models[order]
    assigned, means, total, weight, counts = cluster(
        boxes, confidences, model_weights[models], starts, float(iou_threshold)
    )
    several = counts > 1  # a mean of several boxes is held in single precision, as the reference does
    if conf_type == "max":
        scores = np.full(len(counts), -np.inf)
        np.maximum.at(scores, assigned, confidences)
    else:
        scores = total / counts
    scores[several] = scores[several].astype(np.float32)
    weight[several] = weight[several].astype(np.float32)
    scores = _rescaled(scores, conf_type, counts, weight, model_weights, assigned, models)
    cluster_labels = np.empty(len(counts), np.int64)
    cluster_labels[assigned] = labels
    best = scores.argsort()[::-1]
    return means[best], scores[best], cluster_labels[best]


def fuse_detections(
    parts: Sequence[Detections],
    *,
    height: int,
    width: int,
    weights: Sequence[float] | None = None,
    iou_threshold: float = 0.55,
    skip_box_threshold: float = 0.0,
    conf_type: ConfType = "avg",
) -> Detections:
    """`weighted_boxes_fusion` of what several detectors found in one frame, in pixels.

    Args:
        parts: one a detector; track ids and embeddings are lost, they belong to one box each.
        height: of the frame, pixels.
        width: of the frame, pixels.
        weights: as `weighted_boxes_fusion`; so are the others.
    """
    size = np.array([width, height, width, height], np.float64)
    boxes, scores, labels = weighted_boxes_fusion(
        [part.boxes / size for part in parts],
        [part.scores for part in parts],
        [part.class_ids for part in parts],
        weights=weights,
        iou_threshold=iou_threshold,
        skip_box_threshold=skip_box_threshold,
        conf_type=conf_type,
    )
    pixels = (boxes * size).astype(np.float32)
    pixels[:, 2:] = np.maximum(pixels[:, 2:], pixels[:, :2])  # means of slivers may cross by one rounding
    return Detections(pixels, np.clip(scores, 0.0, 1.0).astype(np.float32), labels.astype(np.int16))


def _model_weights(weights: Sequence[float] | npt.ArrayLike | None, models: int) -> npt.NDArray[np.float64]:
    values = np.ones(models) if weights is None else np.asarray(weights, np.float64)
    if values.shape != (models,):
        raise ValueError(f"weights have shape {values.shape}; allowed is ({models},), one a model")
    if models and not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        raise ValueError(f"weights are {values.tolist()}; allowed is 0 or more, and more than 0 for at least one model")
    return values


def _collected(
    boxes_list: Sequence[npt.ArrayLike],
    scores_list: Sequence[npt.ArrayLike],
    labels_list: Sequence[npt.ArrayLike],
    model_weights: npt.NDArray[np.float64],
    skip_box_threshold: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All models' boxes that count, put right: boxes, score × weight, labels, models."""
    columns: list[tuple[npt.NDArray[Any], ...]] = []
    for model, (b, s, c) in enumerate(zip(boxes_list, scores_list, labels_list, strict=True)):
        boxes, scores, labels = np.asarray(b), np.asarray(s), np.asarray(c)
        boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
        n = len(boxes)
        if boxes.shape != (n, 4) or scores.shape != (n,) or labels.shape != (n,):
            raise ValueError(
                f"model {model} has boxes {boxes.shape}, scores {scores.shape}, labels {labels.shape};"
                " allowed is (N, 4), (N,), (N,)"
            )
        kept = ~(scores < skip_box_threshold)
        columns.append((boxes[kept], scores[kept] * model_weights[model], labels[kept], np.full(kept.sum(), model)))
    if not columns:
        return np.empty((0, 4)), np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
    boxes, confidences, labels, models = (np.concatenate(column) for column in zip(*columns, strict=True))
    boxes, confidences = boxes.astype(np.float64), confidences.astype(np.float64)
    if not (np.isfinite(boxes).all() and np.isfinite(confidences).all()):
        raise ValueError("boxes or scores hold NaN or infinity; allowed are finite numbers: drop such rows first")
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    boxes = np.clip(np.concatenate([low, high], axis=1), 0.0, 1.0)
    solid = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) != 0.0
    return boxes[solid], confidences[solid], labels[solid].astype(np.int64), models[solid].astype(np.int64)


def _by_label(
    labels: npt.NDArray[np.int64], confidences: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Label after label as they first appear, each by confidence; equal ones in NumPy's order reversed, as upstream."""
    _, first, which, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    appearance = np.argsort(first)
    rank = np.empty_like(appearance)
    rank[appearance] = np.arange(len(appearance))
    starts = np.concatenate([[0], np.cumsum(counts[appearance])]).astype(np.int64)
    ranks = rank[which]
    order = np.lexsort((-confidences, ranks)).astype(np.int64)
    equal = (np.diff(confidences[order]) == 0) & (np.diff(ranks[order]) == 0)
    for group in np.unique(ranks[order[1:][equal]]):  # only here does it matter which sort it is
        rows = np.flatnonzero(ranks == group)
        order[starts[group] : starts[group + 1]] = rows[confidences[rows].argsort()[::-1]]
    return order, starts


def _rescaled(
    scores: npt.NDArray[np.float64],
    conf_type: ConfType,
    counts: npt.NDArray[np.int64],
    weight: npt.NDArray[np.float64],
    model_weights: npt.NDArray[np.float64],
    assigned: npt.NDArray[np.int64],
    models: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """The clusters' scores, corrected by which models took part."""
    everyone = model_weights.sum()
    if conf_type == "max":
        return np.asarray(scores / model_weights.max())
    if conf_type == "avg":
        return np.asarray(scores * np.minimum(len(model_weights), counts) / everyone)
    pairs = np.unique(assigned * len(model_weights) + models)
    present = np.bincount(pairs // len(model_weights), model_weights[pairs % len(model_weights)], len(counts))
    if conf_type == "box_and_model_avg":
        # a cluster of models without a weight has no confidence either
        share = np.divide(scores * counts, weight, out=np.zeros(len(counts)), where=weight > 0)
        return np.asarray(share * present / everyone)
    return np.asarray(scores * counts / (weight + (everyone - present)))
