"""Several detectors as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cv_platform.vision.detections import Detections
from cv_platform.vision.detectors.base import ConcurrentDetector, Detector
from cv_platform.vision.fusion import fuse_detections

_CODE_VERSION = 1


class FusedDetector:
    """Runs several detectors and joins what they find (see `base.Detector`).

    Classes that only one of them knows are taken as they are. Classes that several know are joined by weighted boxes
    fusion (Solovyev et al., 2021) among just those: to the others, not finding one says nothing.

    Args:
        detectors: at least one.
        iou_threshold: overlap from which boxes count as the same object.
    """

    def __init__(self, detectors: Sequence[Detector], *, iou_threshold: float = 0.55) -> None:
        if not detectors:
            raise ValueError("there is nothing to fuse; allowed is one or more detectors")
        self._detectors = list(detectors)
        self._iou_threshold = iou_threshold
        counts = Counter(class_id for detector in detectors for class_id in detector.classes)
        self._classes = tuple(sorted(counts))
        self._shared = np.array(sorted(class_id for class_id, count in counts.items() if count > 1), np.int16)

    @property
    def classes(self) -> tuple[int, ...]:
        """All that any of them can return."""
        return self._classes

    @property
    def version(self) -> str:
        """All their versions, in order."""
        parts = "+".join(detector.version for detector in self._detectors)
        return f"fused:v{_CODE_VERSION}/{self._iou_threshold:g}({parts})"

    def warmup(self) -> None:
        """Warm all of them up."""
        for detector in self._detectors:
            detector.warmup()

    def detect(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        """Find objects with each; one `Detections` a frame, highest score first."""
        return self._joined(frames, [detector.detect(frames) for detector in self._detectors])

    @property
    def lanes(self) -> int:
        """As many as each of them has; 1 where one of them takes a single caller."""
        return min(detector.lanes if isinstance(detector, ConcurrentDetector) else 1 for detector in self._detectors)

    def detect_alongside(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        """As `detect`, on one core, for one of up to `lanes` callers at once.

        Raises:
            TypeError: one of the detectors takes a single caller.
        """
        found = []
        for detector in self._detectors:
            if not isinstance(detector, ConcurrentDetector):
                raise TypeError(f"{detector.version} takes one caller at a time; allowed is `detect`")
            found.append(detector.detect_alongside(frames))
        return self._joined(frames, found)

    def _joined(
        self, frames: Sequence[npt.NDArray[np.uint8]], found: Sequence[Sequence[Detections]]
    ) -> list[Detections]:
        return [
            self._join([parts[i] for parts in found], frame.shape[0], frame.shape[1]) for i, frame in enumerate(frames)
        ]

    def _join(self, parts: Sequence[Detections], height: int, width: int) -> Detections:
        alone = [part[~np.isin(part.class_ids, self._shared)] for part in parts]
        joined = Detections.concatenate(alone)
        for class_id in self._shared.tolist():
            voters = [
                part[part.class_ids == class_id]
                for part, detector in zip(parts, self._detectors, strict=True)
                if class_id in detector.classes
            ]
            if any(len(part) for part in voters):
                fused = fuse_detections(voters, height=height, width=width, iou_threshold=self._iou_threshold)
                joined = Detections.concatenate([joined, fused])
        return joined[np.argsort(-joined.scores, kind="stable")]
