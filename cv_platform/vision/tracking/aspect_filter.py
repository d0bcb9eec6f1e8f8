"""The box filter of DeepSORT (Wojke 2017) and ByteTrack (Zhang 2022): centre, width/height, height; noise grows with
the height of the box. Compiled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled
from cv_platform.vision.tracking import kalman
from cv_platform.vision.tracking.rows import MISSES, corners_of_aspect

Rows = npt.NDArray[np.float64]

POSITION_WEIGHT = 1.0 / 20.0
VELOCITY_WEIGHT = 1.0 / 160.0


@compiled
def _variances(position: float, aspect: float) -> Rows:
    """Variances (4,) of the axes from the standard deviations of a position and of the aspect ratio."""
    variances = np.full(4, position * position)
    variances[2] = aspect * aspect
    return variances


@compiled
def start(row: Rows, measured: Rows) -> None:
    """Begin a filter in `row` (20,) at `measured` (4,)."""
    height = measured[3]
    kalman.start(
        row,
        measured,
        _variances(2.0 * POSITION_WEIGHT * height, 1e-2),
        _variances(10.0 * VELOCITY_WEIGHT * height, 1e-5),
    )


@compiled
def predict(row: Rows) -> None:
    """Advance the filter in `row` (20,) by one frame."""
    height = row[3]
    kalman.predict(row, _variances(POSITION_WEIGHT * height, 1e-2), _variances(VELOCITY_WEIGHT * height, 1e-5))


@compiled
def predict_tracks(filters: Rows, marks: npt.NDArray[np.int64], live: int) -> Rows:
    """Advance all tracks by one frame, which counts as missed until a match; their boxes (live, 4), x1, y1, x2, y2."""
    predicted = np.zeros((live, 4))
    for t in range(live):
        predict(filters[t])
        corners_of_aspect(filters[t], predicted[t])
        marks[t, MISSES] += 1
    return predicted


@compiled
def measurement_noise(row: Rows) -> Rows:
    """Variances (4,) of a measurement of the track in `row` (20,)."""
    return _variances(POSITION_WEIGHT * row[3], 1e-1)


@compiled
def correct(row: Rows, measured: Rows) -> None:
    """Correct the filter in `row` (20,) by a measurement (4,)."""
    kalman.correct(row, measured, measurement_noise(row))
