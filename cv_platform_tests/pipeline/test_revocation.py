"""A model that is revoked leaves nothing published that it hid."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cv_platform import faults
from cv_platform.governance import audit
from cv_platform.governance.holds import HoldScope, place_hold
from cv_platform.governance.revocation import revoke_models
from cv_platform.pipeline.blurred_clips import BlurredClips
from cv_platform.pipeline.publishing import collect_garbage
from cv_platform.pipeline.stage import run_stage
from cv_platform.pipeline.versions import current_versions, models_for, registry_of
from cv_platform.storage.ledger.model import Scope
from cv_platform.storage.ledger.queries import balance
from cv_platform.storage.ledger.revocation import models_in
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform.vision.anonymise import Certificate
from cv_platform.vision.models import ModelRefused
from cv_platform_tests.pipeline.world import VERSIONS, World, certify, short_clip, with_settings

FINDER, CHECKER, BETTER = "finder@0123456789ab", "checker@ba9876543210", "better@00112233445f"


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ((f"{FINDER}:v1:yolox/640/0.1/0.5/300", f"{CHECKER}:v1:yunet/x"), [CHECKER, FINDER]),
        ((f"fused:v1/0.55({FINDER}:v1:a/1+{CHECKER}:v1:b/2)", None), [CHECKER, FINDER]),
        (("hog_people:v1:0.1/0.2", "none"), []),
    ],
)
def test_versions_name_their_models(versions: tuple[str | None, ...], expected: list[str]) -> None:
    assert models_in(*versions) == expected


def hidden_by(finder: str, during: Callable[[], None] = lambda: None) -> BlurredClips:
    """The stage, with a certificate that names a model."""

    def anonymise(clip: Any, source: Path, destination: Path, should_stop: Any) -> Certificate:
        certificate = certify(clip, source, destination, should_stop)
        during()
        return dataclasses.replace(certificate, detector=f"{finder}:v1:x", verifier=f"{CHECKER}:v1:y")

    return BlurredClips("v1", anonymise)


@pytest.fixture
def published(world: World, tmp_path: Path) -> World:
    """Two clips: one hidden by FINDER, one by BETTER."""
    adopt_versions(world.database, VERSIONS)
    for camera, model in (("cam1", FINDER), ("cam2", BETTER)):
        world.upload(short_clip(tmp_path / f"{camera}.mp4", frames=4), camera=camera)
        world.ingest()
        world.run("raw_clips", "decoded_frames", "detections", "tracks")
        run_stage(world.platform, hidden_by(model), Scope())
    assert world.states() == {"published": 2}
    return world


def stable_objects(world: World) -> int:
    world.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s', again_at = NULL")
    collect_garbage(world.platform)
    return sum(info.key.endswith(".mp4") for info in world.platform.cold.list("blurred"))


def test_what_it_hid_is_taken_back_and_made_anew(published: World) -> None:
    done = revoke_models(published.database, [FINDER], reason="misses profiles", by="officer")
    assert (done.again, done.quarantined) == (1, 0)
    assert published.states() == {"in_progress": 1, "published": 1}
    assert stable_objects(published) == 1
    assert balance(published.database).balances
    run_stage(published.platform, hidden_by(BETTER), Scope())
    assert published.states() == {"published": 2}
    assert stable_objects(published) == 2
    [(models,)] = published.rows("SELECT DISTINCT published_models FROM cv.clips")
    assert models == [BETTER, CHECKER]
    assert [entry.action for entry in audit.entries(published.database)] == ["models.revoked"]


def test_where_the_raw_clip_is_gone_or_held_it_is_quarantined(published: World) -> None:
    published.execute("UPDATE cv.clips SET raw_deleted_at = now() WHERE camera_id = 'cam1'")
    place_hold(published.database, HoldScope(camera_id="cam2"), reason="case", by="counsel")
    done = revoke_models(published.database, [FINDER, BETTER], reason="misses profiles", by="officer")
    assert (done.again, done.quarantined) == (0, 2)
    assert published.states() == {"quarantined": 2}
    assert stable_objects(published) == 1, "what a hold keeps stays, and is not published"
    assert balance(published.database).balances


def test_revoked_while_a_worker_blurs_with_it_nothing_is_published(published: World) -> None:
    revoke_models(published.database, [FINDER], reason="misses profiles", by="officer")

    def meanwhile() -> None:
        revoke_models(published.database, [BETTER], reason="misses hats", by="officer")

    report = run_stage(published.platform, hidden_by(BETTER, meanwhile), Scope())
    assert (report.done, report.stale) == (0, 2), "the clip in hand, and the one that was taken back meanwhile"
    assert published.states() == {"in_progress": 2}
    assert stable_objects(published) == 0


def test_killed_in_between_it_goes_on(published: World) -> None:
    with faults.plan(revocation__noted="raise"), pytest.raises(faults.InjectedFault):
        revoke_models(published.database, [FINDER, BETTER], reason="both", by="officer")
    assert published.states() == {"published": 2}
    with faults.plan(revocation__taken_back="raise"), pytest.raises(faults.InjectedFault):
        revoke_models(published.database, [FINDER, BETTER], reason="both", by="officer")
    revoke_models(published.database, [FINDER, BETTER], reason="both", by="officer")
    assert published.states() == {"in_progress": 2}
    assert [entry.action for entry in audit.entries(published.database)] == ["models.revoked"]


def test_a_revoked_model_is_refused_by_name_and_passed_over_by_auto(world: World, shared_data: Path) -> None:
    light = {"detectors": "hog_people", "face_verifier": "hog_people", "model_dir": shared_data / "models"}
    platform = World.at(with_settings(world.settings, **light)).platform
    before = current_versions(platform)
    for name in ("centerface", "yunet"):
        files = [f"{name}@{digest[:12]}" for digest in registry_of(platform.settings).entry(name).digests]
        revoke_models(world.database, files, reason="misses profiles", by="officer")
    with pytest.raises(ModelRefused, match=r"misses profiles.*CV_PLATFORM_FACE_DETECTOR"):
        current_versions(platform)
    other = with_settings(world.settings, **light, face_detector="hog_people")
    assert current_versions(World.at(other).platform)["blurred_clips"] != before["blurred_clips"]
    auto = with_settings(other, face_verifier="auto")
    assert not {"centerface", "yunet"} & set(models_for(World.at(auto).platform, "face_verifier"))
