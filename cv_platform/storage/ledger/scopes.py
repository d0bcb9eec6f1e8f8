"""What there is to do, by day and site: what the sensor asks runs for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta

from cv_platform.storage.database import Database
from cv_platform.storage.ledger.model import Scope


@dataclass(frozen=True)
class PendingScope:
    """Clips of one UTC day at one site that a run could work on now."""

    capture_date: date
    site_id: str
    open_stages: int


def pending_scopes(
    database: Database,
    *,
    min_interval_s: float,
    busy: Collection[tuple[date, str]] = (),
    busy_days: Collection[date] = (),
    first: date = date.min,
    last: date = date.max,
    limit: int = 20,
) -> list[PendingScope]:
    """Scopes with work that may be claimed now and for which no run was asked in the last `min_interval_s` seconds.

    Args:
        busy: scopes that have a queued or active run.
        busy_days: days that have one for all sites.
        first, last: no day before or after these.
        limit: most scopes returned; those that waited longest come first.
    """
    with database.transaction() as connection:
        rows = connection.execute(
            """
            WITH open AS (
                SELECT capture_date, site_id, count(*) AS n FROM cv.stages
                WHERE state = 'pending' AND stage <> 'tracks' AND next_attempt_at <= now() GROUP BY 1, 2
              UNION ALL
                SELECT capture_date, site_id, count(*) FROM cv.stages
                WHERE state = 'running' AND stage <> 'tracks' AND lease_expires_at < now() GROUP BY 1, 2
              UNION ALL
                SELECT first.capture_date, h.site_id, 1
                FROM (
                    SELECT DISTINCT camera_id FROM cv.stages
                    WHERE stage = 'tracks' AND state = 'pending' AND next_attempt_at <= now()
                ) ready JOIN cv.camera_heads h USING (camera_id) CROSS JOIN LATERAL (
                    SELECT s.capture_date, s.state, s.next_attempt_at FROM cv.stages s
                    WHERE s.stage = 'tracks' AND s.state IN ('blocked', 'pending')
                      AND s.site_id = h.site_id AND s.camera_id = h.camera_id
                    ORDER BY s.captured_at, s.clip_id LIMIT 1
                ) first
                WHERE first.state = 'pending' AND first.next_attempt_at <= now()
                  AND (h.state = 'idle' OR h.lease_expires_at < now())
              UNION ALL
                SELECT capture_date, site_id, 1 FROM cv.clips
                WHERE copy_due
            )
            SELECT o.capture_date, o.site_id, sum(o.n)::bigint FROM open o
            LEFT JOIN cv.run_requests r USING (capture_date, site_id)
            WHERE (r.requested_at IS NULL OR r.requested_at <= now() - %(interval)s)
              AND o.capture_date BETWEEN %(first)s AND %(last)s AND NOT o.capture_date = ANY(%(busy_days)s::date[])
            GROUP BY o.capture_date, o.site_id
            ORDER BY min(coalesce(r.requested_at, '-infinity')), o.capture_date, o.site_id
            LIMIT %(limit)s
            """,
            {
                "interval": timedelta(seconds=min_interval_s),
                "first": first,
                "last": last,
                "busy_days": list(busy_days),
                "limit": limit + len(busy),
            },
        ).fetchall()
    held = set(busy)
    return [PendingScope(*row) for row in rows if (row[0], row[1]) not in held][:limit]


def note_requests(database: Database, scopes: Collection[PendingScope]) -> None:
    """Remember that runs were asked for."""
    with database.transaction() as connection:
        for scope in sorted(scopes, key=lambda scope: (scope.capture_date, scope.site_id)):
            connection.execute(
                "INSERT INTO cv.run_requests (capture_date, site_id, requested_at) VALUES (%s, %s, now())"
                " ON CONFLICT (capture_date, site_id) DO UPDATE SET requested_at = now()",
                [scope.capture_date, scope.site_id],
            )


def anything_open(database: Database, stage: str, scope: Scope) -> bool:
    """Whether a claim at the stage could find anything in the scope now."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT "
            + " OR ".join(
                f"EXISTS (SELECT 1 FROM cv.stages WHERE stage = %(stage)s AND state = '{state}'"
                " AND (%(day)s::date IS NULL OR capture_date = %(day)s)"
                " AND (%(sites)s::text[] = '{}' OR site_id = ANY(%(sites)s))"
                " AND (%(cameras)s::text[] = '{}' OR camera_id = ANY(%(cameras)s)))"
                for state in ("pending", "running")
            ),
            {
                "stage": stage,
                "day": scope.capture_date,
                "sites": list(scope.sites),
                "cameras": list(scope.cameras),
            },
        ).fetchone()
    return bool(row and row[0])
