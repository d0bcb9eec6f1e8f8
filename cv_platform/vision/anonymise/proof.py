"""Proof: what the verifier saw against what is hidden; and what must be looked at again."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cv_platform.vision.anonymise.policy import AnonymisePolicy
from cv_platform.vision.anonymise.regions import HidingPlan, covered_share
from cv_platform.vision.anonymise.sightings import FrameSightings


@dataclass
class Coverage:
    """How well a plan covers what the verifier saw.

    Attributes:
        faces: seen at or above the verifier's threshold.
        worst: smallest share of a face that is hidden; 1.0 where no face was seen.
        uncovered: by frame, the faces below the share that is asked for.
    """

    faces: int = 0
    worst: float = 1.0
    uncovered: dict[int, FrameSightings] = field(default_factory=dict)


def check_coverage(
    plan: HidingPlan,
    verified: dict[int, FrameSightings],
    zones: npt.NDArray[np.bool_] | None,
    policy: AnonymisePolicy,
) -> Coverage:
    """Hold every face that the verifier saw against the plan, pixel by pixel."""
    coverage = Coverage()
    for frame, seen in verified.items():
        faces = seen.above(policy.verify_threshold)
        if not len(faces):
            continue
        regions = plan.regions(frame)
        size = plan.geometry
        shares = np.array(
            [covered_share(box, regions, zones, width=size.width, height=size.height) for box in faces.boxes]
        )
        coverage.faces += len(faces)
        coverage.worst = min(coverage.worst, float(shares.min()))
        bare = shares < policy.cover_share
        if bare.any():
            coverage.uncovered[frame] = FrameSightings(faces.boxes[bare], faces.scores[bare], faces.class_ids[bare])
    return coverage


def frames_to_verify(
    uncovered: dict[int, FrameSightings], verified: dict[int, FrameSightings], frames: int, reach: int
) -> set[int]:
    """Frames that the verifier has not seen, near those with an uncovered face: all within `reach`.

    Where the verifier had seen all of those, the nearest that it has not, so that each round proves something new.
    """
    wanted: set[int] = set()
    for frame in uncovered:
        near = {f for f in range(max(0, frame - reach), min(frames, frame + reach + 1)) if f not in verified}
        wanted |= near
    if not wanted and uncovered:
        free = [f for f in range(frames) if f not in verified]
        for frame in uncovered:
            wanted |= set(sorted(free, key=lambda f: abs(f - frame))[:2])
    return wanted
