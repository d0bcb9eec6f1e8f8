"""From names in the model registry to a detector that has passed its canary."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from cv_platform.vision.detections import Detections
from cv_platform.vision.detectors.base import Detector
from cv_platform.vision.detectors.canary import canary_picture, found_in_canary
from cv_platform.vision.detectors.fused import FusedDetector
from cv_platform.vision.detectors.hog import HogPeopleDetector
from cv_platform.vision.detectors.onnx import InputSize, OnnxDetector
from cv_platform.vision.models import ModelEntry, ModelRefused, ModelRegistry

_CANARY_SCORE: Final = 0.25
"""Least score on the canary picture, whatever threshold the detector is given for footage."""


def make_detector(
    names: Sequence[str],
    *,
    models: ModelRegistry,
    threads: int = 0,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    long_side: int | None = None,
    batch_size: int = 8,
    backend: str = "onnx",
) -> Detector:
    """Make one detector, or several fused into one.

    Args:
        names: of models; `models.resolve("auto")` gives the best that can be had.
        models: where they are found.
        threads: ONNX Runtime's own threads for one run; 0 for all cores.
        score_threshold: instead of each model's own; finding faces to hide asks for a lower one.
        iou_threshold: instead of each model's own, above which the weaker of two boxes of one class goes.
        long_side: instead of the models' own, for those that take any picture size.
        batch_size: most frames in one run, where a model takes any number.
        backend: what runs ONNX models: "onnx" (ONNX Runtime on the processor) or "torch" (on the GPU).

    Raises:
        ValueError: an unknown name, none at all, a model that is no detector, or an unknown backend.
        ModelUnavailable: a file is not here and cannot be fetched.
        ModelRefused: a wrong digest, not loadable, or the canary was not found.
    """
    if not names:
        raise ValueError("no detector is named; allowed is one or more names of models.yaml")
    if backend not in ("onnx", "torch"):
        raise ValueError(f"backend is {backend!r}; allowed is onnx or torch")
    detectors = [
        _make_one(models.entry(name), models, threads, score_threshold, iou_threshold, long_side, batch_size, backend)
        for name in names
    ]
    return detectors[0] if len(detectors) == 1 else FusedDetector(detectors)


def _make_one(
    entry: ModelEntry,
    models: ModelRegistry,
    threads: int,
    score_threshold: float | None,
    iou_threshold: float | None,
    long_side: int | None,
    batch_size: int,
    backend: str,
) -> Detector:
    score = score_threshold if score_threshold is not None else entry.score_threshold or 0.25
    iou = iou_threshold if iou_threshold is not None else entry.iou_threshold or 0.45
    detector: Detector
    if entry.backend == "hog":
        detector = HogPeopleDetector(score_threshold=max(0.5, score), iou_threshold=iou)
    elif entry.backend == "onnx":
        size = dict(entry.input)
        if long_side is not None and "long_side" in size:
            size["long_side"] = long_side
        content, digest = models.read(entry.name)
        try:
            if backend == "torch":
                from cv_platform.vision.detectors.torch_backend import TorchDetector

                on_gpu = TorchDetector(
                    content,
                    name=entry.name,
                    digest=digest,
                    head=entry.head or "",
                    input_size=InputSize(**size),
                    class_ids=entry.class_ids,
                    score_threshold=score,
                    iou_threshold=iou,
                )
                check_canary(on_gpu, entry.name)
                return on_gpu
            detector = OnnxDetector(
                content,
                name=entry.name,
                digest=digest,
                head=entry.head or "",
                input_size=InputSize(**size),
                class_ids=entry.class_ids,
                score_threshold=score,
                iou_threshold=iou,
                threads=threads,
                batch_size=batch_size,
            )
        except ValueError as error:
            raise ModelRefused(f"model {entry.name} is refused: {error}") from error
    else:
        raise ValueError(f"model {entry.name} is of backend {entry.backend!r}, which is no detector")
    check_canary(detector, entry.name)
    return detector


def check_canary(detector: Detector, name: str) -> Detections:
    """Show a detector the canary picture; its warm-up as well.

    Returns:
        What it found.

    Raises:
        ModelRefused: its outputs hold NaN or infinity, or it did not find what is there.
    """
    picture: npt.NDArray[np.uint8] = canary_picture()
    try:
        if isinstance(detector, OnnxDetector):
            outputs = detector.infer(detector.prepare([picture]).tensor)
            if not all(np.isfinite(output).all() for output in outputs.values()):
                raise ModelRefused(f"model {name} is refused: its outputs on the canary picture hold NaN or infinity")
            (found,) = detector.detect([picture], score_threshold=_CANARY_SCORE)
        elif "score_threshold" in inspect.signature(detector.detect).parameters:
            (found,) = detector.detect([picture], score_threshold=_CANARY_SCORE)  # type: ignore[call-arg]
        else:
            (found,) = detector.detect([picture])
    except (ValueError, IndexError, KeyError, StopIteration) as error:
        raise ModelRefused(f"model {name} is refused: its outputs are not those of its head ({error})") from error
    if not found_in_canary(found, detector.classes):
        raise ModelRefused(f"model {name} is refused: it did not find what the canary picture shows")
    return found
