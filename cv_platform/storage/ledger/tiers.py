"""What each tier holds and since when: what retention counts before it deletes, and what it then deletes."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from cv_platform.storage.database import Connection, Database

DataClass = Literal["raw", "frames", "quarantine", "warm", "cold"]

_NOTHING_WAITS = (
    "c.state = 'published' AND NOT c.copy_due AND NOT EXISTS (SELECT 1 FROM cv.stages s WHERE s.clip_id = c.clip_id"
    " AND s.stage = ANY(ARRAY[{stages}]) AND s.state IN ('blocked', 'pending', 'running'))"
)


@dataclass(frozen=True)
class Tier:
    """One class of data, as SQL over `cv.clips c`.

    Attributes:
        there: that the clip has such data.
        old: that its term has passed.
        since: from when the term counts; the oldest go first.
        size: bytes, as far as they are known.
        early: that it may go before its term, where passers-by are filmed.
    """

    there: str
    old: str
    since: str
    size: str
    early: str = "false"


_FRAMES = (
    "FROM cv.stages s WHERE s.clip_id = c.clip_id AND s.stage = 'decoded_frames' AND s.output_key IS NOT NULL"
    " AND s.output_deleted_at IS NULL"
)
_BLURRED = "FROM cv.stages s WHERE s.clip_id = c.clip_id AND s.stage = 'blurred_clips'"

# Raw clips count from when they were received, so that footage which comes late is processed too; frames from when they
# were made. What is kept for years counts from the time of capture.
TIERS: Final[dict[DataClass, Tier]] = {
    "raw": Tier(
        there="c.raw_deleted_at IS NULL AND c.state NOT IN ('quarantined', 'erased')",
        old="c.received_at < now() - %(term)s",
        since="c.received_at",
        size="c.size_bytes",
        early=_NOTHING_WAITS.format(stages="'raw_clips', 'decoded_frames', 'blurred_clips'"),
    ),
    "frames": Tier(
        there=f"EXISTS (SELECT 1 {_FRAMES})",
        old=f"EXISTS (SELECT 1 {_FRAMES} AND s.finished_at < now() - %(term)s)",
        since=f"(SELECT s.finished_at {_FRAMES})",
        size=f"(SELECT (s.counts ->> 'bytes')::bigint {_FRAMES})",
        early=_NOTHING_WAITS.format(stages="'decoded_frames', 'detections'"),
    ),
    "quarantine": Tier(
        there="c.state = 'quarantined'",
        old="c.quarantined_at < now() - %(term)s",
        since="c.quarantined_at",
        size="CASE WHEN c.raw_deleted_at IS NULL THEN c.size_bytes ELSE 0 END",
    ),
    "warm": Tier(
        there="EXISTS (SELECT 1 FROM warehouse.clip_facts f WHERE f.clip_id = c.clip_id) AND NOT EXISTS (SELECT 1 FROM"
        " cv.cold_files d WHERE d.camera_id = c.camera_id AND d.day = c.capture_date AND d.state <> 'exported')",
        # Rows leave a whole day at a time.
        old="c.capture_date < ((now() - %(term)s) AT TIME ZONE 'UTC')::date",
        since="c.captured_at",
        size="0",
    ),
    "cold": Tier(
        there="c.state = 'published'",
        # The date is what there is an index on.
        old="c.captured_at < now() - %(term)s AND c.capture_date <= (now() - %(term)s)::date",
        since="c.captured_at",
        size=f"(SELECT (s.counts ->> 'bytes')::bigint {_BLURRED})",
    ),
}


@dataclass(frozen=True)
class Places:
    """The clips of a site, of one camera, or of all; without those of places that have rules of their own.

    Attributes:
        without: `site` or `site/camera`.
    """

    site: str | None = None
    camera: str | None = None
    without: tuple[str, ...] = ()

    SQL = (
        "(%(site)s::text IS NULL OR c.site_id = %(site)s) AND (%(camera)s::text IS NULL OR c.camera_id = %(camera)s)"
        " AND coalesce(c.site_id, '') <> ALL(%(without)s::text[])"
        " AND coalesce(c.site_id || '/' || c.camera_id, '') <> ALL(%(without)s::text[])"
    )

    def values(self) -> dict[str, Any]:
        """What `SQL` asks for."""
        return {"site": self.site, "camera": self.camera, "without": list(self.without)}


EVERYWHERE: Final = Places()


def count_older(
    database: Database,
    data_class: DataClass,
    *,
    older_than: timedelta,
    places: Places = EVERYWHERE,
    early: bool = False,
) -> tuple[int, int]:
    """Clips, and bytes as far as they are known, whose data of a class is older than a term and not held.

    Args:
        early: count also what may go before its term.
    """
    tier = TIERS[data_class]
    with database.transaction() as connection:
        row = connection.execute(
            f"SELECT count(*), coalesce(sum({tier.size}), 0)::bigint FROM cv.clips c"
            f" WHERE {_due(tier, early)} AND {Places.SQL} AND NOT cv.held(c.clip_id)",
            {"term": older_than, **places.values()},
        ).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def lock_older(
    connection: Connection,
    data_class: DataClass,
    *,
    older_than: timedelta,
    places: Places,
    early: bool,
    limit: int,
) -> list[uuid.UUID]:
    """Lock the oldest clips that `count_older` counts; those that no hold covers now."""
    tier = TIERS[data_class]
    values = {"term": older_than, **places.values()}
    found = connection.execute(
        f"SELECT c.clip_id FROM cv.clips c WHERE {_due(tier, early)} AND {Places.SQL} AND NOT cv.held(c.clip_id)"
        f" ORDER BY {tier.since}, c.clip_id LIMIT %(limit)s",
        {**values, "limit": limit},
    ).fetchall()
    return lock_free(connection, [clip_id for (clip_id,) in found], f"{_due(tier, early)}", values)


def lock_free(
    connection: Connection, clip_ids: Sequence[uuid.UUID], still: str = "true", values: dict[str, Any] | None = None
) -> list[uuid.UUID]:
    """Lock clips in order; those for which `still` holds and that no hold covers, asked once they are locked."""
    ids = list(clip_ids)
    connection.execute("SELECT 1 FROM cv.clips WHERE clip_id = ANY(%s) ORDER BY clip_id FOR NO KEY UPDATE", [ids])
    rows = connection.execute(
        f"SELECT c.clip_id FROM cv.clips c WHERE c.clip_id = ANY(%(ids)s) AND {still} AND NOT cv.held(c.clip_id)"
        " ORDER BY c.clip_id",
        {**(values or {}), "ids": ids},
    ).fetchall()
    return [clip_id for (clip_id,) in rows]


def _due(tier: Tier, early: bool) -> str:
    return f"{tier.there} AND ({tier.old} OR ({tier.early}))" if early else f"{tier.there} AND {tier.old}"
