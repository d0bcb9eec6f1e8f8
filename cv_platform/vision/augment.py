"""Augmentation: a picture and its boxes, changed as cameras and weather change them.

For training sets and robustness tests. Functions change one thing by a given amount; `Augmenter` draws the amounts.
Pictures are BGR uint8 (H, W, 3) and are never changed in place; detections follow the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cv_platform.vision.detections import Detections
from cv_platform.vision.geometry import box_areas, clip_boxes

Picture = npt.NDArray[np.uint8]


def flip_horizontally(frame: Picture, detections: Detections) -> tuple[Picture, Detections]:
    """Mirror left and right."""
    width = np.float32(frame.shape[1])
    boxes = detections.boxes.copy()
    boxes[:, 0], boxes[:, 2] = width - detections.boxes[:, 2], width - detections.boxes[:, 0]
    return np.ascontiguousarray(frame[:, ::-1]), _with_boxes(detections, boxes)


def crop(
    frame: Picture, detections: Detections, *, x: int, y: int, width: int, height: int, least_visible: float = 0.3
) -> tuple[Picture, Detections]:
    """Cut a rectangle out; boxes are cut at its edges and dropped where too little of them is left.

    Args:
        frame: BGR uint8 (H, W, 3).
        detections: in the frame's pixels.
        x: left column of the rectangle.
        y: top row of the rectangle.
        width: of the rectangle, pixels.
        height: of the rectangle, pixels.
        least_visible: share of a box's area, 0..1, that has to be left.

    Raises:
        ValueError: the rectangle is empty or reaches out of the frame.
    """
    if width < 1 or height < 1 or x < 0 or y < 0 or x + width > frame.shape[1] or y + height > frame.shape[0]:
        raise ValueError(
            f"the crop is {width}×{height} at ({x}, {y});"
            f" allowed is a rectangle within {frame.shape[1]}×{frame.shape[0]}"
        )
    moved = detections.boxes - np.array([x, y, x, y], np.float32)
    cut = clip_boxes(moved, height=height, width=width)
    before, left = box_areas(moved), box_areas(cut)
    kept = (left > 0) & (left >= np.float32(least_visible) * before)
    return frame[y : y + height, x : x + width].copy(), _with_boxes(detections, cut)[kept]


def adjust_colour(
    frame: Picture, *, brightness: float = 0.0, contrast: float = 1.0, saturation: float = 1.0, hue_degrees: float = 0.0
) -> Picture:
    """Change light and colour.

    Args:
        frame: BGR uint8 (H, W, 3).
        brightness: added, as a share of full white, -1..1.
        contrast: factor around mid grey, 0 or more; 1 changes nothing.
        saturation: factor, 0 (grey) or more; 1 changes nothing.
        hue_degrees: turned round the colour circle.
    """
    if contrast < 0 or saturation < 0:
        raise ValueError(f"contrast is {contrast}, saturation is {saturation}; allowed is 0 or more")
    values = frame.astype(np.float32) / np.float32(255)
    if saturation != 1.0 or hue_degrees != 0.0:
        hsv = cv2.cvtColor(values, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0] + np.float32(hue_degrees)) % np.float32(360)
        hsv[..., 1] = np.minimum(hsv[..., 1] * np.float32(saturation), np.float32(1))
        values = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), np.float32)
    values = (values - np.float32(0.5)) * np.float32(contrast) + np.float32(0.5 + brightness)
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), np.uint8)


def blur(frame: Picture, *, sigma: float) -> Picture:
    """A Gaussian blur of `sigma` pixels, as of a lens out of focus; 0 changes nothing."""
    if sigma < 0:
        raise ValueError(f"sigma is {sigma}; allowed is 0 or more, in pixels")
    return frame.copy() if sigma == 0 else np.asarray(cv2.GaussianBlur(frame, (0, 0), sigma), np.uint8)


def add_noise(frame: Picture, *, sigma: float, rng: np.random.Generator) -> Picture:
    """Gaussian noise of `sigma` grey values, as of a sensor in the dark; 0 changes nothing."""
    if sigma < 0:
        raise ValueError(f"sigma is {sigma}; allowed is 0 or more, in grey values")
    noisy = frame + rng.normal(0.0, sigma, frame.shape).astype(np.float32)
    return np.asarray(np.rint(np.clip(noisy, 0, 255)), np.uint8)


@dataclass(frozen=True)
class Augmenter:
    """All of the above by amounts drawn at random; equal seeds give equal results.

    Attributes:
        flip_probability: 0..1.
        least_crop: least share of width and of height that a crop keeps, above 0 to 1; 1 means no crop.
        brightness: most that is added or taken away, as a share of white.
        contrast: most by which the factor differs from 1.
        saturation: most by which the factor differs from 1.
        hue_degrees: most by which hues turn.
        blur_sigma: most, in pixels.
        noise_sigma: most, in grey values.
    """

    flip_probability: float = 0.5
    least_crop: float = 0.7
    brightness: float = 0.15
    contrast: float = 0.2
    saturation: float = 0.3
    hue_degrees: float = 8.0
    blur_sigma: float = 1.0
    noise_sigma: float = 6.0

    def __post_init__(self) -> None:
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability is {self.flip_probability}; allowed is 0..1")
        if not 0 < self.least_crop <= 1:
            raise ValueError(f"least_crop is {self.least_crop}; allowed is above 0 to 1")
        if not (0 <= self.contrast <= 1 and 0 <= self.saturation <= 1):
            raise ValueError(f"contrast is {self.contrast}, saturation is {self.saturation}; allowed is 0..1")

    def __call__(self, frame: Picture, detections: Detections, *, seed: int) -> tuple[Picture, Detections]:
        """A changed copy of the picture, and the detections that are still in it."""
        rng = np.random.default_rng(seed)
        if rng.random() < self.flip_probability:
            frame, detections = flip_horizontally(frame, detections)
        if self.least_crop < 1.0:
            height, width = (max(1, round(side * rng.uniform(self.least_crop, 1.0))) for side in frame.shape[:2])
            y, x = rng.integers(frame.shape[0] - height + 1), rng.integers(frame.shape[1] - width + 1)
            frame, detections = crop(frame, detections, x=int(x), y=int(y), width=width, height=height)
        frame = adjust_colour(
            frame,
            brightness=rng.uniform(-self.brightness, self.brightness),
            contrast=rng.uniform(1 - self.contrast, 1 + self.contrast),
            saturation=rng.uniform(1 - self.saturation, 1 + self.saturation),
            hue_degrees=rng.uniform(-self.hue_degrees, self.hue_degrees),
        )
        frame = blur(frame, sigma=rng.uniform(0, self.blur_sigma))
        return add_noise(frame, sigma=rng.uniform(0, self.noise_sigma), rng=rng), detections


def _with_boxes(detections: Detections, boxes: npt.NDArray[np.float32]) -> Detections:
    return Detections(boxes, detections.scores, detections.class_ids, detections.track_ids, detections.embeddings)
