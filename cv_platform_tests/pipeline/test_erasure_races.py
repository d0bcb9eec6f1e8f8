"""An erasure beside other writers: killed, held up, run twice, and with rows that go cold or come late meanwhile."""

from __future__ import annotations

import shutil
import signal
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cv_platform.governance.erasure import requests
from cv_platform.governance.holds import HoldScope, place_hold, release_hold
from cv_platform.pipeline import erasure, erasure_proof
from cv_platform.pipeline.erasure import bring_back
from cv_platform.pipeline.publishing import collect_garbage
from cv_platform.storage.ledger.erasure_scope import ErasureScope
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform_tests.pipeline import workers
from cv_platform_tests.pipeline.erasing import (
    KEY,
    SECOND,
    ask,
    build_marts,
    erase,
    goes_cold,
    stored_bytes,
)
from cv_platform_tests.pipeline.filmed import CANARY
from cv_platform_tests.pipeline.world import MORNING, VERSIONS, World, short_clip

POINTS = (
    "erasure.begun",
    "erasure.withdrawn",
    "erasure.interval",
    "erasure.purged_rows",
    "erasure.purged_restricted",
    "erasure.purged_cold",
    "erasure.purged",
    "erasure.cold",
    "erasure.hot",
)


@pytest.fixture
def world(make_filmed: Callable[[], World]) -> World:
    """Footage of two cameras, published."""
    return make_filmed()


@pytest.mark.parametrize("point", ["bring_back.done", "erasure.begun"])
def test_a_track_whose_day_goes_cold_meanwhile_goes_whole(world: World, tmp_path: Path, point: str) -> None:
    """Which clips showed it, and which detections are near it, only rows in one place can tell."""
    [(day, number, key, at, box)] = world.rows(
        'SELECT t.track_day, t.track_id, t.clip_s3_key, d."timestamp", d.bbox FROM warehouse.tracks t'
        " JOIN warehouse.detections d USING (camera_id, track_id, clip_s3_key) WHERE camera_id = 'cam1'"
        " ORDER BY t.detections DESC, 4 LIMIT 1"
    )
    near = uuid.uuid4()
    world.execute(
        "INSERT INTO warehouse.detections VALUES (%s, 'cam1', %s, 0, 0.3, %s::float4[], NULL, %s)", near, at, box, key
    )
    request = ask(world, ErasureScope("track", camera_id="cam1", track_day=day, track_id=number))
    goes_cold(world)
    worker = workers.start_erasure(world.settings, request, plan={point: f"stop@{tmp_path / 'once'}"})
    workers.wait_stopped(worker.pid or 0)
    goes_cold(world)
    assert workers.go_on(worker) == 0
    assert requests.get(world.database, request).state == "executed"
    assert world.rows("SELECT state FROM cv.clips WHERE published_key = %s", key) == [("erased",)]
    end = MORNING + timedelta(days=1)
    bring_back(world.platform, ErasureScope("camera", camera_id="cam1", starts_at=MORNING, ends_at=end))
    assert not world.rows("SELECT 1 FROM warehouse.detections WHERE id = %s", near)
    build_marts(world)
    document = erasure_proof.certify(world.platform, request, actor="job", key=KEY)
    assert document is not None
    assert document["erased"]["rows"]["tracks"]["rows"] > 0


def test_what_a_late_worker_wrote_is_deleted_before_it_is_certified(world: World) -> None:
    [(clip_id,)] = world.rows("SELECT clip_id FROM cv.clips WHERE camera_id = 'cam1' ORDER BY captured_at LIMIT 1")
    request = ask(world)
    erasure.execute(world.platform, request, actor="job")
    world.platform.restricted.put_bytes(f"frames/{clip_id}/late.tar", b"late")
    build_marts(world)
    assert erasure_proof.certify(world.platform, request, actor="job", key=KEY) is not None
    assert world.platform.restricted.head(f"frames/{clip_id}/late.tar") is None


@pytest.mark.slow
def test_killed_at_every_point_it_ends_as_if_it_had_not_been(make_filmed: Callable[[], World]) -> None:
    undisturbed, killed = make_filmed(), make_filmed()
    expected = erase(undisturbed)
    request = ask(killed)
    for point in POINTS:
        worker = workers.start_erasure(killed.settings, request, plan={point: "kill"})
        assert workers.ended(worker) == -signal.SIGKILL, point
        assert requests.get(killed.database, request).state == "executing"
    assert erasure.execute(killed.platform, request, actor="job") == "executed"
    assert erasure.execute(killed.platform, request, actor="job") == "executed"  # again changes nothing
    build_marts(killed)
    document = erasure_proof.certify(killed.platform, request, actor="job", key=KEY)
    assert document is not None
    assert {**document["erased"], "objects": None} == {**expected["erased"], "objects": None}
    assert killed.picture() == undisturbed.picture()
    assert not [name for name, data in stored_bytes(killed).items() if CANARY in data]


