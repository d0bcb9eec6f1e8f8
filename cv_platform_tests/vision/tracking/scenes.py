"""Made-up scenes: boxes that walk, cross, vanish and come back, with a known identity each."""

from __future__ import annotations

import numpy as np

from cv_platform.vision.detections import Detections


def walkers(
    *, seed: int = 0, people: int = 8, frames: int = 60, miss: float = 0.1, clutter: float = 0.5, classes: int = 1
) -> list[Detections]:
    """Frames of detections of `people` who walk straight with noise, some missed, with false ones beside them."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform((50, 50), (590, 430), (people, 2))
    velocity = rng.normal(0, 2.5, (people, 2))
    size = np.column_stack([rng.uniform(20, 40, people), rng.uniform(50, 100, people)])
    kinds = rng.integers(0, classes, people)
    scene = []
    for index in range(frames):
        seen = rng.random(people) > miss
        where = centre[seen] + velocity[seen] * index + rng.normal(0, 1, (int(seen.sum()), 2))
        boxes = np.hstack([where - size[seen] / 2, where + size[seen] / 2])
        scores = rng.uniform(0.5, 1.0, len(boxes))
        false = rng.poisson(clutter)
        corner = rng.uniform((0, 0), (600, 400), (false, 2))
        order = rng.permutation(len(boxes) + false)
        scene.append(
            Detections(
                np.vstack([boxes, np.hstack([corner, corner + rng.uniform(10, 60, (false, 2))])])[order],
                np.concatenate([scores, rng.uniform(0.05, 0.6, false)])[order],
                np.concatenate([kinds[seen], rng.integers(0, classes, false)])[order],
            )
        )
    return scene
