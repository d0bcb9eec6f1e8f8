"""How many bytes clips take in each store, by the ledger, and which of them are the oldest that may go."""

from __future__ import annotations

import uuid
from typing import Final, Literal

from cv_platform.storage.database import Database
from cv_platform.storage.ledger.tiers import TIERS, DataClass

StoreName = Literal["restricted", "cold"]

_CLASSES: Final[dict[StoreName, tuple[DataClass, ...]]] = {
    "restricted": ("quarantine", "raw", "frames"),
    "cold": ("cold",),
}


def used_bytes(database: Database, store: StoreName, *, site: str | None = None) -> int:
    """Bytes of clips in a store, held ones too. Parquet and audit log are small beside them and not counted."""
    sums = " + ".join(
        f"(SELECT coalesce(sum({TIERS[name].size}), 0) FROM cv.clips c WHERE {TIERS[name].there}"
        " AND (%(site)s::text IS NULL OR c.site_id = %(site)s))"
        for name in _CLASSES[store]
    )
    with database.transaction() as connection:
        row = connection.execute(f"SELECT ({sums})::bigint", {"site": site}).fetchone()
    return int(row[0]) if row else 0


def count_oldest(database: Database, store: StoreName, *, site: str | None, at_least_bytes: int) -> tuple[int, int]:
    """How many of the oldest that no hold covers make up so many bytes, and their bytes."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM (SELECT bytes, sum(bytes) OVER"
            f" (ORDER BY since, clip_id) - bytes AS older FROM ({_each(store)}) found) counted WHERE older < %(bytes)s",
            {"site": site, "limit": None, "bytes": at_least_bytes},
        ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _each(store: StoreName) -> str:
    """A store's clips by class, the oldest of each first; held ones are left out."""
    return " UNION ALL ".join(
        f"(SELECT '{name}', c.clip_id, {TIERS[name].since} AS since, {TIERS[name].size} AS bytes FROM cv.clips c"
        f" WHERE {TIERS[name].there} AND {TIERS[name].size} > 0 AND (%(site)s::text IS NULL OR c.site_id = %(site)s)"
        f" AND NOT cv.held(c.clip_id) ORDER BY since, c.clip_id LIMIT %(limit)s)"
        for name in _CLASSES[store]
    )


def oldest(
    database: Database, store: StoreName, *, site: str | None, at_least_bytes: int, limit: int
) -> dict[DataClass, list[uuid.UUID]]:
    """The oldest data that no hold covers, as much as makes up so many bytes; at most `limit` clips, by class."""
    with database.transaction() as connection:
        rows = connection.execute(
            f"SELECT * FROM ({_each(store)}) found ORDER BY since, clip_id LIMIT %(limit)s",
            {"site": site, "limit": limit},
        ).fetchall()
    chosen: dict[DataClass, list[uuid.UUID]] = {}
    total = 0
    for name, clip_id, _, size in rows:
        if total >= at_least_bytes:
            break
        chosen.setdefault(name, []).append(clip_id)
        total += size
    return chosen
