"""Filters: from detections to the fewer that matter, by class, confidence, size or region of interest.

Each keeps the order of its input and returns a new `Detections`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from cv_platform.vision.detections import Detections
from cv_platform.vision.geometry import as_polygon, box_areas, points_in_polygon

Anchor = Literal["centre", "bottom_centre", "top_left", "top_right", "bottom_left", "bottom_right"]

_ANCHORS: Final[dict[str, tuple[float, float]]] = {
    "centre": (0.5, 0.5),
    "bottom_centre": (0.5, 1.0),
    "top_left": (0.0, 0.0),
    "top_right": (1.0, 0.0),
    "bottom_left": (0.0, 1.0),
    "bottom_right": (1.0, 1.0),
}


def by_class(detections: Detections, class_ids: Collection[int]) -> Detections:
    """Those of the given classes (see `cv_platform.vision.classes`)."""
    return detections[np.isin(detections.class_ids, np.asarray(sorted(class_ids), np.int64))]


def by_confidence(detections: Detections, least: float, *, per_class: dict[int, float] | None = None) -> Detections:
    """Those whose score is at least `least`.

    Args:
        detections: what was found.
        least: 0..1.
        per_class: other limits for some classes, by class id, each 0..1.

    Raises:
        ValueError: a limit is outside 0..1.
    """
    for value in (least, *(per_class or {}).values()):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"a least confidence is {value}; allowed is 0..1")
    needed = np.full(len(detections), least, np.float32)
    for class_id, value in (per_class or {}).items():
        needed[detections.class_ids == class_id] = value
    return detections[detections.scores >= needed]


def by_size(
    detections: Detections, *, least_width: float = 0.0, least_height: float = 0.0, least_area: float = 0.0
) -> Detections:
    """Those at least so wide and so high (pixels) and of at least so large an area (square pixels)."""
    boxes = detections.boxes
    large = (boxes[:, 2] - boxes[:, 0] >= least_width) & (boxes[:, 3] - boxes[:, 1] >= least_height)
    return detections[large & (box_areas(boxes) >= least_area)]


def by_region(
    detections: Detections, polygon: npt.ArrayLike, *, anchor: Anchor = "bottom_centre", inside: bool = True
) -> Detections:
    """Those in a region of interest (or, with inside=False, those out of it).

    Args:
        detections: what was found.
        polygon: (K, 2), at least 3 corners, x, y in pixels; it may be concave.
        anchor: the point of a box that counts; people and vehicles stand where their box ends, so "bottom_centre".
        inside: whether to keep what lies inside; the edge belongs to the region.

    Raises:
        ValueError: not a polygon, or an unknown anchor.
    """
    if anchor not in _ANCHORS:
        raise ValueError(f"anchor is {anchor!r}; allowed is one of {', '.join(get_args(Anchor))}")
    corners = as_polygon(polygon)
    return detections[points_in_polygon(anchor_points(detections.boxes, anchor), corners) == inside]


def anchor_points(boxes: npt.NDArray[np.float32], anchor: Anchor) -> npt.NDArray[np.float32]:
    """One point a box, float32 (N, 2), x, y in pixels."""
    share = np.array(_ANCHORS[anchor], np.float32)
    return np.asarray(boxes[:, :2] + (boxes[:, 2:] - boxes[:, :2]) * share, np.float32)
