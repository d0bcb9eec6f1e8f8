"""What Dagster itself remembers: runs, ticks and checks, read back from its storage and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The sensors whose work the demonstration waits for.
SENSORS = frozenset({"new_uploads", "pending_work", "dirty_days"})


@dataclass(frozen=True)
class DagsterMemory:
    """Runs, ticks and checks since a moment.

    Attributes:
        runs: those that sensors asked for: id, job, status, tags, seconds; oldest first.
        ticks: id, sensor, status, ids of the runs it asked for; oldest first; skipped ticks are only counted.
        skipped_ticks: ticks that asked for nothing.
        failed_checks: latest evaluations that did not pass, with their severity.
        active_runs: runs queued or under way now.
    """

    runs: list[dict[str, Any]]
    ticks: list[dict[str, Any]]
    skipped_ticks: int
    failed_checks: list[dict[str, Any]]
    active_runs: int


class DagsterStorage:
    """Dagster's instance, opened read-only in effect: nothing here launches, ticks or writes.

    Args:
        environment: holds `DAGSTER_HOME` and what its dagster.yaml asks for.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        for name in ("DAGSTER_HOME", "CV_PLATFORM_DAGSTER_POSTGRES_URL"):
            os.environ[name] = environment[name]
        from dagster import DagsterInstance

        self._instance = DagsterInstance.get()

    def active_runs(self) -> int:
        """Runs that are queued or under way."""
        from dagster import RunsFilter
        from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

        return self._instance.get_runs_count(RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))

    def sensors_ticked(self, *, since: float) -> set[str]:
        """Names of the sensors that have ticked since a moment, seconds since 1970."""
        from dagster._core.definitions.run_request import InstigatorType

        return {
            state.instigator_name
            for state in self._instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
            if self._instance.get_ticks(state.instigator_origin_id, state.selector_id, after=since, limit=1)
        }

    def read(self, *, since: float) -> DagsterMemory:
        """Everything since a moment, seconds since 1970."""
        from datetime import UTC, datetime

        from dagster import RunsFilter
        from dagster._core.definitions.run_request import InstigatorType

        records = self._instance.get_run_records(
            RunsFilter(created_after=datetime.fromtimestamp(since, UTC)), ascending=True
        )
        runs = [
            {
                "run_id": record.dagster_run.run_id,
                "job": record.dagster_run.job_name,
                "status": record.dagster_run.status.value,
                "tags": {
                    key: value
                    for key, value in sorted(record.dagster_run.tags.items())
                    if key in ("dagster/sensor_name", "dagster/partition", "cv/site")
                },
                "seconds": round(record.end_time - record.start_time, 2)
                if record.end_time and record.start_time
                else None,
            }
            for record in records
            # Schedules keep house beside it, at their own times.
            if "dagster/sensor_name" in record.dagster_run.tags
        ]
        ticks: list[dict[str, Any]] = []
        skipped = 0
        for state in self._instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
            for tick in self._instance.get_ticks(state.instigator_origin_id, state.selector_id, after=since):
                if tick.status.value == "SKIPPED":
                    skipped += 1
                    continue
                ticks.append(
                    {
                        "tick_id": tick.tick_id,
                        "sensor": state.instigator_name,
                        "status": tick.status.value,
                        "timestamp": tick.timestamp,
                        "run_ids": list(tick.run_ids),
                    }
                )
        ticks.sort(key=lambda tick: tick["timestamp"])
        return DagsterMemory(runs, ticks, skipped, self._failed_checks(), self.active_runs())

    def _failed_checks(self) -> list[dict[str, Any]]:
        """The newest evaluation of each check and partition, where it did not pass."""
        from dagster import DagsterEventType, EventRecordsFilter

        records = self._instance.event_log_storage.get_event_records(
            EventRecordsFilter(DagsterEventType.ASSET_CHECK_EVALUATION), limit=5000, ascending=False
        )
        seen: set[tuple[str, str, str]] = set()
        failed = []
        for record in records:
            event = record.event_log_entry.dagster_event
            if event is None:
                continue
            evaluation = event.asset_check_evaluation_data
            partition = str(getattr(evaluation, "partition", None) or event.partition or "")
            key = (evaluation.asset_key.to_user_string(), evaluation.check_name, partition)
            if key in seen:
                continue
            seen.add(key)
            if not evaluation.passed:
                failed.append(
                    {"asset": key[0], "check": key[1], "partition": key[2], "severity": evaluation.severity.value}
                )
        return failed
