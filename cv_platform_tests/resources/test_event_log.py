"""Pruning takes old rows, and leaves the state of the asset graph as it was."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import text

from cv_platform.resources.event_log import prune_event_log

DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-01-05")
WEEK = timedelta(days=7)


@dg.asset(partitions_def=DAYS)
def made(context: dg.AssetExecutionContext) -> None:
    context.log.info("something to forget")


@dg.asset
def whole() -> None:
    """Has no partitions."""


@dg.asset_check(asset=whole)
def sound() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


_check_key = next(iter(sound.check_keys))


@pytest.fixture
def instance(dagster_database_url: str, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    config = tmp_path / "dagster.yaml"
    config.write_text(
        f"storage: {{postgres: {{postgres_url: '{dagster_database_url}'}}}}\ntelemetry: {{enabled: false}}\n"
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def _make(instance: dg.DagsterInstance, *days: str) -> None:
    for day in days:
        assert dg.materialize([made], partition_key=day, instance=instance).success


def _sql(instance: dg.DagsterInstance, statement: str) -> list[Any]:
    storage: Any = instance.event_log_storage
    with storage.index_connection() as connection:
        found = connection.execute(text(statement))
        return list(found) if found.returns_rows else []


def _age(instance: dg.DagsterInstance, days: int) -> None:
    """What so many days do."""
    _sql(instance, f'UPDATE event_logs SET "timestamp" = "timestamp" - interval \'{days} days\'')


def _state(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What the UI and the backfill daemon see."""
    storage = instance.event_log_storage
    return {
        "partitions": instance.get_materialized_partitions(made.key),
        "latest": instance.get_latest_storage_id_by_partition(made.key, dg.DagsterEventType.ASSET_MATERIALIZATION),
        "whole": getattr(instance.get_latest_materialization_event(whole.key), "run_id", None),
        "checks": {
            key: record.status for key, record in storage.get_latest_asset_check_execution_by_key([_check_key]).items()
        },
    }


def test_the_state_of_every_partition_survives(instance: dg.DagsterInstance) -> None:
    _make(instance, "2026-01-01", "2026-01-02", "2026-01-03", "2026-01-01", "2026-01-02")
    assert dg.materialize([whole, sound], instance=instance).success
    assert dg.materialize([whole, sound], instance=instance).success
    _age(instance, 30)
    before = _state(instance)
    rows = _sql(instance, "SELECT count(*) FROM event_logs")[0][0]
    deleted = prune_event_log(instance, keep=WEEK)
    assert _state(instance) == before
    assert before["partitions"] == {"2026-01-01", "2026-01-02", "2026-01-03"}
    assert deleted > rows / 2
    left = _sql(
        instance,
        "SELECT partition, count(*) FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION' GROUP BY 1",
    )
    assert dict(map(tuple, left)) == {"2026-01-01": 1, "2026-01-02": 1, "2026-01-03": 1, None: 1}
    assert prune_event_log(instance, keep=WEEK) == 0


def test_what_is_new_and_what_is_under_way_stays(instance: dg.DagsterInstance) -> None:
    _make(instance, "2026-01-01")
    run = instance.add_run(dg.DagsterRun(job_name="any", status=dg.DagsterRunStatus.STARTED))
    instance.report_engine_event("it has begun", run)
    _age(instance, 30)
    _make(instance, "2026-01-02")
    new = _sql(instance, "SELECT count(*) FROM event_logs WHERE \"timestamp\" > now() - interval '1 day'")[0][0]
    prune_event_log(instance, keep=WEEK)
    assert _sql(instance, "SELECT count(*) FROM event_logs WHERE \"timestamp\" > now() - interval '1 day'")[0][0] == new
    assert len(instance.all_logs(run.run_id)) == 1


def test_another_storage_is_refused() -> None:
    with dg.DagsterInstance.ephemeral() as other, pytest.raises(RuntimeError, match="allowed is PostgreSQL"):
        prune_event_log(other, keep=WEEK)
