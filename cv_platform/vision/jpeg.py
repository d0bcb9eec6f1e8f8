"""JPEG files into pictures, their declared size checked before anything is decoded."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

_START_OF_FRAME: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD8)})


def jpeg_size(file: bytes | memoryview) -> tuple[int, int]:
    """Height and width that a JPEG file declares, in pixels; reads headers only (ITU-T T.81, 1992, annex B).

    Raises:
        ValueError: not a JPEG file, or it ends before it says its size.
    """
    if file[:2] != b"\xff\xd8":
        raise ValueError(
            f"the file begins with {file[:2].hex() or 'nothing'}; allowed is a JPEG file, which begins with ffd8"
        )
    at = 2
    while at + 4 <= len(file):
        if file[at] != 0xFF:
            raise ValueError(f"the JPEG file holds no marker at byte {at}: it is damaged; upload it again")
        marker = file[at + 1]
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        if marker in _WITHOUT_LENGTH:
            at += 2
            continue
        if marker in _START_OF_FRAME:
            if at + 9 > len(file):
                break
            return int.from_bytes(file[at + 5 : at + 7], "big"), int.from_bytes(file[at + 7 : at + 9], "big")
        if marker in (0xD9, 0xDA):  # end, or pixels before any size
            break
        at += 2 + max(2, int.from_bytes(file[at + 2 : at + 4], "big"))
    raise ValueError("the JPEG file ends before it says its size: it is damaged; upload it again")


def decode_jpeg(file: bytes, *, max_pixels: int = 4096 * 4096) -> npt.NDArray[np.uint8]:
    """Decode one JPEG file, upright as its EXIF orientation says.

    Args:
        file: the whole file.
        max_pixels: width × height that it may declare at most.

    Returns:
        BGR, uint8 (H, W, 3).

    Raises:
        ValueError: not a JPEG file, damaged, or too many pixels.
    """
    height, width = jpeg_size(file)
    if height * width == 0 or height * width > max_pixels:
        raise ValueError(
            f"the JPEG file declares {width}×{height}, {width * height:,} pixels; allowed is 1 to {max_pixels:,}"
        )
    picture = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"the JPEG file of {width}×{height} cannot be decoded: it is damaged; upload it again")
    return np.asarray(picture, np.uint8)
