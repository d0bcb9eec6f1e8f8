"""Clips' keys, wrapped, as the ledger holds them; and their destruction.

A key that is destroyed leaves its row: none can be made for that clip again. What wraps a key is in
`governance/keys.py`; nothing here ever sees one in the clear.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

from cv_platform.storage.database import Connection, Database


class KeyDestroyed(Exception):
    """The clip's key is destroyed, or there never was one: what was sealed for it cannot be read, now or later."""


class KeyRetired(Exception):
    """The key-encryption key was retired while this process still used it."""


@dataclass(frozen=True)
class WrappedKey:
    """A clip's key as the ledger holds it.

    Attributes:
        wrapped: encrypted by the key-encryption key.
        kek_id: which one that is.
    """

    wrapped: bytes = field(repr=False)
    kek_id: str


@dataclass(frozen=True)
class KeyCounts:
    """How many clips' keys there are: by key-encryption key, and destroyed."""

    by_kek: dict[str, int]
    destroyed: int


def read_key(connection: Connection, clip_id: uuid.UUID) -> WrappedKey | None:
    """The clip's key; None where none was made yet. Raises KeyDestroyed."""
    row = connection.execute("SELECT wrapped, kek_id FROM cv.clip_keys WHERE clip_id = %s", [clip_id]).fetchone()
    if row is None:
        return None
    if row[0] is None:
        raise KeyDestroyed("the clip's key was destroyed")
    return WrappedKey(row[0], row[1])


def create_key(connection: Connection, clip_id: uuid.UUID, key: WrappedKey) -> WrappedKey:
    """Keep a clip's first key; returns the one that holds, another worker's where that was first.

    Raises:
        KeyDestroyed: the clip had one and it was destroyed.
        KeyRetired: what wraps this one is no longer in use.
    """
    in_use = connection.execute(
        "SELECT 1 FROM cv.key_encryption_keys WHERE kek_id = %s AND retired_at IS NULL FOR SHARE", [key.kek_id]
    ).fetchone()
    if in_use is None:
        raise KeyRetired("the key-encryption key of this process was retired; restart it with the new one")
    connection.execute(
        "INSERT INTO cv.clip_keys (clip_id, wrapped, kek_id) SELECT clip_id, %s, %s FROM cv.clips WHERE clip_id = %s"
        " ON CONFLICT (clip_id) DO NOTHING",
        [key.wrapped, key.kek_id, clip_id],
    )
    held = read_key(connection, clip_id)
    if held is None:
        raise LookupError(f"no clip {clip_id}")
    return held


# A row is made for a clip that has none: a worker that comes late must not make a key for it after all.
_DESTROY = (
    "INSERT INTO cv.clip_keys (clip_id, destroyed_at)"
    " SELECT clip_id, now() FROM cv.clips WHERE {which} ORDER BY clip_id"
    " ON CONFLICT (clip_id) DO UPDATE SET wrapped = NULL, kek_id = NULL, destroyed_at = EXCLUDED.destroyed_at"
    " WHERE clip_keys.wrapped IS NOT NULL"
)


def destroy_keys(connection: Connection, clip_ids: Iterable[uuid.UUID]) -> int:
    """Destroy the keys of clips, in the caller's transaction; returns how many were destroyed by this call.

    From its commit on nobody can open what was sealed for them. The caller has asked for holds. The old rows stay in
    PostgreSQL's pages and log for a while: `governance.keys.scrub_destroyed_keys` overwrites them.
    """
    return connection.execute(_DESTROY.format(which="clip_id = ANY(%s)"), [sorted(set(clip_ids))]).rowcount


def destroy_keys_of_day(connection: Connection, camera_id: str, day: date) -> int:
    """As `destroy_keys`, for all clips that a camera captured on a UTC date."""
    which = "camera_id = %s AND captured_at >= %s::date::timestamp AT TIME ZONE 'UTC'"
    which += " AND captured_at < (%s::date + 1)::timestamp AT TIME ZONE 'UTC'"
    return connection.execute(_DESTROY.format(which=which), [camera_id, day, day]).rowcount


def register_kek(database: Database, kek_id: str) -> set[str]:
    """Say that a key-encryption key is in use; returns the ids of all that are, this one too."""
    with database.transaction() as connection:
        rows = connection.execute("SELECT kek_id FROM cv.key_encryption_keys WHERE retired_at IS NULL").fetchall()
        known = {kek for (kek,) in rows}
        if kek_id not in known:
            connection.execute(
                "INSERT INTO cv.key_encryption_keys (kek_id) VALUES (%s) ON CONFLICT (kek_id)"
                " DO UPDATE SET retired_at = NULL",
                [kek_id],
            )
    return known | {kek_id}


def keks_in_use(database: Database) -> set[str]:
    """The ids of the key-encryption keys that wrap clips' keys."""
    with database.transaction() as connection:
        rows = connection.execute("SELECT kek_id FROM cv.key_encryption_keys WHERE retired_at IS NULL").fetchall()
    return {kek for (kek,) in rows}


def keys_not_under(
    database: Database, kek_id: str, *, after: uuid.UUID | None, limit: int
) -> list[tuple[uuid.UUID, WrappedKey]]:
    """Keys that another key-encryption key wraps, in order of clip, behind the clip `after`."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT clip_id, wrapped, kek_id FROM cv.clip_keys WHERE wrapped IS NOT NULL AND kek_id <> %s"
            " AND (%s::uuid IS NULL OR clip_id > %s) ORDER BY clip_id LIMIT %s",
            [kek_id, after, after, limit],
        ).fetchall()
    return [(clip_id, WrappedKey(wrapped, kek)) for clip_id, wrapped, kek in rows]


def rewrap_keys(database: Database, keys: Iterable[tuple[uuid.UUID, WrappedKey, WrappedKey]]) -> int:
    """Put keys wrapped anew in the place of (clip, old, new); one destroyed meanwhile stays so. Returns how many."""
    with database.transaction() as connection:
        changed = 0
        for clip_id, old, new in keys:
            changed += connection.execute(
                "UPDATE cv.clip_keys SET wrapped = %s, kek_id = %s WHERE clip_id = %s AND wrapped = %s",
                [new.wrapped, new.kek_id, clip_id, old.wrapped],
            ).rowcount
    return changed


def retire_keks(database: Database, *, current: str) -> list[str]:
    """Retire the key-encryption keys other than `current` that wrap nothing any more; returns their ids."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT kek_id FROM cv.key_encryption_keys WHERE retired_at IS NULL AND kek_id <> %s"
            " ORDER BY kek_id FOR UPDATE",
            [current],
        ).fetchall()
        # In a statement of its own: it sees what those whom the lock waited for have written.
        retired = connection.execute(
            "UPDATE cv.key_encryption_keys k SET retired_at = now() WHERE kek_id = ANY(%s)"
            " AND NOT EXISTS (SELECT 1 FROM cv.clip_keys c WHERE c.kek_id = k.kek_id) RETURNING kek_id",
            [[kek for (kek,) in rows]],
        ).fetchall()
    return sorted(kek for (kek,) in retired)


def count_keys(database: Database) -> KeyCounts:
    """Count clips' keys. Reads the whole table."""
    with database.transaction() as connection:
        rows = connection.execute("SELECT kek_id, count(*) FROM cv.clip_keys GROUP BY kek_id").fetchall()
    counts = dict(rows)
    return KeyCounts(by_kek={kek: n for kek, n in counts.items() if kek is not None}, destroyed=counts.get(None, 0))
