"""The last look before publication: what is not proven is not published, whoever says that it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cv_platform.pipeline.blurred_clips import BlurredClips
from cv_platform.pipeline.certificates import CertificateCheck, check_certificates
from cv_platform.pipeline.outputs import CERTIFICATE_SUFFIX
from cv_platform.pipeline.published_clips import fetch_published
from cv_platform.pipeline.publishing import publish_due
from cv_platform.pipeline.stage import run_stage
from cv_platform.pipeline.stages import run_named_stage
from cv_platform.storage.ledger.model import BLURRED_CLIPS, RAW_CLIPS, Scope
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform.storage.objects import ObjectMissing
from cv_platform.storage.sealed import SealBroken
from cv_platform.vision.anonymise import AnonymisationFailed, Certificate
from cv_platform.vision.models import ModelRefused
from cv_platform_tests.pipeline.world import MORNING, VERSIONS, World, certify, short_clip, with_settings

Change = Callable[[Certificate, Path], Certificate]


@pytest.fixture
def waiting(world: World, tmp_path: Path) -> World:
    """A clip that waits to be blurred."""
    world.upload(short_clip(tmp_path / "a.mp4", frames=4))
    world.ingest()
    adopt_versions(world.database, VERSIONS)
    world.run(RAW_CLIPS)
    return world


def stage(change: Change) -> BlurredClips:
    """The stage with an anonymiser that ends otherwise."""

    def anonymise(clip: Any, source: Path, destination: Path, should_stop: Any) -> Certificate:
        return change(certify(clip, source, destination, should_stop), destination)

    return BlurredClips(VERSIONS[BLURRED_CLIPS], anonymise)


def published(world: World) -> list[str]:
    publish_due(world.platform, Scope())
    return [info.key for info in world.platform.cold.list("blurred")]


def another_file(certificate: Certificate, made: Path) -> Certificate:
    made.write_bytes(made.read_bytes()[::-1] + b"!")
    return certificate


def no_file(certificate: Certificate, made: Path) -> Certificate:
    made.unlink()
    return certificate


def test_what_is_proven_is_published(waiting: World) -> None:
    assert run_stage(waiting.platform, stage(lambda certificate, made: certificate), Scope()).done == 1
    assert len(published(waiting)) == 2  # with its certificate


@pytest.mark.parametrize(
    "change",
    [
        lambda certificate, made: replace(certificate, verifier=None),
        lambda certificate, made: replace(certificate, verifier=certificate.detector),
        lambda certificate, made: replace(certificate, worst_coverage=0.9),
        lambda certificate, made: replace(certificate, worst_coverage=float("nan")),
        lambda certificate, made: replace(certificate, frames_verified=0),
        lambda certificate, made: replace(certificate, frames=0, frames_verified=0),
        another_file,
    ],
    ids=["no verifier", "one model", "coverage", "no number", "nothing verified", "no frame", "another file"],
)
def test_what_is_not_proven_is_quarantined(waiting: World, change: Change) -> None:
    named = World.at(with_settings(waiting.settings, face_verifier="yunet"))
    report = run_stage(named.platform, stage(change), Scope())
    assert dict(report.quarantined) == {"proof_failed": 1}
    assert waiting.states() == {"quarantined": 1}
    assert published(waiting) == []


def test_a_model_may_check_itself_only_where_nobody_named_another(waiting: World) -> None:
    """`auto` comes to it where no second model can be had: the first look at the platform shows something."""
    assert waiting.settings.face_verifier == "auto"
    itself = stage(lambda certificate, made: replace(certificate, verifier=certificate.detector))
    assert run_stage(waiting.platform, itself, Scope()).done == 1
    assert len(published(waiting)) == 2
    day = waiting.rows("SELECT capture_date FROM cv.clips")[0][0]
    assert check_certificates(waiting.platform, day).without == 0
    named = World.at(with_settings(waiting.settings, face_verifier="yunet"))
    assert check_certificates(named.platform, day).without == 1


@pytest.mark.parametrize(
    "change",
    [lambda certificate, made: replace(certificate, input_sha256="0" * 64), no_file],
    ids=["another clip's", "no file"],
)
def test_what_may_pass_is_tried_again(waiting: World, change: Change) -> None:
    report = run_stage(waiting.platform, stage(change), Scope())
    assert (report.done, report.postponed) == (0, 1)
    assert published(waiting) == []


def test_a_failure_that_may_pass_is_tried_again_and_publishes_nothing(waiting: World) -> None:
    def full(certificate: Certificate, made: Path) -> Certificate:
        raise AnonymisationFailed("disk_full")

    assert run_stage(waiting.platform, stage(full), Scope()).postponed == 1
    assert published(waiting) == []


def test_a_clip_uploaded_again_while_it_is_blurred_is_not_published(waiting: World, tmp_path: Path) -> None:
    newer = short_clip(tmp_path / "b.mp4", first_level=9, frames=4)

    def meanwhile(certificate: Certificate, made: Path) -> Certificate:
        waiting.upload(newer)
        assert waiting.ingest().superseded == 1
        return certificate

    report = run_stage(waiting.platform, stage(meanwhile), Scope())
    assert (report.done, report.stale) == (0, 1)
    assert published(waiting) == []
    assert waiting.states() == {"superseded": 1, "in_progress": 1}


def test_a_policy_that_changes_while_a_clip_is_blurred_is_not_passed_over(waiting: World) -> None:
    def meanwhile(certificate: Certificate, made: Path) -> Certificate:
        adopt_versions(waiting.database, {**VERSIONS, BLURRED_CLIPS: "hides more"})
        return certificate

    report = run_stage(waiting.platform, stage(meanwhile), Scope())
    assert (report.done, report.stale) == (0, 1)
    assert published(waiting) == []
    assert waiting.states() == {"in_progress": 1}


def test_a_model_that_would_prove_itself_is_refused_before_a_clip_is_touched(waiting: World) -> None:
    same = {"detectors": "hog_people", "face_detector": "hog_people", "face_verifier": "hog_people"}
    platform = World.at(with_settings(waiting.settings, **same)).platform
    with pytest.raises(ModelRefused, match=r"CV_PLATFORM_FACE_VERIFIER.*second"):
        run_named_stage(platform, BLURRED_CLIPS, Scope())
    assert waiting.rows("SELECT state, attempts FROM cv.stages WHERE stage = 'blurred_clips'") == [("pending", 0)]


def changed(text: bytes) -> bytes:
    return text.replace(b'"worst_coverage": 1.0', b'"worst_coverage": 0.99')


def proves_nothing(text: bytes) -> bytes:
    return text.replace(b'"verifier": "another"', b'"verifier": null')


def no_number(text: bytes) -> bytes:
    return text.replace(b'"worst_coverage": 1.0', b'"worst_coverage": NaN')


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "from before digests were noted"])
@pytest.mark.parametrize("tampered", [changed, proves_nothing, no_number, lambda text: b"{}", lambda text: None])
def test_a_certificate_that_was_tampered_with_in_the_store_is_noticed(
    waiting: World, tmp_path: Path, tampered: Callable[[bytes], bytes | None], noted: bool
) -> None:
    waiting.run(BLURRED_CLIPS)
    day = MORNING.date()
    assert check_certificates(waiting.platform, day) == CertificateCheck(1, 0, 1.0, 1.0)
    [(clip_id, key)] = waiting.rows("SELECT clip_id, published_key FROM cv.clips")
    fetch_published(waiting.platform, clip_id, tmp_path / "before.mp4")
    beside = key + CERTIFICATE_SUFFIX
    text = tampered(waiting.platform.cold.get_bytes(beside))
    if text is None:
        waiting.platform.cold.delete([beside])
    else:
        assert text != waiting.platform.cold.get_bytes(beside)
        waiting.platform.cold.put_bytes(beside, text)
    if not noted:
        waiting.execute("UPDATE cv.clips SET certificate_sha256 = NULL")
    found = check_certificates(waiting.platform, day)
    assert (found.published, found.without) == (1, 0 if tampered is changed and not noted else 1)
    if noted:
        with pytest.raises((SealBroken, ObjectMissing)):
            fetch_published(waiting.platform, clip_id, tmp_path / "after.mp4")
        assert not (tmp_path / "after.mp4").exists()


def test_a_certificate_of_another_clip_is_no_certificate(waiting: World, tmp_path: Path) -> None:
    waiting.upload(short_clip(tmp_path / "b.mp4", first_level=9, frames=4), camera="cam2")
    waiting.ingest()
    waiting.run(RAW_CLIPS, BLURRED_CLIPS)
    (one, other) = (key + CERTIFICATE_SUFFIX for (key,) in waiting.rows("SELECT published_key FROM cv.clips"))
    waiting.platform.cold.put_bytes(one, waiting.platform.cold.get_bytes(other))
    waiting.execute("UPDATE cv.clips SET certificate_sha256 = NULL")  # not by its digest alone
    assert check_certificates(waiting.platform, MORNING.date()).without == 1
