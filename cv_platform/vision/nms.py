"""Non-maximum suppression: hard, hard per class, and soft.

Sources: greedy NMS as torchvision implements it (`torchvision.ops.nms`, `batched_nms` in its per-class form);
Bodla et al., "Soft-NMS", ICCV 2017.
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from cv_platform.vision.kernels.order import descending_order, group_by_class
from cv_platform.vision.kernels.soft import soft_suppress
from cv_platform.vision.kernels.suppression import all_finite, keep_best, kept_in_order, suppress

_Method = Literal["gaussian", "linear"]
_WIDEST_SPAN: Final = 1 << 16
_NOT_FINITE: Final = "boxes or scores hold NaN or infinity; allowed are finite numbers: drop such rows first"


def nms(boxes: npt.ArrayLike, scores: npt.ArrayLike, iou_threshold: float = 0.45) -> npt.NDArray[np.int64]:
    """Keep the best of each group of boxes that overlap, whatever their class.

    A box goes if its IoU with a kept box of a higher score is greater than the threshold (equal stays). Boxes without
    an area overlap nothing, so they stay. On equal scores the lower index wins.

    Args:
        boxes: float32 or float64 (N, 4), x1, y1, x2, y2 in pixels, finite. IoU is computed in their precision.
        scores: float32 or float64 (N,), finite.
        iou_threshold: 0..1.

    Returns:
        The kept indices, int64 (K,), the highest score first.

    Raises:
        ValueError: shapes do not fit, values are not finite, or the threshold is outside 0..1.
    """
    boxes, scores = _checked(boxes, scores, iou_threshold)
    if scores.dtype.char == "f":
        finite: bool
        kept: npt.NDArray[np.int64]
        finite, kept = keep_best(boxes, scores, float(iou_threshold))
        if not finite:
            raise ValueError(_NOT_FINITE)
        return kept
    _check_finite(boxes, scores)
    order = _order(scores)
    stays = suppress(boxes, order, np.array([0, len(order)], np.int32), float(iou_threshold))
    return kept_in_order(order, stays)


def batched_nms(
    boxes: npt.ArrayLike, scores: npt.ArrayLike, class_ids: npt.ArrayLike, iou_threshold: float = 0.45
) -> npt.NDArray[np.int64]:
    """`nms` within each class: boxes of different classes never suppress each other.

    Each class is really handled apart. (Moving classes away from each other by an offset, as is often done, loses
    precision in large pictures with many classes.)

    Args:
        boxes: float32 or float64 (N, 4), x1, y1, x2, y2 in pixels, finite.
        scores: float32 or float64 (N,), finite.
        class_ids: integers (N,).
        iou_threshold: 0..1.

    Returns:
        The kept indices of all classes, int64 (K,), the highest score first.

    Raises:
        ValueError: as `nms`, or class ids are not N integers.
    """
    boxes, scores = _checked(boxes, scores, iou_threshold)
    _check_finite(boxes, scores)
    classes = np.asarray(class_ids)
    if classes.size == 0:
        classes = classes.reshape(-1).astype(np.int16)
    if classes.shape != scores.shape or classes.dtype.kind not in "iu":
        raise ValueError(
            f"class_ids are {classes.dtype} {classes.shape}; allowed are integers ({len(scores)},), one a box"
        )
    order = _order(scores)
    if len(order) == 0:
        return order.astype(np.int64)
    lowest, highest = int(classes.min()), int(classes.max())
    if highest - lowest >= _WIDEST_SPAN:
        _, classes = np.unique(classes, return_inverse=True)
        lowest, highest = 0, int(classes.max())
    grouped, starts = group_by_class(order, classes, lowest, highest - lowest + 1)
    stays = suppress(boxes, grouped, starts, float(iou_threshold))
    return kept_in_order(order, stays)


def soft_nms(
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    method: _Method = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.45,
    score_threshold: float = 0.001,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Lower the scores of boxes that overlap a better one, instead of dropping them (Bodla et al. 2017).

    The best box is taken, the others' scores are lowered by their overlap with it, and so on with what is left. On
    equal scores the lower index is taken first.

    Args:
        boxes: (N, 4), x1, y1, x2, y2 in pixels, finite.
        scores: (N,), finite.
        method: "gaussian" multiplies with exp(-IoU² / sigma); "linear" with 1 - IoU where IoU > iou_threshold.
        sigma: width of the Gaussian, more than 0; only for "gaussian".
        iou_threshold: 0..1; only for "linear".
        score_threshold: 0..1; a box whose score is or falls to this or lower is dropped.

    Returns:
        The kept indices, int64 (K,), and their new scores, float32 (K,), the highest new score first.

    Raises:
        ValueError: as `nms`, or an argument is outside what is allowed.
    """
    if method not in get_args(_Method):
        raise ValueError(f"method is {method!r}; allowed is one of {', '.join(get_args(_Method))}")
    if not sigma > 0.0:
        raise ValueError(f"sigma is {sigma}; allowed is more than 0")
    if not 0.0 <= score_threshold <= 1.0:
        raise ValueError(f"score_threshold is {score_threshold}; allowed is 0..1")
    boxes, scores = _checked(boxes, scores, iou_threshold)
    _check_finite(boxes, scores)
    kept, lowered = soft_suppress(
        boxes.astype(np.float64),
        scores.astype(np.float64),
        method == "gaussian",
        float(sigma),
        float(iou_threshold),
        float(score_threshold),
    )
    return kept, lowered.astype(np.float32)


def _checked(
    boxes: npt.ArrayLike, scores: npt.ArrayLike, iou_threshold: float
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The arrays as the kernels want them: float32 or float64, C order, of fitting shapes."""
    b, s = _floats(boxes), _floats(scores)
    if b.size == 0:
        b = b.reshape(0, 4)
    if b.ndim != 2 or b.shape[1] != 4:
        raise ValueError(f"boxes have shape {b.shape}; allowed is (N, 4): x1, y1, x2, y2 in pixels")
    if s.size == 0:
        s = s.reshape(-1)
    if s.shape != (len(b),):
        raise ValueError(f"scores have shape {s.shape}; allowed is ({len(b)},), one a box")
    if not 0.0 <= iou_threshold <= 1.0:
        raise ValueError(f"iou_threshold is {iou_threshold}; allowed is 0..1")
    return b, s


def _check_finite(boxes: npt.NDArray[Any], scores: npt.NDArray[Any]) -> None:
    if not all_finite(boxes, scores):
        raise ValueError(_NOT_FINITE)


def _floats(values: npt.ArrayLike) -> npt.NDArray[Any]:
    array = np.asarray(values, order="C")
    if array.dtype.char not in "fd":
        array = array.astype(np.float32 if array.dtype.char == "e" else np.float64)
    return array


def _order(scores: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Indices from the highest score down, among equals the lower index first."""
    if scores.dtype.char == "f":
        return descending_order(scores)
    return np.argsort(-scores, kind="stable").astype(np.int32)
