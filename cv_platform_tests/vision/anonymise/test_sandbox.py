"""The child process: the same result as in process, and no crash, hang or stop reaches the caller."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cv_platform.vision import confined
from cv_platform.vision.anonymise import AnonymisationFailed, AnonymisePolicy
from cv_platform.vision.anonymise import sandbox as sandbox_module
from cv_platform.vision.anonymise.sandbox import DetectorSpec, anonymise_clip_sandboxed
from cv_platform.vision.video.deadline import SECONDS_A_FRAME
from cv_platform.vision.video.limits import ClipLimits
from cv_platform_tests.vision.anonymise.scripted import read_pictures, write_squares

HERE = "cv_platform_tests.vision.anonymise.scripted"
SQUARES = DetectorSpec(f"{HERE}:bright_squares")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "in.mp4", lambda n: [(40, 30, 24)], frames=20)


def test_the_certificate_comes_back(source: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    certificate = anonymise_clip_sandboxed(
        source, tmp_path / "out.mp4", policy=AnonymisePolicy(mosaic_key=bytes(16)), detector=SQUARES,
        verifier=DetectorSpec(f"{HERE}:bright_squares", {"version": "other"}),
        progress=lambda stage, done, total: seen.append(stage),
    )  # fmt: skip
    assert certificate.frames == 20
    assert certificate.verifier == "other"
    assert seen
    assert max(p[30:54, 40:64].max() for p in read_pictures(tmp_path / "out.mp4")[1]) < 60
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize(
    ("detector", "reason"),
    [
        (DetectorSpec(f"{HERE}:crashing"), "decoder_crashed"),
        (DetectorSpec(f"{HERE}:there_is_no_such"), "detector_failed"),
    ],
)
def test_a_child_that_dies_is_a_verdict(source: Path, tmp_path: Path, detector: DetectorSpec, reason: str) -> None:
    (tmp_path / "out.mp4").write_bytes(b"an older one")
    with pytest.raises(AnonymisationFailed) as caught:
        anonymise_clip_sandboxed(
            source, tmp_path / "out.mp4", policy=AnonymisePolicy(), detector=detector, verifier=None
        )
    assert caught.value.reason_code == reason
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_being_stopped_and_running_out_of_time(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "GRACE_S", 0.1)
    asleep = DetectorSpec(f"{HERE}:sleeping")
    for stop, timeout_s, reason in ((True, 60.0, "stopped"), (False, 2.0, "decode_timeout")):
        with pytest.raises(AnonymisationFailed) as caught:
            anonymise_clip_sandboxed(
                source, tmp_path / "out.mp4", policy=AnonymisePolicy(), detector=asleep, verifier=None,
                should_stop=lambda stop=stop: stop, timeout_s=timeout_s,
            )  # fmt: skip
        assert caught.value.reason_code == reason
        assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


class Telling:
    """A child that tells of so many frames at each stage, then fails."""

    def __init__(self, told: list[tuple[str, Any]]) -> None:
        self._told = told
        self.allowed_s = 0.0

    def allow(self, seconds: float) -> None:
        self.allowed_s += seconds

    def events(self) -> Iterator[dict[str, Any]]:
        for stage, done in self._told:
            yield {"event": "progress", "stage": stage, "done": done, "total": None}
        yield {"event": "failed", "code": "damaged", "message": "enough"}


@pytest.mark.parametrize(
    ("told", "frames", "reason"),
    [
        ([("scan", 10), ("scan", 40)], 40, "damaged"),
        ([("scan", 10), ("scan", 80)], 80, "damaged"),  # twice the clip, twice the time
        ([("scan", 40), ("prove", 5), ("write", 40), ("check", 40)], 125, "damaged"),
        ([("scan", 40), ("scan", 40), ("scan", 12), ("scan", 40)], 40, "damaged"),  # told again earns nothing
        ([("scan", 90), ("scan", 101)], 90, "damaged"),  # more than a clip may have
        ([("scan", 10), ("sleep", 90)], 10, "decoder_crashed"),
        ([("scan", 10), ("scan", "90")], 10, "decoder_crashed"),
    ],
)
def test_a_long_clip_gets_longer_by_the_frames_that_are_done(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[tuple[str, Any]], frames: int, reason: str
) -> None:
    child = Telling(told)

    @contextmanager
    def confined_child(*args: Any, **kwargs: Any) -> Iterator[Telling]:
        yield child

    monkeypatch.setattr(sandbox_module, "confined_child", confined_child)
    policy = AnonymisePolicy(limits=ClipLimits(max_frames=100))
    with pytest.raises(AnonymisationFailed) as caught:
        anonymise_clip_sandboxed(source, tmp_path / "out.mp4", policy=policy, detector=SQUARES, verifier=None)
    assert caught.value.reason_code == reason
    assert child.allowed_s == pytest.approx(frames * SECONDS_A_FRAME)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"policy": {}},
        {"policy": {"zones": []}},
        {"policy": {"classes": [0]}},
        {"policy": {"verify_threshold": 0.99}},
        {"verifier": None},
        {"worst_coverage": "all"},
        {"schema": 9},
    ],
    ids=str,
)
def test_a_certificate_of_another_task_than_was_given_is_none(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    policy = AnonymisePolicy(zones=(((0.0, 0.0), (0.1, 0.0), (0.1, 0.1)),), mosaic_key=bytes(16))
    arguments: dict[str, Any] = {
        "policy": policy, "detector": SQUARES, "verifier": DetectorSpec(f"{HERE}:bright_squares", {"version": "other"})
    }  # fmt: skip
    good = json.loads(anonymise_clip_sandboxed(source, tmp_path / "out.mp4", **arguments).to_json())
    told = {**good, **changes}
    if len(changes.get("policy", {})) == 1:
        told["policy"] = good["policy"] | changes["policy"]

    class Done(Telling):
        def events(self) -> Iterator[dict[str, Any]]:
            yield {"event": "done", "certificate": json.dumps(told)}

    @contextmanager
    def confined_child(module: str, request: dict[str, Any], **kwargs: Any) -> Iterator[Telling]:
        Path(request["destination"]).write_bytes(b"made")
        yield Done([])

    monkeypatch.setattr(sandbox_module, "confined_child", confined_child)
    if not changes:
        assert anonymise_clip_sandboxed(source, tmp_path / "out.mp4", **arguments).frames == 20
        return
    with pytest.raises(AnonymisationFailed) as caught:
        anonymise_clip_sandboxed(source, tmp_path / "out.mp4", **arguments)
    assert caught.value.reason_code == "decoder_crashed"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]
