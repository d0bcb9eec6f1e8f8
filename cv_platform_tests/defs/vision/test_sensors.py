"""`pending_work`: asks for what is due, once, in bounds, and never for a day that does not exist."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from cv_platform.definitions import build_definitions
from cv_platform.defs.scope import GRAPH_TAG, PARTITION_TAG, SITE_TAG
from cv_platform.defs.vision import sensors
from cv_platform.defs.vision.assets import process_clips
from cv_platform.resources.platform import PlatformResource
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.claims import claim_clips
from cv_platform.storage.ledger.model import RAW_CLIPS, Claim, Scope
from cv_platform_tests.defs.conftest import noon

AddClip = Callable[..., None]
# Dagster holds each request against it: an unknown partition fails the tick.
REPOSITORY = build_definitions(Settings()).get_repository_def()


def tick(light: Settings, instance: dg.DagsterInstance, **values: Any) -> list[dg.RunRequest]:
    """One tick; returns the runs that it asks for."""
    light = light.model_copy(update=values)
    context = dg.build_sensor_context(
        instance=instance, repository_def=REPOSITORY, resources={"platform": PlatformResource(light)}
    )
    data = sensors.pending_work(light).evaluate_tick(context)
    return list(data.run_requests or [])


def scopes(requests: list[dg.RunRequest]) -> list[tuple[str, str]]:
    return sorted((str(request.partition_key), request.tags[SITE_TAG]) for request in requests)


def day(days_ago: int) -> str:
    return noon(days_ago).date().isoformat()


def claim(ledger: Database, *, lease_s: float = 60.0) -> list[Claim]:
    """Claim every clip that waits at raw_clips, at the deployment's version."""
    with ledger.transaction() as connection:
        row = connection.execute("SELECT version FROM cv.stage_versions WHERE stage = %s", [RAW_CLIPS]).fetchone()
    assert row is not None
    return claim_clips(ledger, RAW_CLIPS, version=row[0], scope=Scope(), run_id="t", lease_s=lease_s, limit=100)


def test_one_run_for_each_day_and_site(light: Settings, instance: dg.DagsterInstance, add_clip: AddClip) -> None:
    add_clip("harbour", noon(2))
    add_clip("harbour", noon(1))
    add_clip("market", noon(1))
    requests = tick(light, instance)
    assert scopes(requests) == [(day(2), "harbour"), (day(1), "harbour"), (day(1), "market")]
    for request in requests:
        assert request.run_config["ops"]["raw_clips"]["config"]["sites"] == [request.tags[SITE_TAG]]
        assert set(request.tags) <= {SITE_TAG, GRAPH_TAG, PARTITION_TAG, "dagster/partition_set", "dagster/sensor_name"}


def test_nothing_is_asked_where_nothing_waits(light: Settings, instance: dg.DagsterInstance) -> None:
    assert tick(light, instance) == []


@pytest.mark.parametrize("days_ago", [-1, 800])
def test_never_a_day_outside_the_partitions(
    light: Settings, instance: dg.DagsterInstance, add_clip: AddClip, days_ago: int
) -> None:
    """One partition that does not exist fails a whole tick, and with it the runs of all other sites."""
    start = noon(700).date()
    add_clip("wrongclock", noon(days_ago))
    add_clip("harbour", noon(1))
    found = scopes(tick(light, instance, partitions_start=start, max_requests_per_tick=1))
    assert found == [(day(1), "harbour")], "nor does it take the place of a day that exists"


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED])
def test_not_while_a_run_of_the_scope_is_on(
    light: Settings, instance: dg.DagsterInstance, add_clip: AddClip, status: dg.DagsterRunStatus
) -> None:
    add_clip("harbour", noon(1))
    add_clip("market", noon(1))
    tags = {GRAPH_TAG: "clips", PARTITION_TAG: day(1), SITE_TAG: "harbour"}
    run = _run(instance, status, tags)
    assert scopes(tick(light, instance)) == [(day(1), "market")]
    instance.report_run_canceled(run)
    assert scopes(tick(light, instance)) == [(day(1), "harbour"), (day(1), "market")]


def test_not_while_a_run_of_all_sites_is_on(light: Settings, instance: dg.DagsterInstance, add_clip: AddClip) -> None:
    add_clip("harbour", noon(2))
    add_clip("harbour", noon(1))
    _run(instance, dg.DagsterRunStatus.STARTED, {GRAPH_TAG: "clips", PARTITION_TAG: day(2)})
    assert scopes(tick(light, instance, max_requests_per_tick=1)) == [(day(1), "harbour")]


