"""What a run of the graph writes to its standard error: every line JSON, every id there, nothing personal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from cv_platform.pipeline.versions import current_versions
from cv_platform.storage.ledger.log_secret import log_secret
from cv_platform.storage.ledger.model import STAGES
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform.structured_logs import FIELDS, camera_reference
from cv_platform_tests.pipeline.conftest import make_world  # noqa: F401  # a fixture
from cv_platform_tests.pipeline.world import MORNING, World, short_clip

CAMERA, SITE = "entrance-of-number-7", "north"

# The run's process: what a pod runs, without a pod. One clip is damaged, one run fails.
RUN = """
import dagster as dg
from cv_platform_tests.kubernetes.location import defs
with dg.DagsterInstance.ephemeral() as instance:
    graph = defs.resolve_job_def("process_clips")
    graph.execute_in_process(instance=instance, partition_key=%r, raise_on_error=False)
    @dg.op
    def fails():
        raise KeyError("raw/north/entrance-of-number-7/2026/03/01/20260301T080000Z.mp4")
    @dg.job
    def failing():
        fails()
    failing.execute_in_process(instance=instance, raise_on_error=False)
"""


@pytest.fixture
def lines(make_world: Callable[..., World], tmp_path: Path) -> tuple[World, list[dict[str, str]], str]:  # noqa: F811
    world = make_world(detectors="hog_people", face_detector="hog_people", face_verifier="hog_people")
    for n in range(2):
        path = short_clip(tmp_path / f"{n}.mp4", frames=4, first_level=9 * n)
        world.upload(path, MORNING + timedelta(seconds=2 * n), camera=CAMERA, site=SITE)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    world.upload(broken, MORNING + timedelta(minutes=1), camera=CAMERA, site=SITE)
    world.ingest()
    adopt_versions(world.database, current_versions(world.platform))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CV_PLATFORM_")}
    environment |= {
        "CV_PLATFORM_STATE_DIR": str(world.settings.state_dir),
        "CV_PLATFORM_POSTGRES_URL": str(world.settings.postgres_url),
        "CV_PLATFORM_DETECTORS": "hog_people",
        "CV_PLATFORM_FACE_DETECTOR": "hog_people",
        "CV_PLATFORM_FACE_VERIFIER": "hog_people",
        "CV_PLATFORM_LOG_FORMAT": "json",
        "CV_TEST_CHECKS": "0",
        "DAGSTER_HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN % MORNING.date().isoformat()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return world, [json.loads(text) for text in done.stderr.splitlines()], done.stderr + done.stdout


def test_every_line_is_json_with_ids_and_nothing_personal(
    lines: tuple[World, list[dict[str, str]], str],
) -> None:
    world, found, said = lines
    assert world.states() == {"published": 2, "quarantined": 1}
    assert all({"time", "level", "logger", "message"} <= set(each) <= FIELDS for each in found)
    about_clips = [each for each in found if "clip" in each]
    ids = {str(clip_id) for (clip_id,) in world.rows("SELECT clip_id FROM cv.clips")}
    assert {each["clip"] for each in about_clips} == ids
    assert {each["stage"] for each in about_clips} == set(STAGES)
    assert {each["camera"] for each in about_clips} == {camera_reference(log_secret(world.database), CAMERA)}
    assert all(each["run"] for each in about_clips)
    assert [each["error"] for each in found if each.get("event") == "STEP_FAILURE"] == ["KeyError"]
    (quarantined,) = [each for each in about_clips if "quarantined" in each["message"]]
    assert quarantined["level"] == "WARNING"
    # No camera, no key of an upload, no time of a recording.
    stamps = [MORNING.strftime("%Y%m%dT%H%M%S"), f"{MORNING:%Y-%m-%d %H:}", f"{MORNING:%Y-%m-%dT%H:}"]
    for personal in (CAMERA, "raw/north", *stamps):
        assert personal not in said
