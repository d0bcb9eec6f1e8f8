"""The check that what was to be hidden is hidden in the very file that was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from av.video.frame import VideoFrame

from cv_platform.vision.anonymise import AnonymisationFailed, AnonymisePolicy
from cv_platform.vision.anonymise import clip as clip_module
from cv_platform.vision.anonymise.clip import anonymise_clip
from cv_platform.vision.anonymise.hiding import Hider, planes
from cv_platform.vision.anonymise.policy import Method, Polygon
from cv_platform.vision.anonymise.source import FrameReader
from cv_platform.vision.classes import FACE
from cv_platform.vision.detections import Detections
from cv_platform.vision.video.limits import DEFAULT_LIMITS
from cv_platform_tests.vision.anonymise.scripted import Picture, write_pictures

Box = tuple[int, int, int, int]
BOX: Box = (100, 80, 172, 160)


class Told:
    """Finds the one face that it was told of."""

    classes = (FACE,)

    def __init__(self, version: str = "told", box: Box = BOX) -> None:
        self.version, self._box = version, box

    def warmup(self) -> None:
        """Nothing to load."""

    def detect(self, frames: Sequence[Picture]) -> list[Detections]:
        return [
            Detections(np.array([self._box], np.float32) * frame.shape[1] / 320, np.array([0.9]), np.array([FACE]))
            for frame in frames
        ]


class Idle:
    """Hides nothing."""

    def hide(self, picture: VideoFrame, regions: object) -> VideoFrame:
        return picture


def pictures(lightness: float, contrast: float, box: Box = BOX) -> list[Picture]:
    """A blotchy face, its levels within `contrast` of `lightness`, on a ground of that lightness."""
    random = np.random.default_rng(1)
    x1, y1, x2, y2 = box
    blotches = cv2.resize(random.uniform(-1, 1, (9, 8)), (x2 - x1, y2 - y1), interpolation=cv2.INTER_CUBIC)
    face = np.clip(lightness + contrast * np.clip(blotches, -1, 1), 0, 255)
    made = []
    for _ in range(16):
        picture = np.full((240, 320, 3), lightness)
        picture[y1:y2, x1:x2] = face[..., None]
        made.append(np.clip(picture + random.normal(0, 3, picture.shape), 0, 255).astype(np.uint8))
    return made


@pytest.mark.parametrize(("lightness", "contrast"), [(6, 5), (14, 12), (120, 60)], ids=["black", "dark", "light"])
def test_a_face_left_bare_is_noticed_however_dark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lightness: float, contrast: float
) -> None:
    source = write_pictures(tmp_path / "in.mp4", pictures(lightness, contrast))
    undone_hiding(source, monkeypatch)
    with pytest.raises(AnonymisationFailed) as failed:
        anonymise_clip(source, tmp_path / "out.mp4", policy=AnonymisePolicy(), detector=Told(), verifier=Told())
    assert failed.value.reason_code == "proof_failed"
    assert failed.value.message == AnonymisationFailed("proof_failed").message
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("method", ["solid", "mosaic", "blur"])
@pytest.mark.parametrize("side", [10, 14, 20, 34, 60])
@pytest.mark.parametrize(("lightness", "contrast"), [(26, 24), (120, 60)], ids=["dark", "light"])
def test_a_small_face_left_bare_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lightness: float, contrast: float, side: int, method: Method
) -> None:
    """Its levels are the blurred ones on the whole, and all of it is near an edge."""
    if (method, side, lightness) == ("blur", 10, 26):
        pytest.skip("blurring changes it by less than two levels: what encoding does to it is no less")
    box = (100, 80, 100 + side, 80 + side)
    source = write_pictures(tmp_path / "in.mp4", pictures(lightness, contrast, box))
    policy = AnonymisePolicy(method=method, mosaic_key=bytes(range(32)))
    faces = {"detector": Told(box=box), "verifier": Told("other", box=box)}
    assert anonymise_clip(source, tmp_path / "out.mp4", policy=policy, **faces).frames_touched == 16
    undone_hiding(source, monkeypatch)
    with pytest.raises(AnonymisationFailed) as failed:
        anonymise_clip(source, tmp_path / "out.mp4", policy=policy, **faces)
    assert failed.value.message == AnonymisationFailed("proof_failed").message


def undone_hiding(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is the clip as it was, whatever was meant."""
    write = clip_module.write_clip

    def leave_bare(reader: FrameReader, destination: Path, **kwargs: Any) -> Any:
        meant = write(reader, destination, **kwargs)
        destination.unlink()
        again = FrameReader(source, limits=DEFAULT_LIMITS, should_stop=lambda: False)
        write(again, destination, **{**kwargs, "hider": Idle()})
        return meant

    monkeypatch.setattr(clip_module, "write_clip", leave_bare)


