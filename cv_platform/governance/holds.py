"""Legal holds: while one covers it, nothing of a clip is deleted, by anything.

The rule itself is SQL (`cv.held`, `cv.interval_held`), so that every deletion asks it in its own transaction; here
holds are placed, released and shown.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from cv_platform.governance.audit import append
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.held import covered_states, freeze_held

FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class HoldScope:
    """What a hold covers. At least one of site, camera and clip; the interval bounds the time of capture."""

    site_id: str | None = None
    camera_id: str | None = None
    clip_id: uuid.UUID | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def __post_init__(self) -> None:
        if self.site_id is None and self.camera_id is None and self.clip_id is None:
            raise ValueError("a hold needs a site, a camera or a clip; an interval alone would hold everything")
        for name in ("starts_at", "ends_at"):
            value = getattr(self, name)
            if value is not None and value.tzinfo is None:
                raise ValueError(f"{name} has no time zone; give one, such as 2026-03-01T08:00:00+01:00")
        if self.starts_at is not None and self.ends_at is not None and self.starts_at >= self.ends_at:
            raise ValueError("starts_at lies at or behind ends_at; allowed is an interval with some time in it")


@dataclass(frozen=True)
class Hold:
    """A hold as the ledger has it."""

    hold_id: uuid.UUID
    scope: HoldScope
    reason: str
    placed_by: str
    placed_at: datetime
    until: datetime | None
    released_at: datetime | None

    def in_force(self, now: datetime | None = None) -> bool:
        """Whether it holds anything now."""
        return self.released_at is None and (self.until is None or self.until > (now or datetime.now(UTC)))


def place_hold(
    database: Database, scope: HoldScope, *, reason: str, by: str, until: datetime | None = None
) -> tuple[uuid.UUID, int]:
    """Place a hold; from its commit on nothing that it covers is deleted.

    Args:
        reason: why, such as a case number; must say something.
        by: who places it.
        until: when it ends by itself; None: when it is released.

    Returns:
        The hold's id and how many clips it covers now. Clips that come later are covered too.

    Raises:
        ValueError: reason or by is empty, or until lies in the past.
    """
    if not reason.strip() or not by.strip():
        raise ValueError("a hold needs a reason and the name of who places it")
    if until is not None and until <= datetime.now(UTC):
        raise ValueError(f"until is {until.isoformat()}, which has passed; a hold must hold something")
    hold_id = uuid.uuid4()

    def work(connection: Connection) -> int:
        connection.execute(
            "INSERT INTO cv.holds (hold_id, site_id, camera_id, clip_id, starts_at, ends_at, reason, placed_by, until)"
            " VALUES (%s, %s, %s, %s, coalesce(%s, '-infinity'::timestamptz), coalesce(%s, 'infinity'::timestamptz),"
            " %s, %s, coalesce(%s, 'infinity'::timestamptz))",
            [
                hold_id,
                scope.site_id,
                scope.camera_id,
                scope.clip_id,
                scope.starts_at,
                scope.ends_at,
                reason,
                by,
                until,
            ],
        )
        covered = freeze_held(connection, hold_id)
        append(connection, actor=by, action="hold.placed", details={"hold": hold_id, "clips": covered})
        return covered

    return hold_id, database.transact(work)


def release_hold(database: Database, hold_id: uuid.UUID, *, by: str) -> bool:
    """Release a hold; False where there is none in force of that id. Other holds on the same clips stay.

    What the hold put off is done by the next run of `expire`.
    """
    if not by.strip():
        raise ValueError("a release needs the name of who releases")
    with database.transaction() as connection:
        row = connection.execute(
            "UPDATE cv.holds SET released_at = now(), released_by = %s WHERE hold_id = %s AND released_at IS NULL"
            " RETURNING 1",
            [by, hold_id],
        ).fetchone()
        if row is not None:
            append(connection, actor=by, action="hold.released", details={"hold": hold_id})
    return row is not None


def list_holds(database: Database, *, all_: bool = False) -> list[Hold]:
    """Holds in force, or, with `all_`, every hold there was; newest first."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT hold_id, site_id, camera_id, clip_id, nullif(starts_at, '-infinity'), nullif(ends_at, 'infinity'),"
            " reason, placed_by, placed_at, nullif(until, 'infinity'), released_at FROM cv.holds"
            " WHERE %s OR (released_at IS NULL AND until > now()) ORDER BY placed_at DESC, hold_id",
            [all_],
        ).fetchall()
    return [
        Hold(row[0], HoldScope(row[1], row[2], row[3], row[4], row[5]), row[6], row[7], row[8], row[9], row[10])
        for row in rows
    ]


def covered_clips(database: Database, hold_id: uuid.UUID) -> dict[str, int]:
    """Clips that a hold covers, or covered, by their state now."""
    with database.transaction() as connection:
        return covered_states(connection, hold_id)
