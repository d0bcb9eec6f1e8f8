"""What steps printed goes at the end of its term, run by run, and no sooner."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.runs.schema import RunsTable

from cv_platform.resources import compute_logs
from cv_platform.resources.compute_logs import expire_compute_logs

TERM = timedelta(days=30)


@dg.op
def talks() -> None:
    print("something to forget")


@dg.job
def talking() -> None:
    talks()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def ran(instance: dg.DagsterInstance) -> str:
    return talking.execute_in_process(instance=instance).run_id


def aged(instance: dg.DagsterInstance, run_id: str, days: int) -> None:
    """What so many days do."""
    (record,) = instance.get_run_records(dg.RunsFilter(run_ids=[run_id]))
    created = record.create_timestamp.replace(tzinfo=None) - timedelta(days=days)
    with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        connection.execute(RunsTable.update().where(RunsTable.c.run_id == run_id).values(create_timestamp=created))


def printed(instance: dg.DagsterInstance, run_id: str) -> bool:
    files = Path(instance.root_directory, "storage", run_id).rglob("*.out")
    return any("something to forget" in file.read_text() for file in files)


def test_the_logs_of_runs_past_the_term_go(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute_logs, "_BATCH", 2)
    runs = [ran(instance) for _ in range(6)]
    assert all(printed(instance, run) for run in runs)
    for run, days in zip(runs, (40, 90, 33, 31, 29, 0), strict=True):
        aged(instance, run, days)
    assert expire_compute_logs(instance, keep=TERM) == 4
    assert [printed(instance, run) for run in runs] == [False] * 4 + [True] * 2
    assert len(instance.get_runs()) == 6
    assert expire_compute_logs(instance, keep=TERM) == 0
    aged(instance, runs[4], 1)
    assert expire_compute_logs(instance, keep=TERM) == 1
    assert [printed(instance, run) for run in runs[4:]] == [False, True]


def test_a_run_that_has_not_ended_is_come_back_to(instance: dg.DagsterInstance) -> None:
    first, second, third = (ran(instance) for _ in range(3))
    for run, days in ((first, 50), (second, 40), (third, 35)):
        aged(instance, run, days)
    record = instance.get_run_by_id(second)
    assert record is not None
    with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        going = RunsTable.update().where(RunsTable.c.run_id == second)
        connection.execute(
            going.values(
                status="STARTED",
                run_body=dg.serialize_value(record.with_status(dg.DagsterRunStatus.STARTED)),
            )
        )
    expire_compute_logs(instance, keep=TERM)
    assert [printed(instance, run) for run in (first, second, third)] == [False, True, False]
    instance.report_run_canceled(record.with_status(dg.DagsterRunStatus.STARTED))
    expire_compute_logs(instance, keep=TERM)
    assert not printed(instance, second)
