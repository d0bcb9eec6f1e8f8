"""The constant-velocity Kalman filter that every tracker here shares, in closed form, compiled.

The box filters of SORT (Bewley 2016), DeepSORT (Wojke 2017), ByteTrack (Zhang 2022) and OC-SORT (Cao 2023) start from a
diagonal covariance, and their motion, measurement and noise never mix two axes. Each is therefore exactly four
independent filters of (position, velocity), whose 2×2 algebra is written out below: no matrix is built or inverted. An
axis without velocity (SORT's aspect ratio) is one whose velocity is 0 with variance and noise 0.

A track is a row of 20 float64: for the four measured axes position, velocity, variance of position, covariance,
variance of velocity. All tracks are rows of one array.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled

Rows = npt.NDArray[np.float64]

AXES = 4
POSITION, VELOCITY, POSITION_VARIANCE, COVARIANCE, VELOCITY_VARIANCE = 0, 4, 8, 12, 16
WIDTH = 20


@compiled
def start(row: Rows, measured: Rows, position_variance: Rows, velocity_variance: Rows) -> None:
    """Begin a filter in `row` (20,) at rest at `measured` (4,), with these variances (4,) of position and velocity."""
    for axis in range(4):
        row[axis] = measured[axis]
        row[4 + axis] = 0.0
        row[8 + axis] = position_variance[axis]
        row[12 + axis] = 0.0
        row[16 + axis] = velocity_variance[axis]


@compiled
def predict(row: Rows, position_noise: Rows, velocity_noise: Rows) -> None:
    """Advance the filter in `row` (20,) by one frame; the noises are variances (4,) added a frame."""
    for axis in range(4):
        row[axis] += row[4 + axis]
        row[8 + axis] += 2.0 * row[12 + axis] + row[16 + axis] + position_noise[axis]
        row[12 + axis] += row[16 + axis]
        row[16 + axis] += velocity_noise[axis]


@compiled
def correct(row: Rows, measured: Rows, measurement_noise: Rows) -> None:
    """Correct the filter in `row` (20,) by a measurement (4,) whose variance is `measurement_noise` (4,)."""
    for axis in range(4):
        spread = row[8 + axis] + measurement_noise[axis]
        gain = row[8 + axis] / spread
        velocity_gain = row[12 + axis] / spread
        surprise = measured[axis] - row[axis]
        row[axis] += gain * surprise
        row[4 + axis] += velocity_gain * surprise
        row[16 + axis] -= velocity_gain * row[12 + axis]
        row[12 + axis] -= gain * row[12 + axis]
        row[8 + axis] -= gain * row[8 + axis]
