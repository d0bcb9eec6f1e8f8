"""What is measured of a deployment: figures of the whole ledger for graphs and alerts, none of which names a camera."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, LiteralString

from cv_platform.storage.database import Database
from cv_platform.storage.ledger.tallies import clip_states_by_site, stage_states_now


@dataclass(frozen=True)
class Measures:
    """One look at everything.

    Attributes:
        clips: by site and state.
        stages: by stage and state.
        lag_s: seconds since the oldest clip that is still in progress was received, by site.
        quarantined: by code.
        ready: stages that a worker could take now, by stage.
        retrying: stages that wait for another attempt, by stage.
        expired_leases: stages whose worker is gone, by stage.
        fps: frames a second of work over the last 15 minutes, by stage.
        bytes_: of the ledger, the warm warehouse, cold Parquet files and the restricted raw clips.
        dirty_days: days whose marts are behind.
        garbage_due: objects that the collector should have deleted.
    """

    clips: dict[tuple[str, str], int] = field(default_factory=dict)
    stages: dict[str, dict[str, int]] = field(default_factory=dict)
    lag_s: dict[str, float] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    ready: dict[str, int] = field(default_factory=dict)
    retrying: dict[str, int] = field(default_factory=dict)
    expired_leases: dict[str, int] = field(default_factory=dict)
    fps: dict[str, float] = field(default_factory=dict)
    bytes_: dict[str, int] = field(default_factory=dict)
    dirty_days: int = 0
    garbage_due: int = 0


_BY_LABEL: dict[str, LiteralString] = {
    "lag_s": "SELECT coalesce(site_id, ''), extract(epoch FROM now() - min(received_at))::float8 FROM cv.clips"
    " WHERE state = 'in_progress' GROUP BY 1",
    "quarantined": "SELECT quarantine_code, count(*) FROM cv.clips WHERE state = 'quarantined' GROUP BY 1",
    "ready": "SELECT stage, count(*) FROM cv.stages WHERE state = 'pending' AND next_attempt_at <= now() GROUP BY 1",
    "retrying": "SELECT stage, count(*) FROM cv.stages WHERE state = 'pending' AND attempts > 0 GROUP BY 1",
    "expired_leases": "SELECT stage, count(*) FROM cv.stages WHERE state = 'running' AND lease_expires_at < now()"
    " GROUP BY 1",
    # Of clips of the last two days: an index on when a stage ended would cost every commit.
    "fps": "SELECT stage, sum((counts->>'frames')::float8) / nullif(sum(seconds), 0) FROM cv.stages"
    " WHERE capture_date >= (now() AT TIME ZONE 'UTC')::date - 1 AND state = 'done' AND counts ? 'frames'"
    " AND finished_at > now() - interval '15 minutes' GROUP BY 1 HAVING sum(seconds) > 0",
    "bytes_": "SELECT 'ledger', sum(pg_total_relation_size(oid))::bigint FROM pg_class"
    " WHERE relnamespace = 'cv'::regnamespace AND relkind = 'r'"
    " UNION ALL SELECT 'warm', sum(pg_total_relation_size(oid))::bigint FROM pg_class"
    " WHERE relnamespace = 'warehouse'::regnamespace AND relkind = 'r'"
    " UNION ALL SELECT 'cold', coalesce(sum(size_bytes), 0)::bigint FROM cv.cold_files"
    " UNION ALL SELECT 'raw', coalesce(sum(size_bytes), 0)::bigint FROM cv.clips WHERE raw_deleted_at IS NULL",
}


def measure(database: Database) -> Measures:
    """Look at everything once; what is done is not looked at, so that it costs what is open."""
    found: dict[str, Any] = {"clips": clip_states_by_site(database), "stages": stage_states_now(database)}
    with database.transaction() as connection:
        for name, query in _BY_LABEL.items():
            found[name] = dict(connection.execute(query).fetchall())
        row = connection.execute(
            "SELECT (SELECT count(*) FROM cv.mart_days WHERE dirty_seq > built_seq),"
            " (SELECT count(*) FROM cv.garbage WHERE not_before < now() - interval '1 day')"
        ).fetchone()
    if row is not None:
        found["dirty_days"], found["garbage_due"] = row
    return Measures(**found)
