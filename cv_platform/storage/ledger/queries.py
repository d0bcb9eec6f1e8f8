"""What people and checks ask of the ledger."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from cv_platform.storage.database import Database
from cv_platform.storage.ledger.model import CLIP_STATES, Scope


@dataclass(frozen=True)
class Balance:
    """Every clip that was received is in exactly one state."""

    received: int
    states: dict[str, int]

    @property
    def balances(self) -> bool:
        """Whether the states add up to what was received."""
        return self.received == sum(self.states.values())


@dataclass(frozen=True)
class QuarantinedClip:
    """A clip that could not be processed, and why. Holds no key and no capture time."""

    clip_id: uuid.UUID
    site_id: str | None
    stage: str
    code: str
    reason: str
    quarantined_at: datetime


def balance(database: Database, *, day: date | None = None) -> Balance:
    """Clips received and clips by state, of one day or of all, counted one by one at one moment.

    Of all it takes as long as there are clips: `tallies.balance_now` answers at once.

    Received is counted as distinct (key, content) seen, states by the stages' rows where there are any: a clip whose
    stages say it is done and whose state says otherwise does not balance.
    """
    with database.transaction() as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        received = connection.execute(
            "SELECT count(*) FROM cv.clips WHERE (%(day)s::date IS NULL OR capture_date = %(day)s)", {"day": day}
        ).fetchone()
        rows = connection.execute(
            """
            SELECT c.state, count(*) FROM cv.clips c
            WHERE (%(day)s::date IS NULL OR c.capture_date = %(day)s) AND CASE c.state
                WHEN 'published' THEN c.published_sha256 IS NOT NULL
                WHEN 'in_progress' THEN EXISTS (SELECT 1 FROM cv.stages s WHERE s.clip_id = c.clip_id
                                                AND s.state IN ('pending', 'running', 'blocked'))
                WHEN 'quarantined' THEN NOT EXISTS (SELECT 1 FROM cv.stages s WHERE s.clip_id = c.clip_id
                                                    AND s.state IN ('pending', 'running', 'blocked'))
                ELSE NOT EXISTS (SELECT 1 FROM cv.stages s WHERE s.clip_id = c.clip_id AND s.state = 'running')
            END GROUP BY c.state
            """,
            {"day": day},
        ).fetchall()
    states = dict.fromkeys(CLIP_STATES, 0) | dict(rows)
    return Balance(received=received[0] if received else 0, states=states)


def clip_states(database: Database, scope: Scope = Scope()) -> dict[str, int]:  # noqa: B008  # frozen
    """Clips by state in a scope."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT state, count(*) FROM cv.clips WHERE (%(day)s::date IS NULL OR capture_date = %(day)s)"
            " AND (%(sites)s::text[] = '{}' OR site_id = ANY(%(sites)s)) GROUP BY state",
            {"day": scope.capture_date, "sites": list(scope.sites)},
        ).fetchall()
    return dict.fromkeys(CLIP_STATES, 0) | dict(rows)


def stage_states(database: Database, scope: Scope = Scope()) -> dict[str, dict[str, int]]:  # noqa: B008  # frozen
    """Clips by stage and the stage's state in a scope."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT stage, state, count(*) FROM cv.stages WHERE (%(day)s::date IS NULL OR capture_date = %(day)s)"
            " AND (%(sites)s::text[] = '{}' OR site_id = ANY(%(sites)s)) GROUP BY stage, state",
            {"day": scope.capture_date, "sites": list(scope.sites)},
        ).fetchall()
    found: dict[str, dict[str, int]] = {}
    for stage, state, count in rows:
        found.setdefault(stage, {})[state] = count
    return found


def pending_by_site(database: Database, day: date | None = None) -> dict[str, int]:
    """Clips still in progress, or with a stage that waits, by site: a green day does not mean complete."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT site_id, count(DISTINCT clip_id) FROM cv.stages WHERE state IN ('pending', 'running', 'blocked')"
            " AND (%(day)s::date IS NULL OR capture_date = %(day)s) GROUP BY site_id ORDER BY site_id",
            {"day": day},
        ).fetchall()
    return dict(rows)


def quarantined(
    database: Database, *, day: date | None = None, site: str | None = None, limit: int = 1000
) -> list[QuarantinedClip]:
    """Quarantined clips, newest first."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT clip_id, site_id, quarantine_stage, quarantine_code, quarantine_reason, quarantined_at"
            " FROM cv.clips"
            " WHERE state = 'quarantined' AND (%(day)s::date IS NULL OR capture_date = %(day)s)"
            " AND (%(site)s::text IS NULL OR site_id = %(site)s) ORDER BY quarantined_at DESC, clip_id LIMIT %(limit)s",
            {"day": day, "site": site, "limit": limit},
        ).fetchall()
    return [QuarantinedClip(*row) for row in rows]


def seconds_by_stage(database: Database) -> dict[str, tuple[int, float]]:
    """For each stage: clips done and the seconds that they took together."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT stage, count(*), coalesce(sum(seconds), 0) FROM cv.stages WHERE state = 'done' GROUP BY stage"
        ).fetchall()
    return {stage: (count, seconds) for stage, count, seconds in rows}


def warehouse_counts(database: Database) -> dict[str, int]:
    """What the warm warehouse holds: frames looked at, detections, distinct tracks, events."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT (SELECT coalesce(sum(frames), 0) FROM warehouse.clip_facts),"
            " (SELECT count(*) FROM warehouse.detections),"
            " (SELECT count(*) FROM (SELECT DISTINCT camera_id, track_day, track_id FROM warehouse.tracks) t),"
            " (SELECT count(*) FROM warehouse.events)"
        ).fetchone()
    return dict(zip(("frames", "detections", "tracks", "events"), row or (0, 0, 0, 0), strict=True))


def stage_counts(database: Database, stage: str, scope: Scope) -> list[dict[str, Any]]:
    """The counts that a stage kept for each clip of a scope, with its seconds; no ids."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT counts, seconds FROM cv.stages WHERE stage = %(stage)s AND state = 'done'"
            " AND (%(day)s::date IS NULL OR capture_date = %(day)s)"
            " AND (%(sites)s::text[] = '{}' OR site_id = ANY(%(sites)s)) ORDER BY captured_at, clip_id",
            {"stage": stage, "day": scope.capture_date, "sites": list(scope.sites)},
        ).fetchall()
    return [{**counts, "seconds": seconds} for counts, seconds in rows]
