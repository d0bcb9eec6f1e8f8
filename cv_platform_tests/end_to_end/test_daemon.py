"""The daemon alone: real PostgreSQL, real daemon, real clips; two of its workers are killed in mid-stage."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cv_platform.pipeline.published_clips import fetch_published
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.queries import balance
from cv_platform_tests.dagster_storage import storage_texts
from cv_platform_tests.dbt.warehouse import MARTS
from cv_platform_tests.end_to_end import ui
from cv_platform_tests.end_to_end.platform import (
    DAY,
    HALL,
    NEXT_DAY,
    QUAY,
    UPLOADS,
    Finished,
    finished_stack,
    twin_database,
    wait,
)
from cv_platform_tests.snapshot import read

VISION = ("raw_clips", "decoded_frames", "detections", "tracks", "blurred_clips")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(700)]


@pytest.fixture(scope="module")
def finished() -> Iterator[Finished]:
    # Not under pytest's own folder: as root, PostgreSQL is another user, and the next pytest closes that folder to it.
    with tempfile.TemporaryDirectory(prefix="cvp-e2e-") as folder, finished_stack(Path(folder)) as done:
        yield done


def _rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        return sorted(connection.execute(query).fetchall())


def test_workers_were_killed_and_every_clip_is_done_once(finished: Finished) -> None:
    assert all(mark.exists() for mark in finished.killed), "no worker died: the test proves nothing"
    failed = [run for run in finished.dagster.read(since=finished.began).runs if run["status"] == "FAILURE"]
    assert len(failed) == 2, "the two runs whose workers were killed are seen as failed"
    books = balance(finished.platform.database)
    assert books.balances
    assert books.states["published"] == books.received == len(UPLOADS)
    stages = _rows(finished.platform.database, "SELECT stage, state, count(*) FROM cv.stages GROUP BY 1, 2")
    assert stages == sorted((stage, "done", len(UPLOADS)) for stage in VISION)


def _as_in_the_twin(finished: Finished, query: str) -> list[tuple[Any, ...]]:
    """What a query answers, which must be what it answers after the undisturbed run."""
    twin = twin_database(finished.stack)
    expected = _rows(twin, query)
    twin.close()
    found = _rows(finished.platform.database, query)
    assert found == expected
    return found


@pytest.mark.parametrize("table", ["detections", "tracks", "events", "clip_facts"])
def test_tables_equal_an_undisturbed_run(finished: Finished, table: str) -> None:
    found = _as_in_the_twin(finished, f"SELECT t::text FROM warehouse.{table} t")
    if table in ("detections", "clip_facts"):
        assert len(found) == len(set(found)) > 0


# How long a clip took differs from run to run; how many there are does not.
_LAGS = " - 'lag_median_s' - 'lag_max_s'"


@pytest.mark.parametrize("mart", MARTS)
def test_marts_equal_an_undisturbed_run(finished: Finished, mart: str) -> None:
    lags = _LAGS if mart.endswith(".pipeline_daily") else ""
    found = _as_in_the_twin(finished, f"SELECT (to_jsonb(t){lags})::text FROM {mart} t")
    if mart in ("aggregates.hourly_cells", "aggregates.pipeline_daily"):
        assert found


def test_published_clips_equal_an_undisturbed_run(finished: Finished, tmp_path: Path) -> None:
    _as_in_the_twin(finished, "SELECT clip_id::text, published_key, state, content_sha256 FROM cv.clips")
    for clip_id, digest in _rows(finished.platform.database, "SELECT clip_id, published_sha256 FROM cv.clips"):
        assert fetch_published(finished.platform, clip_id, tmp_path / "clip").sha256 == digest


def test_runs_and_ticks_were_the_daemons(finished: Finished) -> None:
    memory = finished.dagster.read(since=finished.began)
    asked = {run_id: tick["sensor"] for tick in memory.ticks for run_id in tick["run_ids"]}
    for run in memory.runs:
        if "dagster/sensor_name" in run["tags"]:
            assert asked[run["run_id"]] == run["tags"]["dagster/sensor_name"]
    sensors = {"process_clips": "pending_work", "build_marts": "dirty_days"}
    for job, sensor in sensors.items():
        runs = [run for run in memory.runs if run["job"] == job and run["tags"].get("dagster/sensor_name") == sensor]
        assert runs, f"no run of {job} was asked for by {sensor}"
        assert any(run["status"] == "SUCCESS" for run in runs)
    beats = finished.instance.get_daemon_heartbeats()
    for daemon in ("SENSOR", "QUEUED_RUN_COORDINATOR", "MONITORING"):
        assert beats[daemon].timestamp > finished.began, f"{daemon} did not run"
    for run in memory.runs:
        kinds = {
            event.dagster_event.event_type_value
            for event in finished.instance.all_logs(run["run_id"])
            if event.dagster_event is not None
        }
        assert {"PIPELINE_ENQUEUED", "PIPELINE_STARTING"} <= kinds, run


def test_every_materialisation_says_what_it_did(finished: Finished) -> None:
    for key in read()["assets"]:
        event = finished.instance.get_latest_materialization_event(dg.AssetKey(key.split("/")))
        assert event is not None, f"{key} was not materialised"
        assert event.asset_materialization is not None
        metadata = event.asset_materialization.metadata
        assert "dagster/row_count" in metadata, key
        if key in VISION:
            assert any(isinstance(value, dg.MarkdownMetadataValue) for value in metadata.values()), f"{key}: no plot"
            assert key == "tracks" or "dagster/uri" in metadata, key
            assert metadata["clips still open"].value == 0, key
    fps = {
        key
        for key in ("decoded_frames", "detections", "tracks", "blurred_clips")
        for event in finished.instance.fetch_materializations(dg.AssetKey(key), limit=20).records
        if "fps" in event.asset_materialization.metadata
    }
    assert fps == {"decoded_frames", "detections", "tracks", "blurred_clips"}


def test_checks_ran_and_say_that_nothing_is_open(finished: Finished) -> None:
    passed: dict[str, bool] = {}
    records = finished.instance.get_event_records(
        dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION), ascending=True
    )
    for record in records:
        evaluation = record.event_log_entry.dagster_event.asset_check_evaluation_data
        passed[f"{evaluation.asset_key.to_user_string()}:{evaluation.check_name}"] = evaluation.passed
    vision = {name for name in read()["checks"] if name.split(":")[0] in VISION}
    assert vision <= set(passed)
    assert [name for name in sorted(vision) if not passed[name]] == []


def test_a_finished_date_runs_again_and_touches_no_clip(
    finished: Finished, record_property: pytest.RecordProperty
) -> None:
    ledger = "SELECT clip_id::text, stage, state, fence, attempts, finished_at, output_key FROM cv.stages"
    before = _rows(finished.platform.database, ledger), _files(finished)
    run_id = _launch(finished, DAY.isoformat())
    record = _wait_for(finished, run_id)
    assert record.dagster_run.status is dg.DagsterRunStatus.SUCCESS
    assert (_rows(finished.platform.database, ledger), _files(finished)) == before
    for asset in VISION:
        event = finished.instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert event is not None
        assert event.run_id == run_id
        assert event.asset_materialization is not None
        assert event.asset_materialization.metadata["clips done"].value == 0
    seconds = (record.end_time or 0.0) - (record.start_time or 0.0)
    record_property("seconds", round(seconds, 2))
    print(f"a re-materialisation of a finished date took {seconds:.2f} s")
    assert 0.0 < seconds < 10.0


def _files(finished: Finished) -> list[tuple[str, int]]:
    """Every object with its time of change."""
    folder = finished.platform.cold.folder
    assert folder is not None
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file())


_LAUNCH = """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


