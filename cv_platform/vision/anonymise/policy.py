"""What to hide and how: the policy that `anonymise_clip` is given, checked where it is made."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, get_args

from cv_platform.vision.classes import CLASS_NAMES, FACE
from cv_platform.vision.video.limits import DEFAULT_LIMITS, ClipLimits

Method = Literal["solid", "mosaic", "blur"]
Audio = Literal["drop", "keep"]
SWEEP_TILE: Final = 1280
"""Longest side of what the detector is ever shown, pixels."""
FAINT: Final = 0.3
"""What the verifier reports down to, where it may."""

Polygon = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class AnonymisePolicy:
    """How one clip is anonymised.

    Attributes:
        classes: class ids to hide (see `cv_platform.vision.classes`).
        method: `solid` paints black, `mosaic` at most 8 keyed cells across a face, `blur` relative to the face.
        audio: `drop`, or `keep` the first audio stream.
        zones: polygons in 0..1 of the upright picture that are always hidden.
        detect_stride: the detector runs on every so many-th frame, and between where that does not settle it.
        detect_long_side: long side in pixels of the picture that the detector sees.
        detect_threshold: a track with one sighting at or above this score is hidden.
        low_threshold: sightings down to this score continue a track and make a frame unsure.
        sure_threshold: a track without a sighting at or above this score is bridged and extended only by a few frames.
        verify_rate_hz: raw frames a second that the verifier examines; 0 turns sampling off.
        verify_long_side: long side in pixels of what the verifier sees; None is the full picture.
        verify_threshold: what the verifier finds at or above this score must be covered.
        cover_share: share of the verifier's box that must be hidden.
        max_rounds: how often a clip is done again with uncovered faces added.
        sweep_interval_s: the detector also sees the picture at full resolution, in overlapping tiles where it is
            large, this often, where the picture is larger than detect_long_side; 0 is never.
        margin: growth of a hidden box on each side, as a share of its size.
        motion_margin: further growth on each side, as a share of the movement in a frame.
        max_gap_s: a track is bridged over this long without a sighting.
        extend_s: a track is hidden this long before its first and after its last sighting.
        vanish_s: the same where it begins or ends away from the picture's edges: faces turn away, they do not vanish.
        surgical: copy H.264 GOPs in which nothing is hidden instead of encoding them again.
        crf, preset: x264's.
        mosaic_key: secret behind the mosaic's cells; a random one each clip where it is None.
        limits: what a clip may be at most (see `ClipLimits`).
    """

    classes: tuple[int, ...] = (FACE,)
    method: Method = "solid"
    audio: Audio = "drop"
    zones: tuple[Polygon, ...] = ()
    detect_stride: int = 4
    detect_long_side: int = 640
    detect_threshold: float = 0.2
    low_threshold: float = 0.1
    sure_threshold: float = 0.5
    verify_rate_hz: float = 4.0
    verify_long_side: int | None = 1280
    verify_threshold: float = 0.6
    cover_share: float = 0.95
    max_rounds: int = 2
    sweep_interval_s: float = 1.0
    margin: float = 0.17
    motion_margin: float = 0.35
    max_gap_s: float = 1.6
    extend_s: float = 0.2
    vanish_s: float = 0.4
    surgical: bool = True
    crf: int = 23
    preset: str = "superfast"
    mosaic_key: bytes | None = field(default=None, repr=False)
    limits: ClipLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        unknown = [c for c in self.classes if c not in CLASS_NAMES]
        if unknown:
            raise ValueError(f"classes hold {unknown}; allowed are the ids of cv_platform.vision.classes")
        if not self.classes and not self.zones:
            raise ValueError("classes and zones are both empty: nothing would be hidden; name at least one")
        for name, kind in (("method", Method), ("audio", Audio)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed are {', '.join(get_args(kind))}")
        for name in ("detect_threshold", "low_threshold", "sure_threshold", "verify_threshold", "cover_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed is above 0, up to 1")
        if self.low_threshold > self.detect_threshold:
            raise ValueError("low_threshold lies above detect_threshold; allowed is at or below it")
        for name in (
            "verify_rate_hz",
            "sweep_interval_s",
            "margin",
            "motion_margin",
            "max_gap_s",
            "extend_s",
            "vanish_s",
        ):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}; allowed is 0 or more")
        if self.detect_stride < 1 or self.detect_long_side < 64 or self.max_rounds < 0:
            raise ValueError("detect_stride must be at least 1, detect_long_side at least 64, max_rounds at least 0")
        for polygon in self.zones:
            if len(polygon) < 3 or not all(0 <= x <= 1 and 0 <= y <= 1 for x, y in polygon):
                raise ValueError("a zone is a polygon of at least 3 points, x and y in 0..1 of the upright picture")
        if self.mosaic_key is not None and len(self.mosaic_key) < 16:
            raise ValueError(f"mosaic_key has {len(self.mosaic_key)} bytes; allowed are 16 or more")

    def describe(self) -> dict[str, Any]:
        """The policy for a certificate: everything but the key, of which only a digest's head is told."""
        values = asdict(self)
        key = values.pop("mosaic_key")
        values["mosaic_key_id"] = hashlib.sha256(b"mosaic-key-id" + key).hexdigest()[:16] if key else None
        values["classes"] = list(self.classes)
        values["zones"] = [[list(point) for point in zone] for zone in self.zones]
        return values


def policy_to_json(policy: AnonymisePolicy) -> dict[str, Any]:
    """All of a policy, the key too, as plain values: for a worker's request, not for a file."""
    values = asdict(policy)
    values["mosaic_key"] = None if policy.mosaic_key is None else policy.mosaic_key.hex()
    return values


def policy_from_json(values: dict[str, Any]) -> AnonymisePolicy:
    """The inverse of `policy_to_json`; ValueError or TypeError where a value is not allowed."""
    values = dict(values)
    values["classes"] = tuple(values["classes"])
    values["zones"] = tuple(tuple((float(x), float(y)) for x, y in zone) for zone in values["zones"])
    values["limits"] = ClipLimits(**values["limits"])
    if values["mosaic_key"] is not None:
        values["mosaic_key"] = bytes.fromhex(values["mosaic_key"])
    return AnonymisePolicy(**values)


def detector_arguments(policy: AnonymisePolicy) -> dict[str, Any]:
    """How the first detector is to be made (see `detectors.build.make_detector`)."""
    return {"score_threshold": policy.low_threshold, "long_side": max(SWEEP_TILE, policy.detect_long_side)}


def verifier_arguments(policy: AnonymisePolicy) -> dict[str, Any]:
    """How the second detector is to be made: what it sees faintly helps to continue tracks."""
    return {
        "score_threshold": min(FAINT, policy.verify_threshold),
        "long_side": policy.verify_long_side or SWEEP_TILE * 4,
    }
