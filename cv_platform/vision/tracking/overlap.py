"""How alike two boxes are: overlap measures between predicted tracks and detections, compiled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled
from cv_platform.vision.tracking.rows import CLASS

Boxes = npt.NDArray[np.float64] | npt.NDArray[np.float32]


@compiled
def iou_matrix(
    tracks: npt.NDArray[np.float64],
    marks: npt.NDArray[np.int64],
    boxes: Boxes,
    class_ids: npt.NDArray[np.int16],
) -> npt.NDArray[np.float64]:
    """Intersection over union of every predicted track with every detection; 0 across classes.

    Args:
        tracks: float64 (T, 4), x1, y1, x2, y2 in pixels.
        marks: int64 (T or more, M), the tracks' marks, see `rows.py`.
        boxes: float32 (D, 4), x1, y1, x2, y2 in pixels.
        class_ids: int16 (D,).

    Returns:
        float64 (T, D) in 0..1; 0 where a box has no area.
    """
    n, m = len(tracks), len(boxes)
    overlaps = np.zeros((n, m))
    areas = np.empty(m)
    for d in range(m):
        areas[d] = (np.float64(boxes[d, 2]) - boxes[d, 0]) * (np.float64(boxes[d, 3]) - boxes[d, 1])
    for t in range(n):
        x1, y1, x2, y2 = tracks[t, 0], tracks[t, 1], tracks[t, 2], tracks[t, 3]
        area = (x2 - x1) * (y2 - y1)
        for d in range(m):
            width = min(x2, np.float64(boxes[d, 2])) - max(x1, np.float64(boxes[d, 0]))
            if width <= 0.0:
                continue
            height = min(y2, np.float64(boxes[d, 3])) - max(y1, np.float64(boxes[d, 1]))
            if height <= 0.0 or marks[t, CLASS] != class_ids[d]:
                continue
            shared = width * height
            overlaps[t, d] = shared / (area + areas[d] - shared)
    return overlaps
