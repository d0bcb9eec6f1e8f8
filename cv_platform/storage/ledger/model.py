"""What the ledger's rows are, and the graph of stages."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

RAW_CLIPS: Final = "raw_clips"
DECODED_FRAMES: Final = "decoded_frames"
DETECTIONS: Final = "detections"
TRACKS: Final = "tracks"
BLURRED_CLIPS: Final = "blurred_clips"

# Each stage with the stages that it reads.
UPSTREAM: Final[dict[str, tuple[str, ...]]] = {
    RAW_CLIPS: (),
    DECODED_FRAMES: (RAW_CLIPS,),
    DETECTIONS: (DECODED_FRAMES,),
    TRACKS: (DETECTIONS,),
    BLURRED_CLIPS: (RAW_CLIPS,),
}
STAGES: Final[tuple[str, ...]] = tuple(UPSTREAM)
CLIP_STATES: Final = ("in_progress", "published", "quarantined", "superseded", "expired", "erased")

STILL_RUNNING: Final = "(state || '') = 'running'"
"""Of a stage's row that is found by its key.

Written as `state = 'running'`, PostgreSQL takes the index of what is running, which was nearly empty when statistics
were last gathered (a large ledger's are days old), and reads all of it for one row: slower for each clip in hand.
"""

_CLIP_NAMESPACE: Final = uuid.UUID("5b1f8f2e-3f3c-5d0e-9a53-0f6d5a4b7c11")


def downstream(stage: str) -> tuple[str, ...]:
    """Every stage that reads `stage`, directly or not, in the graph's order."""
    found: list[str] = []
    for candidate in STAGES:
        if any(parent == stage or parent in found for parent in UPSTREAM[candidate]):
            found.append(candidate)
    return tuple(found)


def clip_id_for(upload_key: str, generation: int) -> uuid.UUID:
    """The id of the `generation`-th content seen under a key (0 the first): the same in every deployment."""
    return uuid.uuid5(_CLIP_NAMESPACE, f"{upload_key}#{generation}")


def published_key_for(clip_id: uuid.UUID) -> str:
    """The stable key of the published clip: derived from the clip's id alone, never from a raw key."""
    return f"blurred/{clip_id.hex[:2]}/{clip_id}.mp4"


class StaleClaim(Exception):
    """The claim is no longer this worker's: its lease ran out, or its input changed. What it did must not be kept."""


class ScopeBusy(Exception):
    """Another worker holds it."""


@dataclass(frozen=True)
class Scope:
    """What a run may work on. Empty tuples mean all."""

    capture_date: date | None = None
    sites: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clip:
    """A clip as far as a stage must know it."""

    clip_id: uuid.UUID
    site_id: str
    camera_id: str
    capture_date: date
    captured_at: datetime
    upload_key: str
    published_key: str
    size_bytes: int
    duration_s: float | None
    facts: dict[str, Any] | None
    content_sha256: str | None


@dataclass(frozen=True)
class Claim:
    """A lease on one clip at one stage. The three numbers fence its commit."""

    clip: Clip
    stage: str
    version: str
    fence: int
    input_generation: int
    attempts: int
    """Times that work on it was begun; this one is among them once `claims.begin` has counted it."""
    inputs: dict[str, tuple[str | None, str | None]]
    """Object key, and sha256 in the clear, of each upstream stage's output; of the first stage's own."""

    def object_key(self, folder: str, suffix: str) -> str:
        """A key that only this claim writes to: clip, stage, version and fence are in it."""
        return f"{folder}/{self.clip.clip_id}/{self.stage}.{self.version}.{self.fence}{suffix}"
