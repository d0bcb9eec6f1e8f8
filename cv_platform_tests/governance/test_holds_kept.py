"""A held clip keeps what it has: replaced uploads, new versions, failures, the collector and late clips pass it by."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cv_platform.governance.holds import HoldScope, place_hold, release_hold
from cv_platform.pipeline.publishing import collect_garbage
from cv_platform.storage.ledger.after_holds import resume_after_holds
from cv_platform.storage.ledger.commits import reject
from cv_platform.storage.ledger.model import DETECTIONS, STAGES
from cv_platform.storage.ledger.queries import balance
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform.storage.ledger.withdrawal import replay
from cv_platform_tests.pipeline.world import MORNING, VERSIONS, World, short_clip
from cv_platform_tests.storage.test_ledger import claim_one

NEWER = dict.fromkeys(STAGES, "v2")


@pytest.fixture
def held(make_world: Callable[..., World], tmp_path: Path) -> tuple[World, uuid.UUID]:
    """One processed clip, then a hold on its camera."""
    world = make_world()
    adopt_versions(world.database, VERSIONS)
    world.upload(short_clip(tmp_path / "a.mp4", frames=4))
    world.ingest()
    world.run()
    hold, covered = place_hold(world.database, HoldScope(camera_id="cam1"), reason="case 1", by="officer")
    assert covered == 1
    return world, hold


def picture(world: World) -> dict[str, Any]:
    """The world's rows and objects, the collector's leftovers collected."""
    world.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s', again_at = NULL")
    collect_garbage(world.platform)
    objects = {
        info.key: store.sha256(info.key)
        for store in (world.platform.cold,)
        for prefix in ("blurred", "detections", "frames", "vault")
        for info in store.list(prefix)
    }
    return {"tables": world.tables(), "objects": objects}


def test_a_new_upload_waits_beside_the_held_clip_and_replaces_it_after_the_release(
    held: tuple[World, uuid.UUID], tmp_path: Path
) -> None:
    world, hold = held
    before = picture(world)
    world.upload(short_clip(tmp_path / "b.mp4", frames=5, first_level=90))
    assert world.ingest().quarantined == 1
    world.run()
    assert world.states() == {"published": 1, "quarantined": 1}
    [(second, reason)] = world.rows(
        "SELECT clip_id, quarantine_reason FROM cv.clips WHERE quarantine_code = 'key_held'"
    )
    assert "hold" in reason
    assert picture(world) == before
    assert replay(world.database, [second]) == 0  # the hold still stands
    assert release_hold(world.database, hold, by="officer")
    assert replay(world.database, [second]) == 1
    world.run()
    assert world.states() == {"superseded": 1, "published": 1}
    assert balance(world.database).balances
    assert picture(world) != before


def test_other_bytes_under_its_key_do_not_pass_for_a_held_clip(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    """Overwritten by the camera before the vault had them: its own are gone, and the others keep their place."""
    world = make_world()
    key = world.upload(short_clip(tmp_path / "a.mp4", frames=2))
    world.ingest()
    place_hold(world.database, HoldScope(camera_id="cam1"), reason="case 1", by="officer")
    world.upload(short_clip(tmp_path / "b.mp4", frames=3, first_level=80))
    world.ingest()
    world.run("raw_clips")
    codes = world.rows("SELECT quarantine_code FROM cv.clips ORDER BY 1")
    assert codes == [("key_held",), ("upload_replaced",)]
    assert world.platform.restricted.get_bytes(key) == (tmp_path / "b.mp4").read_bytes()
    assert balance(world.database).balances


def test_a_new_version_passes_held_clips_by_until_the_release(held: tuple[World, uuid.UUID]) -> None:
    world, hold = held
    before = picture(world)
    assert set(adopt_versions(world.database, NEWER).values()) == {0}
    assert all(report.done == 0 for report in world.run(versions=NEWER).values())
    assert picture(world) == before
    assert world.states() == {"published": 1}
    release_hold(world.database, hold, by="officer")
    assert resume_after_holds(world.database) == 1
    assert resume_after_holds(world.database) == 0
    world.run(versions=NEWER)
    assert world.rows("SELECT DISTINCT state, version FROM cv.stages") == [("done", "v2")]


@pytest.mark.parametrize("stage", STAGES)
def test_work_that_was_under_way_when_the_hold_came_replaces_nothing(
    make_world: Callable[..., World], tmp_path: Path, stage: str
) -> None:
    world = make_world()
    adopt_versions(world.database, VERSIONS)
    world.upload(short_clip(tmp_path / "a.mp4", frames=4))
    world.ingest()
    world.run()
    before = picture(world)
    adopt_versions(world.database, {**VERSIONS, stage: "v2"})
    # A hold that adoption and freezing have both just missed: only the commit can notice.
    world.execute(
        "INSERT INTO cv.holds (hold_id, camera_id, reason, placed_by) VALUES (gen_random_uuid(), 'cam1', 'c', 'o')"
    )
    for _ in range(2):
        world.run(versions={**VERSIONS, stage: "v2"})
    assert picture(world) == before
    assert {state for (state,) in world.rows("SELECT state FROM cv.stages")} <= {"done", "frozen"}
    assert balance(world.database).balances


def test_a_held_clip_that_fails_keeps_what_it_has_until_the_release(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world()
    world.upload(short_clip(tmp_path / "a.mp4", frames=4))
    world.ingest()
    world.run("raw_clips", "decoded_frames", DETECTIONS)
    hold, _ = place_hold(world.database, HoldScope(site_id="north"), reason="case 1", by="officer")
    before = picture(world)
    claim = claim_one(world.database, "blurred_clips")
    assert claim is not None
    reject(world.database, claim, code="not_proven", reason="its anonymisation is not proven")
    assert world.states() == {"quarantined": 1}
    assert picture(world) == before
    [(clip,)] = world.rows("SELECT clip_id FROM cv.clips")
    assert replay(world.database, [clip]) == 1
    assert balance(world.database).balances
    world.run()
    assert world.states() == {"published": 1}
    found = world.rows("SELECT id FROM warehouse.detections ORDER BY id")
    assert found == [row[:1] for row in before["tables"]["detections"]]  # only now have they been tracked
    release_hold(world.database, hold, by="officer")
    assert resume_after_holds(world.database) == 1  # what was replayed is made anew
    world.run()
    assert {state for (state,) in world.rows("SELECT state FROM cv.stages")} == {"done"}


def test_what_a_held_clip_that_failed_left_goes_after_the_release(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world()
    world.upload(short_clip(tmp_path / "a.mp4", frames=4))
    world.ingest()
    world.run("raw_clips", "decoded_frames", DETECTIONS)
    hold, _ = place_hold(world.database, HoldScope(site_id="north"), reason="case 1", by="officer")
    claim = claim_one(world.database, "blurred_clips")
    assert claim is not None
    reject(world.database, claim, code="not_proven", reason="its anonymisation is not proven")
    release_hold(world.database, hold, by="officer")
    assert resume_after_holds(world.database) == 1
    left = picture(world)
    assert not left["tables"]["detections"]
    assert not [key for key in left["objects"] if not key.startswith("vault/")]
    assert world.states() == {"quarantined": 1}


def test_a_late_clip_does_not_track_a_held_clip_anew(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world()
    world.upload(short_clip(tmp_path / "b.mp4", first_level=40), MORNING + timedelta(seconds=2))
    world.ingest()
    world.run()
    place_hold(world.database, HoldScope(camera_id="cam1"), reason="case 1", by="officer")
    before = world.rows("SELECT * FROM warehouse.tracks ORDER BY id")
    world.upload(short_clip(tmp_path / "a.mp4", first_level=30))
    world.ingest()
    world.run()
    world.run()
    assert before
    assert [row for row in world.rows("SELECT * FROM warehouse.tracks ORDER BY id") if row in before] == before
    assert len(world.rows("SELECT 1 FROM cv.stages WHERE stage = 'tracks' AND state = 'pending'")) == 0
    assert balance(world.database).balances
