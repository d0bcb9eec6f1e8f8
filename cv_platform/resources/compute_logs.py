"""What steps printed, kept for a term: Dagster itself never deletes it while its run is there.

By Dagster's own manager, so wherever the logs lie: a folder, S3. How far it has come is kept where Dagster's daemons
keep theirs.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

CURSOR: Final = "cv_platform/compute_logs"
_BATCH: Final = 500


def expire_compute_logs(instance: dg.DagsterInstance, *, keep: timedelta, deadline_s: float = 600.0) -> int:
    """Delete what the steps of runs printed that began more than `keep` ago and have ended; returns of how many runs.

    Stops after `deadline_s` seconds; the next call goes on. Safe to repeat, to kill, and to run twice at once. A run
    that has not ended is come back to.
    """
    cursors = instance.daemon_cursor_storage
    kept = cursors.get_cursor_values({CURSOR}).get(CURSOR)
    after = datetime.fromisoformat(kept) if kept else None
    before = datetime.now(UTC) - keep
    until = time.monotonic() + deadline_s
    unfinished: datetime | None = None
    deleted = 0
    while time.monotonic() < until:
        records = instance.get_run_records(
            dg.RunsFilter(created_after=after, created_before=before),
            limit=_BATCH,
            order_by="create_timestamp",
            ascending=True,
        )
        for record in records:
            if record.dagster_run.is_finished:
                instance.compute_log_manager.delete_logs(prefix=[record.dagster_run.run_id])
                deleted += 1
            elif unfinished is None:
                unfinished = after or record.create_timestamp - timedelta(seconds=1)
            after = record.create_timestamp
        reached = unfinished or after
        if reached is not None:
            cursors.set_cursor_values({CURSOR: reached.isoformat()})
        if len(records) < _BATCH:
            break
    return deleted
