"""What stores tell of objects."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class ObjectInfo:
    """What a store says of one object."""

    key: str
    size_bytes: int
    etag: str
    modified_at: datetime


@dataclass(frozen=True)
class Purged:
    """What was deleted for good.

    Attributes:
        objects: keys that held something.
        versions: versions of them that are gone.
        locked: versions that Object Lock keeps for now.
    """

    objects: int = 0
    versions: int = 0
    locked: int = 0

    def __add__(self, other: Purged) -> Purged:
        return Purged(self.objects + other.objects, self.versions + other.versions, self.locked + other.locked)


def etag_of(value: object) -> str:
    """An etag without the quotes that some stores put around it; empty where there is none."""
    return str(value or "").strip('"')