@pytest.mark.parametrize("method", ["solid", "mosaic", "blur"])
@pytest.mark.parametrize("crf", [23, 40, 51])
def test_what_encoding_changes_is_no_reason_for_doubt(tmp_path: Path, method: Method, crf: int) -> None:
    source = write_pictures(tmp_path / "in.mp4", pictures(120, 100))
    policy = AnonymisePolicy(method=method, crf=crf, mosaic_key=bytes(range(32)))
    certificate = anonymise_clip(source, tmp_path / "out.mp4", policy=policy, detector=Told(), verifier=Told())
    assert certificate.frames_touched == 16


LEFT_HALF = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
SLANTED = ((0.1, 0.1), (0.9, 0.3), (0.5, 0.9))


@pytest.mark.parametrize("zones", [(LEFT_HALF,), (SLANTED,), (LEFT_HALF, SLANTED)])
@pytest.mark.parametrize("crf", [23, 40])
def test_a_zone_left_bare_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zones: tuple[Polygon, ...], crf: int
) -> None:
    source = write_pictures(tmp_path / "in.mp4", pictures(120, 60))
    policy = AnonymisePolicy(classes=(), zones=zones, crf=crf)
    faces = {"detector": Told(), "verifier": Told("other")}
    assert anonymise_clip(source, tmp_path / "out.mp4", policy=policy, **faces).frames_touched == 16
    undone_hiding(source, monkeypatch)
    with pytest.raises(AnonymisationFailed, match="zone"):
        anonymise_clip(source, tmp_path / "out.mp4", policy=policy, **faces)
    assert not (tmp_path / "out.mp4").exists()


def test_a_zone_bare_in_one_place_of_one_frame_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_pictures(tmp_path / "in.mp4", pictures(120, 60))
    hide, frames = Hider.hide, 0

    def but_once(hider: Hider, picture: VideoFrame, regions: Any) -> VideoFrame:
        nonlocal frames
        hidden = hide(hider, picture, regions)
        frames += 1
        if frames == 9:
            planes(hidden)[0][100:124, 40:64] = 90
        return hidden

    monkeypatch.setattr(Hider, "hide", but_once)
    policy = AnonymisePolicy(classes=(), zones=(LEFT_HALF,))
    with pytest.raises(AnonymisationFailed, match="zone"):
        anonymise_clip(source, tmp_path / "out.mp4", policy=policy, detector=Told(), verifier=Told("other"))


@pytest.mark.parametrize("method", ["solid", "mosaic", "blur"])
@pytest.mark.parametrize("side", [14, 34, 72])
def test_a_face_whose_colour_alone_is_left_bare_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, method: Method
) -> None:
    box = (100, 80, 100 + side, 80 + side)
    made = pictures(120, 60, box)
    for picture in made:
        face = picture[80 : 80 + side, 100 : 100 + side]
        face[..., 2] = np.clip(face[..., 2] * 1.3, 0, 255)
        face[..., 0] //= 2
    source = write_pictures(tmp_path / "in.mp4", made)
    policy = AnonymisePolicy(method=method, mosaic_key=bytes(range(32)))
    faces = {"detector": Told(box=box), "verifier": Told("other", box=box)}
    assert anonymise_clip(source, tmp_path / "out.mp4", policy=policy, **faces).frames_touched == 16
    write, hide = clip_module.write_clip, Hider.hide

    def colour_stays(hider: Hider, picture: VideoFrame, regions: Any) -> VideoFrame:
        picture.make_writable()
        colour = [plane.copy() for plane in planes(picture)[1:]]
        hidden = hide(hider, picture, regions)
        for plane, before in zip(planes(hidden)[1:], colour, strict=True):
            plane[...] = before
        return hidden

    def bare_in_colour(reader: FrameReader, destination: Path, **kwargs: Any) -> Any:
        meant = write(reader, destination, **kwargs)
        destination.unlink()
        again = FrameReader(source, limits=DEFAULT_LIMITS, should_stop=lambda: False)
        with monkeypatch.context() as patched:
            patched.setattr(Hider, "hide", colour_stays)
            write(again, destination, **kwargs)
        return meant

    monkeypatch.setattr(clip_module, "write_clip", bare_in_colour)
    with pytest.raises(AnonymisationFailed) as failed:
        anonymise_clip(source, tmp_path / "out.mp4", policy=policy, **faces)
    assert failed.value.message == AnonymisationFailed("proof_failed").message
