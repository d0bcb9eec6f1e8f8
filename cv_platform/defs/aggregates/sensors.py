"""The sensor that has dirty days built, and the job that it runs."""

import time
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from cv_platform.defs.aggregates.assets import REQUESTED_BY, SENSOR_NAME, mart_keys
from cv_platform.defs.scope import UNFINISHED
from cv_platform.resources.database import DatabaseResource
from cv_platform.settings import Settings
from cv_platform.storage import marts

JOB_NAME = "build_marts"
MAX_DAYS = 31
_LONGEST_PAUSE_S = 3600.0


def build_marts_job(manifest: Mapping[str, Any]) -> Any:
    """The job that builds all marts."""
    return dg.define_asset_job(
        JOB_NAME,
        selection=dg.AssetSelection.assets(*mart_keys(manifest)),
        description="Builds the marts of a range of days in one dbt run.",
    )


def build_sensor(job: Any, partitions: dg.DailyPartitionsDefinition, settings: Settings) -> dg.SensorDefinition:
    """`dirty_days`: one run for all days that are dirty, at most 31 of them, oldest first."""

    @dg.sensor(
        name=SENSOR_NAME,
        job=job,
        minimum_interval_seconds=settings.sensor_interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for one dbt run over the days whose marts are behind the ledger.",
    )
    def dirty_days(context: dg.SensorEvaluationContext, database: DatabaseResource) -> dg.SensorResult:
        instance = context.instance
        if instance.get_runs_count(dg.RunsFilter(job_name=JOB_NAME, statuses=UNFINISHED)):
            return dg.SensorResult(skip_reason="a run that builds marts is queued or active")
        pause_s = _pause_s(instance, settings)
        if pause_s > 0:
            return dg.SensorResult(skip_reason=f"the last run failed; the next one may start in {pause_s:.0f} s")
        first, last = partitions.get_first_partition_key(), partitions.get_last_partition_key()
        if first is None or last is None:
            return dg.SensorResult(skip_reason="there is no partition yet")
        with database.get().transaction() as connection:
            found = marts.dirty_range(
                connection,
                k=settings.suppression_k,
                first=date.fromisoformat(first),
                last=date.fromisoformat(last),
                max_days=MAX_DAYS,
                min_interval_s=settings.min_run_interval_s,
            )
        if found is None:
            return dg.SensorResult(skip_reason="no day is due")
        start, end = (day.isoformat() for day in found)
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    tags={
                        ASSET_PARTITION_RANGE_START_TAG: start,
                        ASSET_PARTITION_RANGE_END_TAG: end,
                        REQUESTED_BY: SENSOR_NAME,
                        # The step retries what is transient; the next tick asks again for what is not.
                        "dagster/retry_on_asset_or_op_failure": "false",
                    }
                )
            ]
        )

    return dirty_days


def _pause_s(instance: dg.DagsterInstance, settings: Settings) -> float:
    """Seconds until another attempt after failures in a row; each doubles the pause, up to an hour."""
    recent = instance.get_run_records(
        dg.RunsFilter(job_name=JOB_NAME, created_after=datetime.now(UTC) - timedelta(days=1)), limit=8
    )
    failures = 0
    for record in recent:
        if record.dagster_run.status != dg.DagsterRunStatus.FAILURE:
            break
        failures += 1
    if not failures:
        return 0.0
    pause_s = min(
        _LONGEST_PAUSE_S, max(settings.min_run_interval_s, settings.sensor_interval_s) * 2.0 ** (failures - 1)
    )
    ended = recent[0].end_time or recent[0].create_timestamp.timestamp()
    return max(0.0, ended + pause_s - time.time())
