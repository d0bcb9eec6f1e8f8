"""A published clip held against its certificate: every way in which it can be another thing is told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest

from cv_platform.vision.anonymise import AnonymisationFailed, AnonymisePolicy, Certificate
from cv_platform.vision.anonymise.certificate import sha256_of
from cv_platform.vision.anonymise.clip import anonymise_clip
from cv_platform.vision.anonymise.verification import verify_clip
from cv_platform.vision.detections import Detections
from cv_platform_tests.vision.anonymise.scripted import BrightSquares, read_pictures, write_squares

FRAMES = 24


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Certificate]:
    """What was recorded, what was published, and its certificate."""
    folder = tmp_path_factory.mktemp("verification")
    source = write_squares(folder / "in.mp4", lambda n: [(20 + 2 * n, 30, 24)], frames=FRAMES, sound=True)
    clip = folder / "out.mp4"
    certificate = anonymise_clip(
        source, clip, policy=AnonymisePolicy(), detector=BrightSquares(), verifier=BrightSquares(version="other")
    )
    return source, clip, certificate


def certified(clip: Path, certificate: Certificate, **changes: Any) -> Certificate:
    """The certificate as if that file had been published with it."""
    digest, size = sha256_of(clip)
    return replace(certificate, output_sha256=digest, output_bytes=size, **changes)


def remuxed(clip: Path, target: Path, *, metadata: dict[str, str] | None = None, stop: int | None = None) -> Path:
    with av.open(str(clip)) as source, av.open(str(target), "w") as out:
        copy = out.add_stream_from_template(source.streams.video[0])
        out.metadata.update(metadata or {})
        for packet in [p for p in source.demux(video=0) if p.size][:stop]:
            packet.stream = copy
            out.mux(packet)
    return target


def test_what_was_published_is_what_its_certificate_says(published: tuple[Path, Path, Certificate]) -> None:
    _, clip, certificate = published
    told: list[int] = []
    found = verify_clip(clip, certificate, detector=BrightSquares(), rate_hz=5, progress=told.append)
    assert found.problems == []
    assert found.ok
    assert found.frames == FRAMES
    assert found.frames_examined == 6  # 1.2 s, five a second
    assert told == list(range(1, FRAMES + 1))


def test_any_other_byte_is_noticed(published: tuple[Path, Path, Certificate], tmp_path: Path) -> None:
    _, clip, certificate = published
    other = tmp_path / "clip.mp4"
    shutil.copy(clip, other)
    with open(other, "ab") as file:
        file.write(b"\0\0\0\x08free")
    found = verify_clip(other, certificate)
    assert [p for p in found.problems if "digest or length differs" in p]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"verifier": None}, "no second detector"),
        ({"worst_coverage": 0.5}, "only 50% coverage"),
        ({"frames": FRAMES + 1}, f"decodes to {FRAMES} frames; the certificate names {FRAMES + 1}"),
        ({"width": 320}, "not of the size"),
    ],
)
def test_a_certificate_that_claims_something_else(
    published: tuple[Path, Path, Certificate], changes: dict[str, Any], says: str
) -> None:
    _, clip, certificate = published
    found = verify_clip(clip, replace(certificate, **changes))
    assert len(found.problems) == 1
    assert says in found.problems[0]


def test_a_face_that_is_still_there_is_found(published: tuple[Path, Path, Certificate], tmp_path: Path) -> None:
    source, _, certificate = published
    bare = remuxed(source, tmp_path / "bare.mp4")
    found = verify_clip(bare, certified(bare, certificate), detector=BrightSquares(), rate_hz=100)
    assert f"a face is still found in {FRAMES} of {FRAMES} examined frames" in found.problems
    unseen = verify_clip(bare, certified(bare, certificate))
    assert not [p for p in unseen.problems if "face" in p], "nobody looked"


def test_sound_and_words_that_should_not_be_there(published: tuple[Path, Path, Certificate], tmp_path: Path) -> None:
    source, clip, certificate = published
    spoken = verify_clip(source, certified(source, certificate))
    assert [p for p in spoken.problems if "streams audio, video" in p]
    keeping = certified(source, certificate, policy={**certificate.policy, "audio": "keep"})
    assert not [p for p in verify_clip(source, keeping).problems if "streams" in p]
    titled = remuxed(clip, tmp_path / "titled.mp4", metadata={"title": "Main Street", "location": "+52.5+013.4/"})
    assert [p for p in verify_clip(titled, certified(titled, certificate)).problems if "metadata" in p and "title" in p]


def test_what_does_not_decode_and_what_is_no_clip(published: tuple[Path, Path, Certificate], tmp_path: Path) -> None:
    _, clip, certificate = published
    short = remuxed(clip, tmp_path / "short.mp4", stop=FRAMES - 6)
    problems = verify_clip(short, certified(short, certificate)).problems
    assert [p for p in problems if f"the certificate names {FRAMES}" in p]
    text = tmp_path / "text.mp4"
    text.write_text("no clip at all")
    problems = verify_clip(text, certified(text, certificate)).problems
    assert [p for p in problems if "does not decode" in p]
    assert [p for p in problems if "cannot be read as MP4" in p]


class SeesMoreAt(BrightSquares):
    """Sees one more face, low down, in those frames whose square begins at one of these columns."""

    def __init__(self, columns: set[int]) -> None:
        super().__init__(version="more")
        self._columns = columns

    def _one(self, frame: Any) -> Detections:
        found = super()._one(frame)
        if len(found) and round(float(found.boxes[0, 0])) in self._columns:
            more = found[:1]
            return Detections.concatenate(
                [found, Detections([[20, 90, 40, 110]], more.scores, more.class_ids)]  # type: ignore[arg-type]
            )
        return found


@pytest.mark.parametrize(("strays", "passes"), [({60}, True), ({60, 80, 100}, False)])
def test_a_stray_face_in_one_frame_of_a_hundred_is_hidden_by_itself_and_three_are_too_many(
    tmp_path: Path, strays: set[int], passes: bool
) -> None:
    """What is left after the last round: few are pinned where they are, more are a failure."""
    source = write_squares(tmp_path / "in.mp4", lambda n: [(20 + n, 30, 12)], frames=120)
    arguments: dict[str, Any] = {
        "policy": AnonymisePolicy(max_rounds=0, verify_rate_hz=100.0, detect_stride=1),
        "detector": BrightSquares(),
        "verifier": SeesMoreAt(strays),
    }
    if not passes:
        with pytest.raises(AnonymisationFailed) as failed:
            anonymise_clip(source, tmp_path / "out.mp4", **arguments)
        assert failed.value.reason_code == "uncovered"
        return
    certificate = anonymise_clip(source, tmp_path / "out.mp4", **arguments)
    assert certificate.worst_coverage >= 0.95
    assert certificate.rounds == 0
    pictures = read_pictures(tmp_path / "out.mp4")[1]
    assert pictures[40][92:108, 22:38].max() < 25, "black, not the ground"
    assert pictures[110][92:108, 22:38].mean() > 30, "only about where it was seen"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"verifier": None}, "never proven"),
        ({"detector": "a@0123456789ab:v2:x/640", "verifier": "a@0123456789ab:v2:x/1280"}, "first one again (a)"),
        ({"detector": "a@0123456789ab:v2", "verifier": "a@ba9876543210:v2"}, "first one again (a)"),
        ({"detector": "fused:v1/0.55(a@0123456789ab:v2/1e+06+b:v1)", "verifier": "b:v1:0.5"}, "first one again (b)"),
        ({"detector": "fused:v1/0.55(a@0123456789ab:v2/1e+06+b:v1)", "verifier": "c:v1:1e+06"}, None),
        ({"worst_coverage": 0.94}, "only 94% coverage"),
        ({"worst_coverage": float("nan")}, "coverage"),
        ({"worst_coverage": 1.5}, "coverage"),
        ({"policy": {"cover_share": float("nan")}}, "coverage"),
        ({"policy": {"cover_share": "0.1"}}, "coverage"),
        ({"policy": {}}, None),
        ({"frames_verified": 0}, "saw 0 of 24"),
        ({"frames_verified": 25}, "saw 25 of 24"),
        ({"frames": 0}, "of 0 frames"),
    ],
)
def test_what_a_certificate_fails_to_prove(
    published: tuple[Path, Path, Certificate], changes: dict[str, Any], says: str | None
) -> None:
    certificate = replace(published[2], **changes)
    found = certificate.shortcomings()
    assert found == [] if says is None else says in " ".join(found)
    lenient = certificate.shortcomings(may_check_itself=True)
    assert lenient == ([] if says is not None and "first one again" in says else found)


@pytest.mark.parametrize(
    "change",
    [
        {"worst_coverage": float("nan")},
        {"worst_coverage": float("inf")},
        {"worst_coverage": "1.0"},
        {"worst_coverage": None},
        {"frames": -1},
        {"frames": True},
        {"frames": 24.0},
        {"verifier": 7},
        {"policy": []},
        {"detector": None},
        {"schema": 2},
        {"more": 1},
    ],
)
def test_what_no_certificate_can_say_is_none(published: tuple[Path, Path, Certificate], change: dict[str, Any]) -> None:
    values = json.loads(published[2].to_json()) | change
    with pytest.raises(ValueError, match="no anonymisation certificate"):
        Certificate.from_json(json.dumps(values))