def test_runs_of_other_jobs_do_not_count(light: Settings, instance: dg.DagsterInstance, add_clip: AddClip) -> None:
    add_clip("harbour", noon(1))
    _run(instance, dg.DagsterRunStatus.STARTED, {PARTITION_TAG: day(1)})
    assert scopes(tick(light, instance)) == [(day(1), "harbour")]


def test_an_interval_lies_between_two_requests(
    light: Settings, instance: dg.DagsterInstance, ledger: Database, add_clip: AddClip
) -> None:
    add_clip("harbour", noon(1))
    assert len(tick(light, instance, min_run_interval_s=300.0)) == 1
    assert tick(light, instance, min_run_interval_s=300.0) == []
    with ledger.transaction() as connection:
        connection.execute("UPDATE cv.run_requests SET requested_at = requested_at - interval '301 seconds'")
    assert len(tick(light, instance, min_run_interval_s=300.0)) == 1


def test_at_most_so_many_a_tick_and_each_gets_its_turn(
    light: Settings, instance: dg.DagsterInstance, add_clip: AddClip
) -> None:
    for days_ago in range(1, 13):
        add_clip("harbour", noon(days_ago))
    asked: list[tuple[str, str]] = []
    for expected in (5, 5, 2, 0):
        found = scopes(tick(light, instance, min_run_interval_s=300.0))
        assert len(found) == expected
        asked += found
    assert sorted(asked) == [(day(n), "harbour") for n in range(12, 0, -1)]


def test_a_full_queue_is_asked_for_no_more(
    light: Settings, instance: dg.DagsterInstance, add_clip: AddClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "MOST_UNFINISHED", 3)
    add_clip("harbour", noon(1))
    for days_ago in (5, 6, 7):
        assert tick(light, instance), "the queue is not full yet"
        _run(instance, dg.DagsterRunStatus.QUEUED, {GRAPH_TAG: "clips", PARTITION_TAG: day(days_ago)})
    assert tick(light, instance) == []


def test_a_lease_that_ran_out_is_asked_for_again(
    light: Settings, instance: dg.DagsterInstance, ledger: Database, add_clip: AddClip
) -> None:
    add_clip("harbour", noon(1))
    assert len(tick(light, instance)) == 1
    assert len(claim(ledger, lease_s=1.5)) == 1
    assert tick(light, instance) == [], "somebody works on it"
    time.sleep(1.6)
    assert scopes(tick(light, instance)) == [(day(1), "harbour")]


def test_a_new_version_starts_finished_clips_again(
    light: Settings, instance: dg.DagsterInstance, ledger: Database, add_clip: AddClip
) -> None:
    add_clip("harbour", noon(1))
    tick(light, instance)
    with ledger.transaction() as connection:
        connection.execute(
            "UPDATE cv.stages SET state = 'done', version = v.version FROM cv.stage_versions v"
            " WHERE v.stage = stages.stage"
        )
    assert tick(light, instance) == [], "everything is done at these versions"
    assert scopes(tick(light, instance, max_clip_pixels=1000)) == [(day(1), "harbour")]
    with ledger.transaction() as connection:
        states = dict(connection.execute("SELECT stage, state FROM cv.stages").fetchall())
    assert states["raw_clips"] == "pending"
    assert states["decoded_frames"] == states["blurred_clips"] == "blocked", "they wait for it"


def test_what_it_asks_for_can_be_run(light: Settings, instance: dg.DagsterInstance, add_clip: AddClip) -> None:
    """Partition, config and tags are ones that the job takes."""
    add_clip("harbour", noon(0).replace(hour=0))
    (request,) = tick(light, instance)
    job = REPOSITORY.get_job(process_clips.name)
    assert dg.validate_run_config(job, request.run_config)
    assert request.partition_key in job.partitions_def.get_partition_keys()
    assert request.partition_key == datetime.now(UTC).date().isoformat()


def _run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, tags: dict[str, str]) -> dg.DagsterRun:
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("cv_platform"), "__repository__")
    origin = RemoteJobOrigin(repository, process_clips.name)
    run = dg.DagsterRun(job_name=process_clips.name, status=status, tags=tags, remote_job_origin=origin)
    return instance.add_run(run)
