"""Clips made for tests: every frame carries its number as brightness, so that decoding can be checked exactly."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

LEVEL_STEP = 8


def write_clip(
    path: Path,
    pts: Sequence[int],
    *,
    time_base: Fraction = Fraction(1, 1000),
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    container: str | None = None,
    options: dict[str, str] | None = None,
    first_level: int = 0,
) -> Path:
    """Write a clip whose i-th frame has grey level `level_of(first_level + i)` and the time `pts[i]` × `time_base`.

    Returns:
        `path`.
    """
    width, height = size
    with av.open(str(path), "w", format=container, options=options or {}) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = time_base
        stream.codec_context.time_base = time_base
        stream.options = {"preset": "ultrafast", "crf": "4", "bf": "0"} if codec == "libx264" else {}
        for i, ticks in enumerate(pts):
            image = np.full((height, width, 3), level_of(first_level + i), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = ticks, time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def level_of(i: int) -> int:
    """The grey level of frame i."""
    return 16 + LEVEL_STEP * (i % 28)


def number_of(image: np.ndarray) -> int:
    """Which frame (mod 28) an image shows."""
    return round((float(image.mean()) - 16) / LEVEL_STEP)


def rotate_by_header(path: Path, degrees: int) -> Path:
    """Write a rotation, clockwise on display, into the track header of an MP4; returns `path`."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16

    def matrix(a: int, b: int, c: int, d: int) -> bytes:
        cells = (a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
        return b"".join((cell & 0xFFFFFFFF).to_bytes(4, "big") for cell in cells)

    content = path.read_bytes()
    start = content.index(b"tkhd")
    identity = content.index(matrix(1, 0, 0, 1), start)
    turned = matrix(cosine, sine, -sine, cosine)
    path.write_bytes(content[:identity] + turned + content[identity + len(turned) :])
    return path