def _launch(finished: Finished, partition: str) -> str:
    """Ask for a run the way the UI does."""
    address = finished.stack.start_webserver().address
    params = {
        "selector": {
            "jobName": "process_clips",
            "repositoryName": "__repository__",
            "repositoryLocationName": "cv_platform",
        },
        "runConfigData": {},
        "mode": "default",
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
    }
    request = urllib.request.Request(
        f"{address}/graphql",
        data=json.dumps({"query": _LAUNCH, "variables": {"params": params}}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert "errors" not in answer, answer
    assert answer["data"]["launchRun"]["__typename"] == "LaunchRunSuccess", answer
    return str(answer["data"]["launchRun"]["run"]["runId"])


def _wait_for(finished: Finished, run_id: str) -> dg.RunRecord:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        record = finished.instance.get_run_record_by_id(run_id)
        if record is not None and record.dagster_run.is_finished:
            return record
        time.sleep(0.2)
    raise TimeoutError(f"run {run_id} did not end")


# What a picture looks like as text: a data URL, or the first bytes of JPEG and PNG, raw and in base64.
_PICTURE = re.compile(r"data:image|\xff\xd8\xff[\xe0\xe1\xdb]|\x89PNG\r\n|/9j/[A-Za-z0-9+/]{20}|iVBORw0KGgo")


def _personal(text: str) -> str | None:
    """What is wrong with a text that Dagster keeps; None where nothing is."""
    if found := _PICTURE.search(text):
        return f"a picture ({found.group()[:20]!r})"
    for upload in UPLOADS:
        for forbidden in (upload.key, upload.key.rsplit("/", 1)[1], f"raw/{upload.site}", f"{upload.at:%Y%m%dT%H%M%S}"):
            if forbidden in text:
                return f"what names a raw clip ({forbidden!r})"
    return next((f"a camera's id ({camera!r})" for camera in (QUAY, HALL) if camera in text), None)


def test_nothing_personal_in_dagsters_storage(finished: Finished) -> None:
    seen = 0
    tables = set()
    for place, text in storage_texts(os.environ["CV_PLATFORM_DAGSTER_POSTGRES_URL"]):
        assert _personal(text) is None, f"{place} holds {_personal(text)}"
        tables.add(place.split(".")[0])
        seen += len(text)
    assert {"event_logs", "runs", "run_tags", "snapshots", "job_ticks", "asset_keys"} <= tables
    assert seen > 100_000


def test_nothing_personal_in_logs(finished: Finished) -> None:
    """Compute logs and the daemon's own; they are kept on disk, beside the storage."""
    logs = [path for path in (finished.stack.folder / "dagster").rglob("*") if path.is_file() and not path.is_symlink()]
    logs += list(finished.stack.logs.glob("*.log"))
    assert any(path.suffix in (".out", ".err") for path in logs), "no compute log was kept"
    for path in logs:
        problem = _personal(path.read_bytes().decode("latin-1"))
        assert problem is None, f"{path.name} holds {problem}"


def test_the_scan_finds_what_it_looks_for() -> None:
    """The two tests above could not fail otherwise."""
    assert _personal("<img src='data:image/png;base64,xyz'>")
    assert _personal(b"\xff\xd8\xff\xe0 a JPEG file".decode("latin-1"))
    assert _personal(f"see {UPLOADS[0].key}")
    assert _personal(f"{QUAY} was at work")
    assert _personal("file:///state/store/raw/ holds 3 clips of harbour") is None


@pytest.mark.browser
@pytest.mark.skipif(ui.browser_path() is None, reason="no Chromium is installed (apt-get install chromium)")
def test_the_asset_graph_in_a_browser(finished: Finished, tmp_path: Path) -> None:
    address = finished.stack.start_webserver().address
    assets = read()["assets"]
    picture = tmp_path / "asset-graph.png"
    with ui.page(*ui.GRAPH_SIZE) as page:
        nodes = ui.open_graph(page, address, sorted({asset["group"] for asset in assets.values()}), len(assets))
        page.screenshot(path=picture)
    assert len(nodes) == len(assets)
    for name in {key.rsplit("/", 1)[-1] for key in assets}:
        shown = [node for node in nodes if node.startswith(name)]
        assert shown, f"{name} is not in the graph"
        assert all("ago" in node and "Never" not in node for node in shown), shown
    assert picture.stat().st_size > 50_000
    if (kept := os.environ.get("CV_TEST_PICTURES")) is not None:
        shutil.copy(picture, kept)


@pytest.mark.browser
@pytest.mark.skipif(ui.browser_path() is None, reason="no Chromium is installed (apt-get install chromium)")
def test_an_assets_page_in_a_browser(finished: Finished) -> None:
    address = finished.stack.start_webserver().address
    with ui.page(1500, 1000) as page:
        text = ui.open_asset(page, address, "detections", NEXT_DAY.isoformat())
    for shown in ("Materialized", "clips done", "fps", "dagster/row_count"):
        assert shown in text, f"{shown!r} is not on the asset's page"


def test_the_daemon_still_rests(finished: Finished) -> None:
    """Last in the file: nothing above made new work, and nothing asks for runs without end."""
    wait(finished.stack, finished.platform, finished.dagster, timeout_s=30)
    runs = finished.dagster.read(since=finished.began).runs
    assert len([run for run in runs if run["job"] == "process_clips"]) <= 3 + 2 + 3
