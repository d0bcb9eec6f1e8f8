"""Geometry of boxes and polygons: areas, overlaps, forms, points inside.

Boxes are (N, 4), x1, y1, x2, y2 in pixels. A box whose x2 <= x1 or y2 <= y1 overlaps nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def as_boxes(boxes: npt.ArrayLike) -> Floats:
    """Boxes as float32 (N, 4); ValueError where they are not (N, 4)."""
    array = np.asarray(boxes, np.float32)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes have shape {array.shape}; allowed is (N, 4): x1, y1, x2, y2")
    return array


def box_areas(boxes: npt.ArrayLike) -> Floats:
    """Areas in square pixels, float32 (N,); 0 for boxes whose corners are in the wrong order."""
    b = as_boxes(boxes)
    size = np.maximum(b[:, 2:] - b[:, :2], np.float32(0))
    return np.asarray(size[:, 0] * size[:, 1], np.float32)


def intersection_matrix(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Areas that each of `a` (N, 4) shares with each of `b` (M, 4), float32 (N, M)."""
    first, second = as_boxes(a)[:, None], as_boxes(b)[None]
    size = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    np.maximum(size, np.float32(0), out=size)
    return np.asarray(size[..., 0] * size[..., 1], np.float32)


def iou_matrix(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Intersection over union of each of `a` (N, 4) with each of `b` (M, 4), float32 (N, M); 0 where neither has area.

    For sets of boxes to compare; suppression, fusion and tracking have kernels that never build the matrix.
    """
    shared = intersection_matrix(a, b)
    union = box_areas(a)[:, None] + box_areas(b)[None] - shared
    iou = np.zeros_like(shared)
    np.divide(shared, union, out=iou, where=union > 0)
    return iou


def covered_share(boxes: npt.ArrayLike, by: npt.ArrayLike) -> Floats:
    """How much of each of `boxes` (N, 4) each of `by` (M, 4) covers: intersection over the first one's area, (N, M)."""
    shared = intersection_matrix(boxes, by)
    areas = np.broadcast_to(box_areas(boxes)[:, None], shared.shape)
    share = np.zeros_like(shared)
    np.divide(shared, areas, out=share, where=areas > 0)
    return share


def xyxy_to_xywh(boxes: npt.ArrayLike) -> Floats:
    """Corners → upper left corner, width, height (as COCO and MOT files have it)."""
    b = as_boxes(boxes)
    return np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1)


def xywh_to_xyxy(boxes: npt.ArrayLike) -> Floats:
    """Upper left corner, width, height → corners."""
    b = as_boxes(boxes)
    return np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1)


def xyxy_to_cxcywh(boxes: npt.ArrayLike) -> Floats:
    """Corners → centre, width, height (as networks give it)."""
    b = as_boxes(boxes)
    return np.concatenate([(b[:, :2] + b[:, 2:]) / np.float32(2), b[:, 2:] - b[:, :2]], axis=1)


def cxcywh_to_xyxy(boxes: npt.ArrayLike) -> Floats:
    """Centre, width, height → corners."""
    b = as_boxes(boxes)
    half = b[:, 2:] / np.float32(2)
    return np.concatenate([b[:, :2] - half, b[:, :2] + half], axis=1)


def clip_boxes(boxes: npt.ArrayLike, *, height: int, width: int) -> Floats:
    """Boxes cut at the edges of a picture of height × width pixels."""
    b = as_boxes(boxes)
    return np.clip(b, np.float32(0), np.array([width, height, width, height], np.float32))


def normalise_boxes(boxes: npt.ArrayLike, *, height: int, width: int) -> Floats:
    """Pixels → fractions 0..1 of width and height."""
    return np.asarray(as_boxes(boxes) / np.array([width, height, width, height], np.float32), np.float32)


def denormalise_boxes(boxes: npt.ArrayLike, *, height: int, width: int) -> Floats:
    """Fractions 0..1 of width and height → pixels."""
    return as_boxes(boxes) * np.array([width, height, width, height], np.float32)


def as_polygon(polygon: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """A polygon's corners as float64 (K, 2), K >= 3; ValueError where they are not."""
    corners = np.asarray(polygon, np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(f"the polygon has shape {corners.shape}; allowed is (K, 2), at least 3 corners of x, y")
    if not np.isfinite(corners).all():
        raise ValueError("the polygon holds NaN or infinity; allowed are finite pixel coordinates")
    return corners


def points_in_polygon(points: npt.ArrayLike, polygon: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which points lie inside a polygon, or on its edge.

    A ray to the right crosses the edge an odd number of times from inside (Shimrat 1962, "Algorithm 112"), so a
    polygon may be concave and may run either way round; where it crosses itself, even counts are outside.

    Args:
        points: (N, 2), x, y.
        polygon: (K, 2), the corners in order; the last one joins the first.

    Returns:
        bool (N,).
    """
    corners = as_polygon(polygon)
    p: npt.NDArray[Any] = np.asarray(points, np.float64).reshape(-1, 2)
    x, y = p[:, :1], p[:, 1:]
    (ax, ay), (bx, by) = corners.T, np.roll(corners, -1, axis=0).T
    cross = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
    spans = (ay > y) != (by > y)
    crossings = spans & np.where(by > ay, cross > 0, cross < 0)
    on_edge = (
        (cross == 0)
        & (x >= np.minimum(ax, bx))
        & (x <= np.maximum(ax, bx))
        & (y >= np.minimum(ay, by))
        & (y <= np.maximum(ay, by))
    )
    return np.asarray((crossings.sum(axis=1) % 2 == 1) | on_edge.any(axis=1), np.bool_)
