"""The job and the sensor carry an approved request to its certificate, and show nothing of whom it is about."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from cv_platform.defs.erasure.jobs import REQUEST_TAG, erase
from cv_platform.defs.erasure.sensors import approved_erasures
from cv_platform.defs.lifecycle import expire, export_audit, hot_to_warm, reconcile, warm_to_cold
from cv_platform.governance.erasure import requests
from cv_platform.pipeline import erasure
from cv_platform.resources.platform import PlatformResource
from cv_platform.settings import Settings
from cv_platform_tests.dagster_storage import storage_texts
from cv_platform_tests.pipeline.filmed import CANARY, film_template, make_filmed  # noqa: F401  # fixtures
from cv_platform_tests.pipeline.test_erasure import FIRST_CLIP, ask, build_marts, traces
from cv_platform_tests.pipeline.world import World


@pytest.fixture
def world(make_filmed: Callable[[], World]) -> World:  # noqa: F811
    """Footage of two cameras, published."""
    return make_filmed()


def run(settings: Settings, request_id: uuid.UUID, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return erase.execute_in_process(
        run_config={"ops": {"erase_request": {"config": {"request_id": str(request_id)}}}},
        resources={"platform": PlatformResource(settings)},
        instance=instance,
        raise_on_error=False,
    )


def tick(settings: Settings, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    context = dg.build_sensor_context(instance=instance, resources={"platform": PlatformResource(settings)})
    answer = approved_erasures(settings)(context)
    return list(answer.run_requests or []) if isinstance(answer, dg.SensorResult) else []


def test_from_approval_to_certificate(world: World, instance: dg.DagsterInstance) -> None:
    waiting = requests.receive(world.database, FIRST_CLIP, reference="case-1", by="clerk")
    erasure.preview(world.platform, waiting)
    assert tick(world.settings, instance) == []
    request = ask(world)
    [asked] = tick(world.settings, instance)
    assert asked.tags[REQUEST_TAG] == str(request)
    assert run(world.settings, request, instance).success
    assert requests.get(world.database, request).state == "executed"
    assert tick(world.settings, instance) == [], "the aggregates are not built yet"
    build_marts(world)
    [_] = tick(world.settings, instance)
    result = run(world.settings, request, instance)
    assert result.success
    assert requests.get(world.database, request).state == "certified"
    assert tick(world.settings, instance) == []
    told = str([event for event in result.all_events]) + str(instance.get_runs())
    assert not [word for word in ("cam1", "north", "2026-03-01", "case-17", "clerk") if word in told]


def test_nothing_of_what_was_erased_is_in_dagsters_database(
    world: World, dagster_database_url: str, tmp_path: Path
) -> None:
    """Through the life of a clip and its end, with Dagster's records where they are in production."""
    (tmp_path / "dagster.yaml").write_text(
        f"storage: {{postgres: {{postgres_url: '{dagster_database_url}'}}}}\ntelemetry: {{enabled: false}}\n"
    )
    words = traces(world, "cam1", 0)
    [(clip_id,)] = world.rows("SELECT clip_id FROM cv.clips WHERE camera_id = 'cam1' ORDER BY captured_at LIMIT 1")
    resources = {"platform": PlatformResource(world.settings)}
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        for job in (hot_to_warm, warm_to_cold, expire, reconcile, export_audit):
            assert job.execute_in_process(instance=instance, resources=resources).success
        request = ask(world)
        assert run(world.settings, request, instance).success
        build_marts(world)
        assert run(world.settings, request, instance).success
        assert requests.get(world.database, request).state == "certified"
        found = list(storage_texts(dagster_database_url))
    assert str(request) in "".join(text for _, text in found), "the scan reads nothing"
    words |= {"camera": "cam1", "clip": str(clip_id), "canary": CANARY.decode(), "who asked": "clerk"}
    for name, word in words.items():
        assert [place for place, text in found if word in text] == [], f"{name} is in Dagster's database"


@pytest.mark.parametrize("request_id", ["nonsense", "00000000-0000-4000-8000-000000000000"])
def test_a_request_that_is_none_fails_once(
    world: World,
    instance: dg.DagsterInstance,
    request_id: str,
) -> None:
    result = erase.execute_in_process(
        run_config={"ops": {"erase_request": {"config": {"request_id": request_id}}}},
        resources={"platform": PlatformResource(world.settings)},
        instance=instance,
        raise_on_error=False,
    )
    assert not result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
