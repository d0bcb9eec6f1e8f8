"""Which frames are looked at, and that looking ahead changes nothing in what is found."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cv_platform.vision.anonymise import AnonymisePolicy
from cv_platform.vision.anonymise.clip import anonymise_clip
from cv_platform.vision.anonymise.scan import scan
from cv_platform.vision.anonymise.sightings import Scan
from cv_platform.vision.anonymise.source import FrameReader
from cv_platform.vision.detections import Detections
from cv_platform.vision.detectors.base import Detector
from cv_platform_tests.vision.anonymise.scripted import (
    BrightSquares,
    Picture,
    Where,
    read_pictures,
    write_squares,
)

SIZE = (320, 240)
POLICY = AnonymisePolicy(detect_stride=4)


class TwoLanes(BrightSquares):
    """Serves two callers at once, and tells which threads they were."""

    lanes = 2

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()

    def detect_alongside(self, frames: Sequence[Picture]) -> list[Detections]:
        self.threads.add(threading.current_thread().name)
        return self.detect(frames)


def looked(path: Path, where: Where, detector: Detector, *, verifier: Detector | None = None) -> Scan:
    clip = write_squares(path / "in.mkv", where, frames=64, size=SIZE, codec="mpeg4", options={"qscale": "2"})
    reader = FrameReader(clip, limits=POLICY.limits, should_stop=lambda: False)
    return scan(reader, policy=POLICY, detector=detector, verifier=verifier)


def steady(number: int) -> list[tuple[float, float, int]]:
    return [(140, 100, 48)]


def away(first: int) -> Where:
    """Beside its place for three frames, between two looks at a face that seemed to stay."""
    return lambda number: [(60 if first <= number < first + 3 else 140, 100, 48)]


def walking(number: int) -> list[tuple[float, float, int]]:
    return [(4 * number, 100, 48)]


def small(number: int) -> list[tuple[float, float, int]]:
    return [(140, 100, 16)]


@pytest.mark.parametrize(
    ("where", "longest"), [(steady, 8), (walking, 4), (small, 4), (lambda number: [], 4)],
    ids=["steady", "walking", "small", "empty"],
)  # fmt: skip
def test_only_a_large_steady_face_is_looked_at_half_as_often(tmp_path: Path, where: Where, longest: int) -> None:
    frames = sorted(looked(tmp_path, where, BrightSquares()).detected)
    assert max(np.diff(frames)) == longest


def test_nor_one_that_was_never_surely_seen(tmp_path: Path) -> None:
    frames = sorted(looked(tmp_path, steady, BrightSquares(score=0.4)).detected)
    assert max(np.diff(frames)) == 4


@pytest.mark.parametrize("first", [23, 25, 28, 30])
def test_a_face_that_is_elsewhere_between_two_looks_is_hidden_there_too(tmp_path: Path, first: int) -> None:
    clip = write_squares(tmp_path / "in.mkv", away(first), frames=64, size=SIZE, codec="mpeg4", options={"qscale": "2"})
    anonymise_clip(clip, tmp_path / "out.mp4", policy=POLICY, detector=BrightSquares(), verifier=None)
    _, pictures = read_pictures(tmp_path / "out.mp4")
    assert [number for number, picture in enumerate(pictures) if picture.max() > 150] == []


@pytest.mark.parametrize("where", [steady, walking, away(25)])
def test_looking_ahead_finds_the_same(tmp_path: Path, where: Where) -> None:
    ahead = TwoLanes()
    one = looked(tmp_path, where, BrightSquares(), verifier=BrightSquares(version="other"))
    other = looked(tmp_path, where, ahead, verifier=BrightSquares(version="other"))
    assert any(name.startswith("detect") for name in ahead.threads)
    # windows are closed before the last ones are examined: a few frames more may be looked at, none is seen otherwise
    assert max(np.diff(sorted(other.detected))) <= 8
    for frame in one.detected.keys() & other.detected.keys():
        assert np.allclose(one.detected[frame].boxes, other.detected[frame].boxes, atol=3)
    assert one.cuts == other.cuts


def test_a_detector_that_fails_ahead_stops_the_clip(tmp_path: Path) -> None:
    from cv_platform.vision.anonymise.failures import AnonymisationFailed

    class Broken(TwoLanes):
        def detect_alongside(self, frames: Sequence[Picture]) -> list[Detections]:
            raise RuntimeError("cannot read /home/someone/secret.onnx")

    with pytest.raises(AnonymisationFailed, match="RuntimeError") as failed:
        looked(tmp_path, walking, Broken())
    assert "secret" not in failed.value.message
