"""A picture on which every detector must find something before it is trusted with footage.

A model file can be whole and yet useless: a broken export, weights gone to NaN, the wrong head for its outputs. So each
is shown a person and a face at its start. The picture is drawn by this code: nobody's likeness is in the repository.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from cv_platform.vision.classes import FACE, PERSON
from cv_platform.vision.detections import Detections

_SKIN = (140, 175, 225)
_HAIR = (35, 45, 60)
_COAT = (60, 40, 150)

EXPECTED: Final[dict[int, tuple[float, float, float, float]]] = {
    FACE: (138.0, 185.0, 202.0, 264.0),
    PERSON: (392.0, 66.0, 532.0, 440.0),
}
"""Where each class is in the picture: x1, y1, x2, y2 in pixels."""

_LEAST_IOU = 0.4


def found_in_canary(detections: Detections, classes: tuple[int, ...]) -> bool:
    """Whether what a detector of these classes found in `canary_picture()` is what is there."""
    for class_id in EXPECTED.keys() & set(classes):
        x1, y1, x2, y2 = EXPECTED[class_id]
        boxes = detections.boxes[detections.class_ids == class_id]
        width = np.minimum(boxes[:, 2], x2) - np.maximum(boxes[:, 0], x1)
        height = np.minimum(boxes[:, 3], y2) - np.maximum(boxes[:, 1], y1)
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        iou = shared / (areas + (x2 - x1) * (y2 - y1) - shared)
        if not (iou >= _LEAST_IOU).any():
            return False
    return True


@lru_cache(maxsize=1)
def canary_picture() -> npt.NDArray[np.uint8]:
    """A drawn person, standing, and a drawn face: BGR, uint8 (480, 640, 3), read-only."""
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[:] = np.linspace(200, 150, 480)[:, None, None]
    cv2.rectangle(picture, (0, 400), (640, 480), (110, 120, 120), cv2.FILLED)
    _ellipse(picture, (170, 330), (75, 75), (120, 60, 40), start=180)
    cv2.rectangle(picture, (95, 330), (245, 480), (120, 60, 40), cv2.FILLED)
    _head(picture, 170, 220, 45)
    _person(picture, 460, 70)
    blurred = np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.6), dtype=np.uint8)
    blurred.flags.writeable = False
    return blurred


def _ellipse(
    picture: npt.NDArray[np.uint8],
    centre: tuple[float, float],
    radii: tuple[float, float],
    colour: tuple[int, int, int],
    *,
    start: int = 0,
    end: int = 360,
    thickness: int = cv2.FILLED,
) -> None:
    middle = (int(centre[0]), int(centre[1]))
    axes = (max(1, int(radii[0])), max(1, int(radii[1])))
    cv2.ellipse(picture, middle, axes, 0, start, end, colour, thickness, cv2.LINE_AA)


def _darker(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    blue, green, red = colour
    return int(blue * share), int(green * share), int(red * share)


def _head(picture: npt.NDArray[np.uint8], x: float, y: float, size: float) -> None:
    """A face from the front, `size` pixels from its middle to chin or crown."""
    width = int(size * 0.74)
    fine = max(1, int(0.03 * size))
    _ellipse(picture, (x, y - 0.12 * size), (width * 1.14, size * 1.08), _HAIR)
    throat = (int(x - 0.35 * size), int(y + 0.6 * size)), (int(x + 0.35 * size), int(y + 1.4 * size))
    cv2.rectangle(picture, *throat, _darker(_SKIN, 0.8), cv2.FILLED)
    _ellipse(picture, (x, y), (width, size), _SKIN)
    _ellipse(picture, (x, y - 0.72 * size), (width * 0.86, 0.36 * size), _HAIR)
    for side in (-1, 1):
        _ellipse(picture, (x + side * width * 0.98, y + 0.02 * size), (0.1 * size, 0.2 * size), _darker(_SKIN, 0.9))
        eye = (x + side * 0.33 * size, y - 0.08 * size)
        _ellipse(picture, eye, (0.2 * size, 0.13 * size), _darker(_SKIN, 0.85))
        _ellipse(picture, eye, (0.15 * size, 0.075 * size), (235, 238, 240))
        _ellipse(picture, eye, (0.075 * size, 0.075 * size), (50, 60, 70))
        _ellipse(picture, eye, (0.035 * size, 0.035 * size), (10, 10, 10))
        lid = (eye[0], eye[1] - 0.02 * size)
        _ellipse(picture, lid, (0.17 * size, 0.09 * size), (40, 45, 60), start=190, end=350, thickness=fine)
        brow = (eye[0], eye[1] - 0.16 * size)
        _ellipse(picture, brow, (0.21 * size, 0.1 * size), _HAIR, start=200, end=340, thickness=2 * fine)
        _ellipse(picture, (x + side * 0.07 * size, y + 0.31 * size), (0.03 * size, 0.02 * size), (60, 70, 100))
    _ellipse(picture, (x, y + 0.3 * size), (0.14 * size, 0.06 * size), _darker(_SKIN, 0.72), end=180, thickness=fine)
    _ellipse(picture, (x, y + 0.56 * size), (0.25 * size, 0.09 * size), (95, 95, 190))
    lips = (int(x - 0.25 * size), int(y + 0.55 * size)), (int(x + 0.25 * size), int(y + 0.55 * size))
    cv2.line(picture, *lips, (50, 50, 110), fine, cv2.LINE_AA)


def _person(picture: npt.NDArray[np.uint8], x: int, y: int) -> None:
    """Somebody standing, from the crown at `y` downwards."""
    _head(picture, x, y + 28, 26)
    _ellipse(picture, (x, y + 110), (42, 58), _COAT)
    cv2.rectangle(picture, (x - 40, y + 65), (x + 40, y + 180), _COAT, cv2.FILLED)
    for side in (-1, 1):
        cv2.line(picture, (x + side * 38, y + 75), (x + side * 58, y + 175), _COAT, 20, cv2.LINE_AA)
        cv2.circle(picture, (x + side * 59, y + 185), 10, _SKIN, cv2.FILLED, cv2.LINE_AA)
        cv2.line(picture, (x + side * 20, y + 175), (x + side * 24, y + 335), (90, 60, 40), 32, cv2.LINE_AA)
        _ellipse(picture, (x + side * 28, y + 348), (20, 9), (30, 30, 30))