def test_erased_while_a_worker_has_the_clip_in_hand(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world()
    adopt_versions(world.database, VERSIONS)
    world.upload(short_clip(tmp_path / "a.mp4"), camera="cam1")
    world.ingest()
    world.run("raw_clips")
    worker = workers.start(
        world.settings, "decoded_frames", plan={"decoded_frames.before_commit": f"stop@{tmp_path / 'once'}"}
    )
    workers.wait_stopped(worker.pid or 0)
    request = ask(world)
    assert erasure.execute(world.platform, request, actor="job") == "executed"
    assert workers.go_on(worker) == 0
    world.run()
    assert world.states() == {"erased": 1}
    world.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s', again_at = NULL")
    collect_garbage(world.platform)
    shutil.rmtree(world.settings.scratch, ignore_errors=True)
    assert not [name for name in stored_bytes(world) if name.startswith("store/")]


@pytest.mark.parametrize("point", ["erasure.begun", "erasure.withdrawn", "erasure.purged_cold", "erasure.cold"])
def test_two_runs_of_one_request_at_once_do_it_once(
    make_filmed: Callable[[], World], tmp_path: Path, point: str
) -> None:
    alone, world = make_filmed(), make_filmed()
    expected = erase(alone)["erased"]
    request = ask(world)
    worker = workers.start_erasure(world.settings, request, plan={point: f"stop@{tmp_path / 'once'}"})
    workers.wait_stopped(worker.pid or 0)
    assert erasure.execute(world.platform, request, actor="job") == "executed"
    assert workers.go_on(worker) == 0
    build_marts(world)
    document = erasure_proof.certify(world.platform, request, actor="job", key=KEY)
    assert document is not None
    assert {**document["erased"], "objects": None} == {**expected, "objects": None}
    assert world.picture() == alone.picture()
    for action in ("erasure.begun", "erasure.executed", "erasure.certified"):
        assert world.rows("SELECT count(*) FROM cv.audit_log WHERE action = %s", action) == [(1,)]


def test_a_hold_that_comes_between_two_batches_keeps_what_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = ErasureScope("camera", camera_id="cam1", starts_at=MORNING, ends_at=MORNING + 10 * SECOND)
    request = ask(world, scope)
    withdraw, placed = erasure._withdraw, []
    monkeypatch.setattr(erasure, "_BATCH", 1)

    def then_hold(*arguments: Any) -> bool:
        done = withdraw(*arguments)
        if not placed:
            [(last,)] = world.rows(
                "SELECT clip_id FROM cv.clips WHERE camera_id = 'cam1' ORDER BY clip_id DESC LIMIT 1"
            )
            placed.extend([place_hold(world.database, HoldScope(clip_id=last), reason="case 4", by="counsel")[0], last])
        return done

    monkeypatch.setattr(erasure, "_withdraw", then_hold)
    assert erasure.execute(world.platform, request, actor="job") == "suspended"
    hold, kept = placed
    assert "legal hold" in str(requests.get(world.database, request).detail)
    assert world.rows("SELECT state FROM cv.clips WHERE clip_id = %s", kept) == [("published",)]
    assert world.rows("SELECT wrapped IS NOT NULL FROM cv.clip_keys WHERE clip_id = %s", kept) == [(True,)]
    [(rows,)] = world.rows(
        "SELECT count(*) FROM warehouse.detections WHERE clip_s3_key ="
        " (SELECT published_key FROM cv.clips WHERE clip_id = %s)",
        kept,
    )
    assert rows
    assert world.states()["erased"] == 2
    assert release_hold(world.database, hold, by="counsel")
    requests.approve(world.database, request, by="officer")
    assert erasure.execute(world.platform, request, actor="job") == "executed"
    build_marts(world)
    document = erasure_proof.certify(world.platform, request, actor="job", key=KEY)
    assert document is not None
    assert document["erased"]["clips"] == 3
    assert world.states() == {"erased": 3, "published": 3}
