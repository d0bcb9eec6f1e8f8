"""What each architecture is fed, against the code that its authors published."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cv_platform.vision.detectors.architectures import ARCHITECTURES


def published_yolox(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """`preproc` of YOLOX's data_augment.py: BGR, 0..255, into the upper left corner, 114 around it."""
    canvas = np.full((height, width, 3), 114, np.uint8)
    ratio = min(height / frame.shape[0], width / frame.shape[1])
    resized = cv2.resize(
        frame, (int(frame.shape[1] * ratio), int(frame.shape[0] * ratio)), interpolation=cv2.INTER_LINEAR
    )
    canvas[: resized.shape[0], : resized.shape[1]] = resized
    return np.ascontiguousarray(canvas.transpose(2, 0, 1), np.float32)


@pytest.mark.parametrize("size", [(360, 480), (540, 960), (720, 1280), (300, 200)])
def test_yolox_is_fed_as_published(size: tuple[int, int]) -> None:
    small = np.random.default_rng(0).integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8)
    frame = cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)
    (tensor,) = ARCHITECTURES["yolox"].preprocessor((416, 416))([frame]).tensor
    expected = published_yolox(frame, 416, 416)
    # a side that is no whole number of pixels is cut there and rounded here: leave its last row and column out
    picture = (expected != 114).any(axis=0)
    rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
    inner = np.s_[:, : rows[-1], : columns[-1]]
    assert np.abs(tensor[inner] - expected[inner]).max() <= 1.0
    assert (tensor[:, rows[-1] + 2 :] == 114).all()
    assert (tensor[:, :, columns[-1] + 2 :] == 114).all()
