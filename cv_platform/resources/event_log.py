"""Dagster's event log, kept to a size: old rows go, and none that the asset graph's state is read from.

Dagster itself forgets runs whole, and with a run the materialisations in it: a partition that was made long ago and is
still good would count as missing (dagster#33785). Here the newest event of each kind stays, for every asset and
partition.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import dagster as dg

from cv_platform import faults

_BATCH: Final = 20_000
"""Rows looked at in one transaction: short, so that runs can go on writing."""

# The newest event of its kind for an asset and partition, or what a check's state points at, is the graph's state.
_PRUNE = """
WITH looked_at AS (
    SELECT id, run_id, dagster_event_type, asset_key, partition, "timestamp" FROM event_logs
    WHERE id > :after ORDER BY id LIMIT :batch
), old AS (
    SELECT e.id FROM looked_at e
    WHERE e."timestamp" < :before AND e.run_id <> ALL(:unfinished)
      AND NOT EXISTS (SELECT FROM asset_check_executions c WHERE c.evaluation_event_storage_id = e.id)
      AND (
        e.asset_key IS NULL
        OR (e.partition IS NOT NULL AND EXISTS (
              SELECT FROM event_logs n WHERE n.asset_key = e.asset_key AND n.dagster_event_type = e.dagster_event_type
                AND n.partition = e.partition AND n.id > e.id))
        OR (e.partition IS NULL AND EXISTS (
              SELECT FROM event_logs n WHERE n.asset_key = e.asset_key AND n.dagster_event_type = e.dagster_event_type
                AND n.partition IS NULL AND n.id > e.id))
      )
), gone AS (
    DELETE FROM event_logs USING old WHERE event_logs.id = old.id RETURNING event_logs.id
)
SELECT (SELECT count(*) FROM gone), (SELECT max(id) FROM looked_at), (SELECT min("timestamp") FROM looked_at)
"""


def prune_event_log(instance: dg.DagsterInstance, *, keep: timedelta, deadline_s: float = 600.0) -> int:
    """Delete rows older than `keep` of runs that have ended; returns how many.

    Stops after `deadline_s` seconds; the next call goes on, as what is gone is not looked at again. Safe to repeat, to
    kill, and to run twice at once.

    Raises:
        RuntimeError: Dagster's storage is not PostgreSQL.
    """
    from dagster_postgres import PostgresEventLogStorage
    from sqlalchemy import text

    storage = instance.event_log_storage
    if not isinstance(storage, PostgresEventLogStorage):
        raise RuntimeError(f"the event log is a {type(storage).__name__}; allowed is PostgreSQL: see dagster.yaml")
    unfinished = [run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=_unfinished()))]
    before = (datetime.now(UTC) - keep).replace(tzinfo=None)
    until = time.monotonic() + deadline_s
    after = deleted = 0
    while time.monotonic() < until:
        with storage.index_connection() as connection:
            row: Any = connection.execute(
                text(_PRUNE), {"after": after, "batch": _BATCH, "before": before, "unfinished": unfinished}
            ).one()
        gone, last, oldest = row
        faults.point("event_log.pruned")
        deleted += gone
        if last is None or oldest >= before:
            break
        after = last
    return deleted


def _unfinished() -> list[dg.DagsterRunStatus]:
    from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

    return list(NOT_FINISHED_STATUSES)
