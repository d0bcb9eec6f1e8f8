"""A detector that finds nothing, for processes that make their detector by its name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cv_platform.vision.classes import FACE
from cv_platform.vision.detections import Detections


class Nothing:
    """Sees nobody."""

    classes = (FACE,)
    version = "nothing-1"

    def warmup(self) -> None:
        """Nothing to load."""

    def detect(self, frames: Sequence[np.ndarray]) -> list[Detections]:
        """See `Detector.detect`."""
        return [Detections.empty() for _ in frames]


class NothingEither(Nothing):
    """A second, different one."""

    version = "nothing-either-1"


def make() -> Nothing:
    """One of them."""
    return Nothing()


def make_second() -> NothingEither:
    """One for the proof."""
    return NothingEither()
