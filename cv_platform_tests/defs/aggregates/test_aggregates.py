"""The marts in the graph: specs, the sensor's decisions, a real run and a failing one on a real instance."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cv_platform.defs.aggregates import aggregates_definitions, dbt_resource
from cv_platform.defs.aggregates.assets import POOL
from cv_platform.defs.aggregates.sensors import JOB_NAME, MAX_DAYS
from cv_platform.defs.partitions import daily_partitions
from cv_platform.resources.database import DatabaseResource
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform_tests.dbt import warehouse as wh

START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(
        state_dir=tmp_path, postgres_url=database_url, partitions_start=date(2026, 1, 1), min_run_interval_s=300.0
    )


@pytest.fixture
def definitions(settings: Settings) -> dg.Definitions:
    upstream = [
        dg.AssetSpec(key, partitions_def=daily_partitions(settings)) for key in ("raw_clips", "detections", "tracks")
    ]
    assert settings.postgres_url is not None
    resources = {"database": DatabaseResource(url=settings.postgres_url), "dbt": dbt_resource(settings)}
    found = dg.Definitions.merge(aggregates_definitions(settings), dg.Definitions(assets=upstream, resources=resources))
    dg.Definitions.validate_loadable(found)
    return found


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    found = Database(database_url)
    yield found
    found.close()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def test_every_mart_says_what_it_is(definitions: dg.Definitions) -> None:
    specs = {
        spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs() if len(spec.key.path) > 1
    }
    assert set(specs) == set(name.replace(".", "/") for name in wh.MARTS)
    for name, spec in specs.items():
        assert spec.owners == ["team:data-platform"], name
        assert spec.group_name == "aggregates", name
        assert {"dbt", "postgres"} <= spec.kinds, name
        assert spec.code_version, name
        assert spec.description, name
        assert isinstance(spec.partitions_def, dg.DailyPartitionsDefinition), name
        schema = spec.metadata["dagster/column_schema"]
        assert isinstance(schema, dg.TableSchema)
        assert schema.columns, name
        for column in schema.columns:
            assert column.description, f"{name}.{column.name}"
            assert column.type != "?", f"{name}.{column.name}"


def test_the_marts_hang_on_the_graph(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    cells = graph.get(dg.AssetKey(["aggregates", "hourly_cells"]))
    assert {key.to_user_string() for key in cells.parent_keys} == {"detections", "tracks", "raw_clips"}
    published = graph.get(dg.AssetKey(["marts", "camera_hourly"]))
    assert {key.to_user_string() for key in published.parent_keys} == {"aggregates/publication"}


def test_one_step_of_one_pool_builds_all(definitions: dg.Definitions) -> None:
    (marts,) = [a for a in definitions.assets or [] if isinstance(a, dg.AssetsDefinition)]
    assert marts.op.pool == POOL
    assert marts.backfill_policy == dg.BackfillPolicy.single_run()
    names = {spec.name for spec in marts.check_specs}
    assert {"publication_tracks_at_least_k", "publication_differences_hide_nothing"} <= names
    assert len(names) == len(list(marts.check_specs))
    for asset in marts.keys:
        if asset.path[-1] != "site_daily":
            assert any(spec.asset_key == asset for spec in marts.check_specs), f"{asset} has no test"


# The sensor.


def tick(definitions: dg.Definitions, instance: dg.DagsterInstance) -> Any:
    sensor = definitions.get_repository_def().get_sensor_def("dirty_days")
    context = dg.build_sensor_context(
        instance=instance, definitions=definitions, resources={"database": (definitions.resources or {})["database"]}
    )
    return sensor.evaluate_tick(context)


def touch(database: Database, *days: date) -> None:
    with database.transaction() as connection:
        wh.touch(connection, *days)


def add_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> None:
    from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteRepositoryOrigin
    from dagster._core.test_utils import create_run_for_test
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

    origin = None
    if status == dg.DagsterRunStatus.QUEUED:  # only a run of a code location can be queued
        target = LoadableTargetOrigin(python_file=__file__)
        location = ManagedGrpcPythonEnvCodeLocationOrigin(target)
        origin = RemoteRepositoryOrigin(location, "__repository__").get_job_origin(JOB_NAME)
    create_run_for_test(instance, job_name=JOB_NAME, status=status, remote_job_origin=origin)


def test_all_dirty_days_are_one_request(
    definitions: dg.Definitions, instance: dg.DagsterInstance, database: Database
) -> None:
    assert tick(definitions, instance).run_requests == []
    # Before the first partition, after the last one, and three in between.
    far = datetime.now(UTC).date() + timedelta(days=3)
    touch(database, date(2025, 12, 31), far, date(2026, 1, 5), date(2026, 1, 9), date(2026, 2, 20))
    (request,) = tick(definitions, instance).run_requests
    assert (request.tags[START], request.tags[END]) == ("2026-01-05", "2026-01-09")
    assert (date.fromisoformat(request.tags[END]) - date.fromisoformat(request.tags[START])).days < MAX_DAYS
    assert request.partition_key is None


@pytest.mark.parametrize(
    "status",
    [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ],
)
def test_nothing_is_asked_for_while_a_run_is_under_way(
    definitions: dg.Definitions, instance: dg.DagsterInstance, database: Database, status: dg.DagsterRunStatus
) -> None:
    touch(database, date(2026, 1, 5))
    add_run(instance, status)
    found = tick(definitions, instance)
    assert found.run_requests == []
    assert "queued or active" in found.skip_message


def test_failures_in_a_row_make_longer_pauses(
    definitions: dg.Definitions, instance: dg.DagsterInstance, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(database, date(2026, 1, 5))
    add_run(instance, dg.DagsterRunStatus.FAILURE)
    add_run(instance, dg.DagsterRunStatus.FAILURE)
    assert "failed" in tick(definitions, instance).skip_message
    now = time.time()
    monkeypatch.setattr("cv_platform.defs.aggregates.sensors.time.time", lambda: now + 310)
    assert tick(definitions, instance).run_requests == []  # 300 s after one failure, 600 s after two
    monkeypatch.setattr("cv_platform.defs.aggregates.sensors.time.time", lambda: now + 610)
    assert len(tick(definitions, instance).run_requests) == 1


def test_a_success_ends_the_pause(
    definitions: dg.Definitions, instance: dg.DagsterInstance, database: Database
) -> None:
    touch(database, date(2026, 1, 5))
    add_run(instance, dg.DagsterRunStatus.FAILURE)
    add_run(instance, dg.DagsterRunStatus.SUCCESS)
    assert len(tick(definitions, instance).run_requests) == 1


# Runs.


def run(definitions: dg.Definitions, instance: dg.DagsterInstance, **how: Any) -> dg.ExecuteInProcessResult:
    job = definitions.resolve_job_def(JOB_NAME)
    return job.execute_in_process(instance=instance, raise_on_error=False, **how)


def seen_rows(database: Database) -> None:
    with database.transaction() as connection:
        wh.add_site(connection, "site", "UTC", "camera")
        for day in (5, 7):
            start = datetime(2026, 1, day, 8, tzinfo=UTC)
            clip_id = wh.add_clip(connection, "camera", start, 600)
            for n in range(6):
                wh.add_track(connection, clip_id, n, start + timedelta(seconds=n), 3.0)


def test_a_request_builds_what_is_dirty_and_a_failure_leaves_it_dirty(
    definitions: dg.Definitions, instance: dg.DagsterInstance, database: Database
) -> None:
    seen_rows(database)
    (request,) = tick(definitions, instance).run_requests

    # A row that breaks a test: a track without detections, that ends before it starts.
    with database.transaction() as connection:
        connection.execute("UPDATE warehouse.tracks SET last_seen_at = '2025-05-05 05:05:05+00' WHERE track_id = 3")
    failed = run(definitions, instance, tags=request.tags)
    assert not failed.success
    (failure,) = failed.get_step_failure_events()
    assert "track_summary_ends_after_it_starts" in str(failure.event_specific_data)
    assert "2025-05-05" not in "".join(str(event) for event in failed.all_events)
    checks = {check.check_name: check.passed for check in failed.get_asset_check_evaluations()}
    assert not checks["track_summary_ends_after_it_starts"]
    assert wh.dirty_days(database, 5) == [date(2026, 1, 5), date(2026, 1, 7)]
    assert tick(definitions, instance).run_requests == []  # it pauses

    with database.transaction() as connection:
        connection.execute(
            "UPDATE warehouse.tracks SET last_seen_at = \"timestamp\" + interval '3 s' WHERE track_id = 3"
        )
    done = run(definitions, instance, tags=request.tags)
    assert done.success
    assert wh.dirty_days(database, 5) == []
    built = done.get_asset_materialization_events()
    keys = {event.asset_key.to_user_string() for event in built if event.asset_key}
    assert keys == {name.replace(".", "/") for name in wh.MARTS}
    partitions = {event.partition for event in built}
    assert partitions == {"2026-01-05", "2026-01-06", "2026-01-07"}
    evaluations = done.get_asset_check_evaluations()
    assert evaluations
    assert all(evaluation.passed for evaluation in evaluations)
    (daily, *_) = [
        event.materialization.metadata for event in built if event.asset_key == dg.AssetKey(["marts", "site_daily"])
    ]
    assert daily["dagster/row_count"].value == 2
    assert daily["days_built"].value == 2
    assert "person" in str(daily["published_tracks"].value)

    # The same request again: nothing is due, nothing is built.
    again = run(definitions, instance, tags=request.tags)
    assert again.success
    assert again.get_asset_materialization_events() == []
