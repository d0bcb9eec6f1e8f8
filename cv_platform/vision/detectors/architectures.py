"""What each architecture wants as its input, and which head reads its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cv_platform.vision.detectors import heads
from cv_platform.vision.detectors.heads import Candidates
from cv_platform.vision.preprocess import Anchor, ChannelOrder, Fit, Preprocessor

Outputs = Mapping[str, npt.NDArray[Any]]
"""A network's outputs by name, in their order, with the batch axis where the architecture has one."""

Decode = Callable[[Outputs, int, int, int, float], Candidates]
"""Outputs, the picture's place in the batch, height and width of the input, score threshold → candidates."""


@dataclass(frozen=True)
class Architecture:
    """How a family of networks is fed and read.

    Attributes:
        decode: from outputs to candidates in pixels of the input.
        channels: order of the input's planes.
        scale: multiplied with 0..255 first.
        mean: subtracted from every plane after that.
        fill: grey value, 0..255, around a picture of another aspect ratio.
        fit: aspect ratio kept, or stretched to the input's size.
        anchor: where a picture goes whose aspect ratio is kept.
        suppressed: whether the network's own graph has done the suppression.
    """

    decode: Decode
    channels: ChannelOrder
    scale: float = 1.0
    mean: float = 0.0
    fill: int = 114
    fit: Fit = "letterbox"
    anchor: Anchor = "top_left"
    suppressed: bool = False

    def preprocessor(self, size: tuple[int, int]) -> Preprocessor:
        """What makes the input, of (height, width), from frames."""
        return Preprocessor(
            size,
            fit=self.fit,
            anchor=self.anchor,
            fill=self.fill,
            channels=self.channels,
            scale=self.scale,
            mean=(self.mean, self.mean, self.mean),
        )


def _first(outputs: Outputs) -> npt.NDArray[Any]:
    return next(iter(outputs.values()))


def _yolox(outputs: Outputs, i: int, height: int, width: int, threshold: float) -> Candidates:
    return heads.decode_yolox(_first(outputs)[i], height=height, width=width, score_threshold=threshold)


def _yolov5(outputs: Outputs, i: int, height: int, width: int, threshold: float) -> Candidates:
    return heads.decode_yolov5(_first(outputs)[i], score_threshold=threshold)


def _yolov8(outputs: Outputs, i: int, height: int, width: int, threshold: float) -> Candidates:
    return heads.decode_yolov8(_first(outputs)[i], score_threshold=threshold)


def _torchvision(outputs: Outputs, i: int, height: int, width: int, threshold: float) -> Candidates:
    # exporters number the outputs, so they are told apart by what they hold
    boxes = next(value for value in outputs.values() if value.ndim == 2)
    labels = next(value for value in outputs.values() if value.dtype.kind == "i")
    scores = next(value for value in outputs.values() if value.ndim == 1 and value.dtype.kind == "f")
    return heads.decode_torchvision(boxes, labels, scores, score_threshold=threshold)


def _centerface(outputs: Outputs, i: int, height: int, width: int, threshold: float) -> Candidates:
    heatmap, sizes, offsets = list(outputs.values())[:3]
    return heads.decode_centerface(heatmap[i], sizes[i], offsets[i], score_threshold=threshold)


def _yunet(outputs: Outputs, i: int, height: int, width: int, threshold: float) -> Candidates:
    classes, objectness, boxes = ([outputs[f"{kind}_{n}"][i] for n in (8, 16, 32)] for kind in ("cls", "obj", "bbox"))
    return heads.decode_yunet(classes, objectness, boxes, height=height, width=width, score_threshold=threshold)


def _ultraface(outputs: Outputs, i: int, height: int, width: int, threshold: float) -> Candidates:
    return heads.decode_ultraface(
        outputs["scores"][i], outputs["boxes"][i], height=height, width=width, score_threshold=threshold
    )


ARCHITECTURES: Final[dict[str, Architecture]] = {
    "yolox": Architecture(_yolox, "bgr"),
    "yolov5": Architecture(_yolov5, "rgb", scale=1 / 255, anchor="centre"),
    "yolov8": Architecture(_yolov8, "rgb", scale=1 / 255, anchor="centre"),
    "torchvision": Architecture(_torchvision, "rgb", scale=1 / 255, fill=0, suppressed=True),
    "centerface": Architecture(_centerface, "rgb", fill=0),
    "yunet": Architecture(_yunet, "bgr", fill=0),
    "ultraface": Architecture(_ultraface, "rgb", scale=1 / 128, mean=127 / 128, fill=127, fit="stretch"),
}
"""By the name that `models.yaml` uses under `head`."""


def as_floats(output: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Half precision outputs as float32; others as they are."""
    return output.astype(np.float32) if output.dtype == np.float16 else output
