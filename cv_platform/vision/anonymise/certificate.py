"""The certificate beside a published clip: what was done, with what, how well it covers; and its verification."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

SCHEMA: Final = 1
SUFFIX: Final = ".certificate.json"
_KINDS: Final = {
    "str": ("str",),
    "str | None": ("str", "NoneType"),
    "int": ("int",),
    "float": ("int", "float"),
    "dict[str, Any]": ("dict",),
    "dict[str, float]": ("dict",),
}


@dataclass(frozen=True)
class Certificate:
    """What is claimed of one clip. Holds no path, no name, no box, no time of day.

    Attributes:
        input_sha256, output_sha256: digests of both files, hexadecimal.
        input_bytes, output_bytes: their lengths.
        detector, verifier: `Detector.version` of each; None where no second one was used.
        policy: every parameter (of a mosaic key only a digest's head).
        width, height: of the output, pixels.
        frames: in the output.
        duration_s: from the first frame to the last.
        faces: sightings by the detector at or above its threshold.
        tracks: hidden over their life.
        face_frames: hidden regions, summed over frames.
        frames_touched: frames in which something is hidden.
        frames_detected: frames that the detector examined.
        frames_verified: frames that the verifier examined.
        verified_share: frames_verified over frames.
        verified_faces: what the verifier saw at or above its threshold.
        worst_coverage: smallest hidden share of one of those, 0..1.
        rounds: how often uncovered faces were added and all was done again.
        gops_copied, gops_encoded: groups of pictures kept bit by bit, and encoded anew.
        resized_frames, damaged_packets, left_out_frames: what the decoder had to bear.
        seconds: wall clock by stage.
        schema: of this record.
    """

    input_sha256: str
    input_bytes: int
    output_sha256: str
    output_bytes: int
    detector: str
    verifier: str | None
    policy: dict[str, Any]
    width: int
    height: int
    frames: int
    duration_s: float
    faces: int
    tracks: int
    face_frames: int
    frames_touched: int
    frames_detected: int
    frames_verified: int
    verified_share: float
    verified_faces: int
    worst_coverage: float
    rounds: int
    gops_copied: int = 0
    gops_encoded: int = 0
    resized_frames: int = 0
    damaged_packets: int = 0
    left_out_frames: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """One JSON object, keys sorted, ends with a newline."""
        return json.dumps(asdict(self), sort_keys=True, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """The inverse of `to_json`. ValueError where it is no certificate of this schema, or holds what none can."""
        try:
            values = json.loads(text)
            if not isinstance(values, dict) or values.get("schema") != SCHEMA:
                raise ValueError("schema")
            made = cls(**values)
            for field_ in fields(cls):
                value = getattr(made, field_.name)
                if type(value).__name__ not in _KINDS[str(field_.type)]:
                    raise ValueError(field_.name)
                if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
                    raise ValueError(field_.name)
        except (TypeError, ValueError):
            raise ValueError(f"this is no anonymisation certificate of schema {SCHEMA}") from None
        return made

    def shortcomings(self, *, may_check_itself: bool = False) -> list[str]:
        """Why this proves nothing of its clip, a line each; empty where it does prove it.

        Args:
            may_check_itself: whether the first detector again, looking a second time, will do for a second one.
        """
        found = []
        if self.verifier is None:
            found.append("the certificate names no second detector: the clip was never proven")
        elif (shared := sorted(model_names(self.detector) & model_names(self.verifier))) and not may_check_itself:
            found.append(f"the second detector is the first one again ({', '.join(shared)}): it proves nothing")
        if self.frames < 1 or not 1 <= self.frames_verified <= self.frames:
            found.append(f"the second detector saw {self.frames_verified} of {self.frames} frames")
        wanted = self.policy.get("cover_share", 1.0)
        # asked this way round, so that what is no number falls short too
        if not (isinstance(wanted, int | float) and 0 < wanted <= self.worst_coverage <= 1):
            found.append(f"the certificate itself claims only {self.worst_coverage:.0%} coverage")
        return found


def model_names(version: str) -> set[str]:
    """The models that a detector's version names, digests and parameters apart; one of several detectors names all."""
    inside = version.partition("(")[2].rpartition(")")[0] if version.startswith("fused:") else ""
    return {part.partition(":")[0].partition("@")[0] for part in re.split(r"\+(?=[A-Za-z_])", inside or version)}


def different(finding: Iterable[str], proving: Iterable[str]) -> bool:
    """Whether models share none: one that checks itself misses what it missed."""
    return not set(finding) & set(proving)


def sha256_of(path: Path) -> tuple[str, int]:
    """Digest (hexadecimal) and length of a file."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size
