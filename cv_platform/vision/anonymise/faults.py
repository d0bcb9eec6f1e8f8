"""Named fault points: no-ops unless a test or benchmark turns one on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from cv_platform.vision.anonymise.sightings import FrameSightings

_dropping: ContextVar[tuple[float, int] | None] = ContextVar("dropping", default=None)


@contextmanager
def dropping_detections(share: float, seed: int) -> Iterator[None]:
    """Lose this share of the first detector's sightings, at random, each by its frame and place."""
    token = _dropping.set((share, seed))
    try:
        yield
    finally:
        _dropping.reset(token)


def drop_sightings(seen: FrameSightings, frame: int) -> FrameSightings:
    """Fault point: the sightings that were not dropped."""
    setting = _dropping.get()
    if setting is None or not len(seen):
        return seen
    share, seed = setting
    chance = random.Random(f"{seed}/{frame}")
    keep = np.array([chance.random() >= share for _ in range(len(seen))])
    return FrameSightings(seen.boxes[keep], seen.scores[keep], seen.class_ids[keep])
