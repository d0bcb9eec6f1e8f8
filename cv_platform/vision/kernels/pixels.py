"""Pixels: from bytes to scaled floats, without a temporary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled


@compiled
def scale_channel(
    channel: npt.NDArray[np.uint8],
    plane: npt.NDArray[np.float32],
    top: int,
    left: int,
    factor: np.float32,
    shift: np.float32,
) -> None:
    """Write `channel * factor + shift` into a part of a plane.

    The rows are contiguous on both sides, so the loop becomes wide vector instructions; taking three interleaved bytes
    apart in the same loop would not, which costs ten times as much as an extra pass of `cv2.split`.

    Args:
        channel: uint8 (h, w), C order.
        plane: float32 (H, W), C order, written at rows top..top+h and columns left..left+w.
        top: first row.
        left: first column.
        factor: multiplied first.
        shift: added after that.
    """
    width = channel.shape[1]
    for y in range(channel.shape[0]):
        source = channel[y]
        target = plane[top + y, left : left + width]
        for x in range(width):
            target[x] = np.float32(source[x]) * factor + shift
