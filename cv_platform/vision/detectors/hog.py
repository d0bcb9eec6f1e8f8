"""People by histograms of oriented gradients: no model file, no network, one slow core.

Source: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005, with the weights that
OpenCV carries. The detector of last resort: it finds upright people of 100 pixels and more.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from cv_platform.vision.classes import PERSON
from cv_platform.vision.detections import Detections
from cv_platform.vision.nms import nms

_CODE_VERSION = 1
# the weights were trained on windows of 64×128 pixels with the person about 96 high in the middle: the window is cut
# down to that, and to the usual 0.41 of a person's width to height
_PERSON_HEIGHT = 96 / 128
_PERSON_WIDTH = 0.41 * 96 / 64


class HogPeopleDetector:
    """OpenCV's HOG people detector (see `base.Detector`).

    Args:
        score_threshold: least confidence, 0..1. Confidence is the logistic function of the SVM's margin m: 1/(1+e^−m).
        iou_threshold: overlap above which the weaker of two boxes goes.
        long_side: pixels to which pictures are shrunk first, never enlarged.
        stride: of the window, pixels; 8 is the descriptor's own step.
        scale_step: from one size of the picture to the next.
    """

    def __init__(
        self,
        *,
        score_threshold: float = 0.55,
        iou_threshold: float = 0.4,
        long_side: int = 640,
        stride: int = 8,
        scale_step: float = 1.08,
    ) -> None:
        if not 0.5 <= score_threshold < 1:
            raise ValueError(f"score_threshold is {score_threshold}; allowed is 0.5 (the SVM's boundary) to below 1")
        self._score_threshold = score_threshold
        self._iou_threshold = iou_threshold
        self._long_side = long_side
        self._stride = stride
        self._scale_step = scale_step
        self._descriptor = cv2.HOGDescriptor()
        self._descriptor.setSVMDetector(np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))

    @property
    def classes(self) -> tuple[int, ...]:
        """Person."""
        return (PERSON,)

    @property
    def version(self) -> str:
        """Code and parameters."""
        parameters = (self._score_threshold, self._iou_threshold, self._long_side, self._stride, self._scale_step)
        return f"hog_people:v{_CODE_VERSION}:" + "/".join(f"{value:g}" for value in parameters)

    def warmup(self) -> None:
        """Nothing is loaded; one small picture is searched."""
        self.detect([np.zeros((128, 64, 3), np.uint8)])

    def detect(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        """Find people; one `Detections` a frame, highest score first."""
        return [self._detect(frame) for frame in frames]

    def _detect(self, frame: npt.NDArray[np.uint8]) -> Detections:
        height, width = frame.shape[:2]
        shrink = min(1.0, self._long_side / max(height, width))
        small = cv2.resize(frame, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) if shrink < 1 else frame
        if small.shape[0] < 128 or small.shape[1] < 64:
            return Detections.empty()  # smaller than the window
        windows, margins = self._descriptor.detectMultiScale(
            small,
            hitThreshold=0.0,
            winStride=(self._stride, self._stride),
            padding=(self._stride, self._stride),
            scale=self._scale_step,
            groupThreshold=0,
        )
        if len(windows) == 0:
            return Detections.empty()
        scores = (1 / (1 + np.exp(-np.asarray(margins, np.float64).reshape(-1)))).astype(np.float32)
        found = np.asarray(windows, np.float32)
        # OpenCV searches the sizes in parallel and gives the windows in the order in which threads end
        order = np.lexsort((found[:, 2], found[:, 1], found[:, 0], -scores))
        found, scores = found[order], scores[order]
        likely = scores >= self._score_threshold
        found, scores = found[likely], scores[likely]
        centres = found[:, :2] + found[:, 2:] / 2
        half = found[:, 2:] * np.array([_PERSON_WIDTH / 2, _PERSON_HEIGHT / 2], np.float32)
        boxes = np.concatenate([centres - half, centres + half], axis=1) / np.float32(shrink)
        kept = nms(boxes, scores, self._iou_threshold)
        boxes = np.clip(boxes[kept], 0, np.array([width, height] * 2, np.float32))
        return Detections(boxes.astype(np.float32), scores[kept], np.full(len(kept), PERSON, np.int16))
