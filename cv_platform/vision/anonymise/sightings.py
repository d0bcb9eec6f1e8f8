"""What detectors saw in a clip: boxes by frame, in coded pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

By = Literal["detector", "verifier"]
Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FrameSightings:
    """What one detector saw in one frame: boxes float32 (N, 4) in coded pixels, scores (N,), class ids (N,)."""

    boxes: Boxes
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.boxes)

    def above(self, threshold: float) -> FrameSightings:
        """Those with at least this score."""
        return self.chosen(self.scores >= threshold)

    def chosen(self, rows: npt.NDArray[np.bool_]) -> FrameSightings:
        """The rows where the mask says so."""
        return FrameSightings(self.boxes[rows], self.scores[rows], self.class_ids[rows])

    @classmethod
    def none(cls) -> FrameSightings:
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int16))

    @classmethod
    def join(cls, parts: list[FrameSightings]) -> FrameSightings:
        if not parts:
            return cls.none()
        return cls(
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.class_ids for p in parts]),
        )


@dataclass
class Scan:
    """The whole clip as both detectors saw it.

    Attributes:
        ticks: each frame's time.
        detected: by frame that the detector examined.
        verified: by frame that the verifier examined.
        cuts: frames that start a new scene.
        gone: by frame, where a face was seen shortly before or after, and the picture holds something else.
        checksums: CRC-32 of each frame's planes, where asked for.
    """

    ticks: list[int] = field(default_factory=list)
    detected: dict[int, FrameSightings] = field(default_factory=dict)
    verified: dict[int, FrameSightings] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    gone: dict[int, list[Boxes]] = field(default_factory=dict)
    checksums: list[int] = field(default_factory=list)

    @property
    def frames(self) -> int:
        return len(self.ticks)


def overlap(a: Boxes, b: Boxes) -> npt.NDArray[np.float32]:
    """IoU of each of (N, 4) with each of (M, 4): (N, M)."""
    w = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    h = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    common = np.clip(w, 0, None) * np.clip(h, 0, None)
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    union = area_a[:, None] + area_b[None, :] - common
    return np.asarray(common / np.maximum(union, 1e-6), dtype=np.float32)
