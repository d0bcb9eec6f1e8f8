"""What was erased and must not come back: known by digests and intervals only."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from cv_platform.storage.database import Connection

TombstoneKind = Literal["key", "content", "place"]
_INTERVAL: Final = "SELECT cv.interval_erased(%s, %s, %s, %s)"


@dataclass(frozen=True)
class Tombstone:
    """One thing that must not come back.

    Attributes:
        kind: key (an upload key), content (a clip's bytes) or place (a camera or a site, with an interval).
        digest: sha256, hex, of the key, of the bytes, or of `camera:ID` or `site:ID`.
        starts_at, ends_at: of a place only; `ends_at` is exclusive.
    """

    kind: TombstoneKind
    digest: str
    starts_at: datetime | None = None
    ends_at: datetime | None = None


def digest_of(word: str) -> str:
    """The digest under which a tombstone keeps a word: an upload key, `camera:ID`, `site:ID`."""
    return hashlib.sha256(word.encode("utf-8", "surrogateescape")).hexdigest()


def bury(connection: Connection, request_id: uuid.UUID, stones: Iterable[Tombstone]) -> None:
    """Set tombstones; those that stand already are left alone."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO cv.tombstones (request_id, kind, digest, starts_at, ends_at) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [(request_id, stone.kind, stone.digest, stone.starts_at, stone.ends_at) for stone in stones],
        )


def erased_uploads(
    connection: Connection, uploads: Sequence[tuple[str, str | None, str | None, datetime | None]]
) -> set[str]:
    """Keys of those uploads (key, site, camera, time of capture) that were erased, or whose interval was."""
    if not uploads or not any_tombstone(connection):
        return set()
    keys, sites, cameras, times = zip(*uploads, strict=True)
    rows = connection.execute(
        "SELECT u.key FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[])"
        " AS u (key, digest, site, camera, at) WHERE EXISTS (SELECT 1 FROM cv.tombstones t"
        " WHERE t.kind = 'key' AND t.digest = u.digest) OR cv.interval_erased(u.site, u.camera, u.at, u.at)",
        [list(keys), [digest_of(key) for key in keys], list(sites), list(cameras), list(times)],
    ).fetchall()
    return {key for (key,) in rows}


def any_tombstone(connection: Connection) -> bool:
    """Whether anything was ever erased: where not, nobody need ask what was."""
    row = connection.execute("SELECT EXISTS (SELECT 1 FROM cv.tombstones)").fetchone()
    return bool(row and row[0])


def is_erased_content(connection: Connection, sha256: str) -> bool:
    """Whether these bytes are a clip that was erased, whatever key they come under."""
    row = connection.execute(
        "SELECT 1 FROM cv.tombstones WHERE kind = 'content' AND digest = %s LIMIT 1", [sha256]
    ).fetchone()
    return row is not None


def is_erased_interval(
    connection: Connection, site_id: str | None, camera_id: str | None, first: datetime, last: datetime
) -> bool:
    """Whether any footage of the camera between two moments was erased."""
    row = connection.execute(_INTERVAL, [site_id, camera_id, first, last]).fetchone()
    return bool(row and row[0])
