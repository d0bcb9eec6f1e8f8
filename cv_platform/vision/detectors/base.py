"""The protocol that every detector backend implements, and those of backends that can do more."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from fractions import Fraction
from typing import BinaryIO, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from cv_platform.vision.detections import Detections


@runtime_checkable
class Detector(Protocol):
    """Finds objects in pictures. An instance is used by one thread at a time."""

    @property
    def classes(self) -> tuple[int, ...]:
        """The class ids that it can return (see `cv_platform.vision.classes`)."""

    @property
    def version(self) -> str:
        """Backend, model digest and parameters in one short string: two equal versions give equal answers."""

    def warmup(self) -> None:
        """Load the model and run it once, so that the first real frame pays neither."""

    def detect(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        """Find objects.

        Args:
            frames: BGR pictures, each uint8 (H, W, 3); sizes may differ.

        Returns:
            One `Detections` a frame, boxes in that frame's pixels, sorted by score, highest first.
        """


@runtime_checkable
class ConcurrentDetector(Detector, Protocol):
    """A detector that several threads may use at once."""

    @property
    def lanes(self) -> int:
        """How many callers of `detect_alongside` at once keep all its cores busy."""

    def detect_alongside(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        """As `detect`, on one core, for one of several callers at once."""


class ShardPicture(NamedTuple):
    """A picture of a shard, decoded elsewhere: its exact time in seconds since the clip's first frame, its size."""

    pts_s: Fraction
    width: int
    height: int


@runtime_checkable
class ShardDetector(Detector, Protocol):
    """A detector that reads shards itself: their pictures are decoded where it runs."""

    def detect_shard(self, shard: BinaryIO) -> Generator[tuple[ShardPicture, Detections]]:
        """Find objects in the pictures of a shard (a file of the disk), in order; boxes as in `detect`.

        Raises:
            ValueError: the shard or one of its pictures is damaged.
        """
