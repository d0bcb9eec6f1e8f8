"""What must be held, by the holds and clips of a test itself: sets and intervals, not a word of the product's SQL."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta


@dataclass
class PlacedHold:
    """A hold as it was asked for.

    Attributes:
        starts_at, ends_at: of the time of capture; the end is outside.
        days_left: until it ends by itself.
    """

    hold_id: uuid.UUID
    site: str | None = None
    camera: str | None = None
    clip: uuid.UUID | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    days_left: float | None = None
    released: bool = False

    @property
    def in_force(self) -> bool:
        return not self.released and (self.days_left is None or self.days_left > 0)


@dataclass
class FilmedClip:
    """A clip as it was uploaded; `lasts` is known once somebody has looked into it."""

    clip_id: uuid.UUID
    site: str
    camera: str
    begins_at: datetime
    lasts: timedelta = timedelta()


@dataclass
class HoldOracle:
    """Every hold that was placed, every clip that was seen."""

    holds: list[PlacedHold] = field(default_factory=list)
    clips: dict[uuid.UUID, FilmedClip] = field(default_factory=dict)

    def in_force(self) -> list[PlacedHold]:
        return [hold for hold in self.holds if hold.in_force]

    def held(self) -> set[uuid.UUID]:
        """Clips that a hold in force covers."""
        return {clip.clip_id for clip in self.clips.values() for hold in self.in_force() if self.covers(hold, clip)}

    def pass_days(self, days: float) -> None:
        """Time passes for holds that end by themselves."""
        for hold in self.holds:
            if hold.days_left is not None:
                hold.days_left -= days

    @staticmethod
    def covers(hold: PlacedHold, clip: FilmedClip) -> bool:
        """Whether a hold is about a clip, in force or not."""
        named = (hold.site, clip.site), (hold.camera, clip.camera), (hold.clip, clip.clip_id)
        if any(wanted is not None and wanted != found for wanted, found in named):
            return False
        if hold.starts_at is not None and clip.begins_at + clip.lasts < hold.starts_at:
            return False
        return hold.ends_at is None or clip.begins_at < hold.ends_at
