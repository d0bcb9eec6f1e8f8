"""Which version of each stage the deployment runs, and what a new one means for work that is done."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.days import mark_dirty
from cv_platform.storage.ledger.model import STAGES, UPSTREAM, downstream


def adopt_versions(database: Database, versions: Mapping[str, str]) -> dict[str, int]:
    """Make these the deployment's versions; returns how many clips start again at each stage that changed.

    Clips done at another version start again where their inputs still exist; the others, and held clips, are frozen:
    they keep what they have. Workers that run at an old version can no longer commit, nor those that read what is now
    made anew. Costs one small read where nothing changed.
    """

    def work(connection: Connection) -> dict[str, int]:
        current: dict[str, str] = dict(connection.execute("SELECT stage, version FROM cv.stage_versions").fetchall())
        if all(current.get(stage) == version for stage, version in versions.items()):
            return {}
        connection.execute("LOCK TABLE cv.stage_versions IN SHARE ROW EXCLUSIVE MODE")
        current = dict(connection.execute("SELECT stage, version FROM cv.stage_versions").fetchall())
        changed = {stage: version for stage, version in versions.items() if current.get(stage) != version}
        # Heads, stages, days: everyone locks in this order.
        connection.execute("SELECT 1 FROM cv.camera_heads ORDER BY camera_id FOR UPDATE")
        restarted = {}
        days: set[date] = set()
        for stage in [stage for stage in STAGES if stage in changed]:
            restarted[stage], touched = _restart(connection, stage, changed[stage])
            days |= touched
        mark_dirty(connection, days)
        for stage, version in changed.items():
            connection.execute(
                "INSERT INTO cv.stage_versions (stage, version) VALUES (%s, %s) ON CONFLICT (stage)"
                " DO UPDATE SET version = EXCLUDED.version, adopted_at = now()",
                [stage, version],
            )
        return restarted

    return database.transact(work)


# What must still be there for a stage to run again.
_INPUT_EXISTS = {
    (): "c.raw_deleted_at IS NULL",
    ("raw_clips",): "c.raw_deleted_at IS NULL",
    ("decoded_frames",): "EXISTS (SELECT 1 FROM cv.stages u WHERE u.clip_id = s.clip_id"
    " AND u.stage = 'decoded_frames' AND u.output_deleted_at IS NULL)",
    ("detections",): "EXISTS (SELECT 1 FROM cv.stages u WHERE u.clip_id = s.clip_id"
    " AND u.stage = 'detections' AND u.output_deleted_at IS NULL)",
}

# A hold keeps what the stage made. A hold that is placed at this very moment is met again when the work is committed.
_KEPT = (
    "EXISTS (SELECT 1 FROM cv.holds WHERE released_at IS NULL) AND s.finished_at IS NOT NULL"
    " AND s.output_deleted_at IS NULL AND cv.held(s.clip_id)"
)


def _restart(connection: Connection, stage: str, version: str) -> tuple[int, set[date]]:
    """Send the stage's clips back to it; returns how many, and their days."""
    # A version that comes back finds its own work as it left it.
    connection.execute(
        "UPDATE cv.stages SET state = 'done' WHERE stage = %s AND state = 'frozen' AND version = %s", [stage, version]
    )
    rows = connection.execute(
        "UPDATE cv.stages s SET state = CASE WHEN NOT (" + _INPUT_EXISTS[UPSTREAM[stage]] + ")"
        " OR (" + _KEPT + ") THEN 'frozen'"
        " WHEN EXISTS (SELECT 1 FROM cv.stages u WHERE u.clip_id = s.clip_id AND u.stage = ANY(%(upstream)s)"
        " AND u.state NOT IN ('done', 'frozen')) THEN 'blocked' ELSE 'pending' END,"
        " fence = s.fence + 1, input_generation = s.input_generation + 1, attempts = 0,"
        " next_attempt_at = '-infinity', lease_expires_at = NULL, redo_after_hold = s.redo_after_hold OR ("
        + _KEPT
        + ")"
        " FROM cv.clips c WHERE c.clip_id = s.clip_id AND s.stage = %(stage)s"
        " AND s.state IN ('done', 'running', 'frozen') AND s.version IS DISTINCT FROM %(version)s"
        " RETURNING s.clip_id, s.capture_date, s.state",
        {"stage": stage, "version": version, "upstream": list(UPSTREAM[stage])},
    ).fetchall()
    again = [clip_id for clip_id, _, state in rows if state != "frozen"]
    # Whoever works on what the stage made before must not commit: it is made anew. What is done stays until then.
    connection.execute(
        "UPDATE cv.stages SET state = 'blocked', fence = fence + 1, input_generation = input_generation + 1,"
        " lease_expires_at = NULL WHERE clip_id = ANY(%s) AND stage = ANY(%s) AND state IN ('pending', 'running')",
        [again, list(downstream(stage))],
    )
    if stage == "tracks":
        connection.execute(
            "UPDATE cv.camera_heads SET fence = fence + 1, state = 'idle', lease_expires_at = NULL"
            " WHERE version IS DISTINCT FROM %s",
            [version],
        )
    return len(again), {day for _, day, _ in rows}


def chosen_models(database: Database, choice: str) -> str | None:
    """What `auto` settled on for a choice of models, or None."""
    with database.transaction() as connection:
        row = connection.execute("SELECT models FROM cv.model_choices WHERE choice = %s", [choice]).fetchone()
    return None if row is None else str(row[0])


def choose_models(database: Database, choice: str, models: str) -> str:
    """Settle a choice of models, unless another process just did; returns what holds."""
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO cv.model_choices (choice, models) VALUES (%s, %s) ON CONFLICT DO NOTHING", [choice, models]
        )
    return chosen_models(database, choice) or models
