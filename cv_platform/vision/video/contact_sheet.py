"""A few frames of a clip side by side, as one JPEG."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from cv_platform.vision.video.decode import decode_sampled


def contact_sheet(source: Path, *, frames: int = 4, width: int = 480, within_s: float = 60.0) -> bytes:
    """Show what a clip holds.

    Args:
        source: the clip; its first `within_s` seconds are looked at.
        frames: at most so many pictures, evenly spread.
        width: of each picture, pixels.

    Returns:
        JPEG bytes.

    Raises:
        ClipRejected: the clip cannot be decoded.
        ValueError: it holds no frame.
    """
    sampled = [frame.image for frame in islice(decode_sampled(source, fps=1.0, long_side=width), int(within_s))]
    if not sampled:
        raise ValueError("the clip holds no frame to show")
    chosen = [sampled[n] for n in np.unique(np.linspace(0, len(sampled) - 1, frames).round().astype(int))]
    height = min(picture.shape[0] for picture in chosen)
    row = np.hstack([cv2.resize(p, (round(p.shape[1] * height / p.shape[0]), height)) for p in chosen])
    done, jpeg = cv2.imencode(".jpg", row, [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not done:
        raise ValueError("the frames cannot be written as JPEG")
    return jpeg.tobytes()
