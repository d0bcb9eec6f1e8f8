"""What is painted, and what an adversary gets out of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from cv_platform.vision.anonymise import AnonymisePolicy
from cv_platform.vision.anonymise.hiding import MOSAIC_CELLS, Hider, planes, zone_pixels
from cv_platform.vision.anonymise.mp4 import IDENTITY_MATRIX
from cv_platform.vision.anonymise.policy import Method
from cv_platform.vision.anonymise.regions import Region
from cv_platform.vision.anonymise.source import Geometry

GEOMETRY = Geometry(320, 240, 0, IDENTITY_MATRIX, 1000, 40, None, (2, 2, 2, False), True)


def astronaut() -> npt.NDArray[np.uint8]:
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[50:190, 160:290, ::-1])


def picture(shift: tuple[float, float], noise: np.random.Generator) -> av.VideoFrame:
    """The astronaut's head on a plain ground, moved by a subpixel shift."""
    head = astronaut()
    ground = np.full((240, 320, 3), 110, np.uint8)
    matrix = np.array([[1, 0, 90 + shift[0]], [0, 1, 50 + shift[1]]], np.float64)
    cv2.warpAffine(head, matrix, (320, 240), dst=ground, borderMode=cv2.BORDER_TRANSPARENT)
    noisy = np.clip(ground + noise.normal(0, 4, ground.shape), 0, 255).astype(np.uint8)
    return av.VideoFrame.from_ndarray(noisy, format="bgr24").reformat(format="yuv420p")


def region(shift: tuple[float, float], track: int = 0) -> Region:
    x, y = round(90 + shift[0]) & ~1, round(50 + shift[1]) & ~1
    return Region(track, x, y, x + 130, y + 140)


def high_pass(luma: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(luma - cv2.GaussianBlur(luma, (0, 0), 4))


def correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(high_pass(a).ravel(), high_pass(b).ravel())[0, 1])


@pytest.mark.parametrize("method", ["solid", "mosaic", "blur"])
def test_a_hundred_frames_tell_no_more_than_one(method: Method) -> None:
    random = np.random.default_rng(3)
    hider = Hider(GEOMETRY, AnonymisePolicy(method=method, mosaic_key=bytes(range(32))), clip="one")
    original = planes(picture((0, 0), np.random.default_rng(0)))[0][50:190, 90:220].astype(np.float64)
    registered = []
    for _ in range(100):
        shift = tuple(random.uniform(-8, 8, 2))
        hidden = hider.hide(picture(shift, random), [region(shift)])
        # register by the true movement: an adversary can do no better
        matrix = np.array([[1, 0, -shift[0]], [0, 1, -shift[1]]], np.float64)
        back = cv2.warpAffine(planes(hidden)[0].astype(np.float64), matrix, (320, 240))
        registered.append(back[50:190, 90:220])
    inner = slice(12, -12)
    single = [frame[inner, inner] for frame in registered]
    one = float(np.mean([abs(correlation(f, original[inner, inner])) if f.std() > 1e-6 else 0.0 for f in single]))
    mean = np.mean(registered, axis=0)[inner, inner]
    many = abs(correlation(mean, original[inner, inner])) if mean.std() > 1e-6 else 0.0
    assert many <= one + 0.02


def test_no_key_makes_a_mosaic_like_its_face() -> None:
    """By chance the edges of a grid of random cells are like a face's: up to 0.06 with one key in 64."""
    frame = picture((0, 0), np.random.default_rng(0))
    original = planes(frame)[0][50:190, 90:220].astype(np.float64)
    alike = []
    for number in range(64):
        policy = AnonymisePolicy(method="mosaic", mosaic_key=bytes([number]) * 32)
        hidden = Hider(GEOMETRY, policy, clip="one").hide(picture((0, 0), np.random.default_rng(0)), [region((0, 0))])
        alike.append(abs(correlation(planes(hidden)[0][50:190, 90:220].astype(np.float64), original)))
    assert max(alike) <= 0.03


def test_a_mosaic_tells_nothing_of_its_face_but_the_mean() -> None:
    """Two faces of one mean, one key: what tells their mosaics apart is only that neither is like its own face."""
    flat = picture((0, 0), np.random.default_rng(0))
    y, u, v = planes(flat)
    for plane, part in ((y, (slice(50, 190), slice(90, 220))), (u, (slice(25, 95), slice(45, 110))),
                        (v, (slice(25, 95), slice(45, 110)))):  # fmt: skip
        plane[part] = round(float(plane[part].mean()))
    policy = AnonymisePolicy(method="mosaic", mosaic_key=bytes(range(32)))
    shown = []
    for source in (picture((0, 0), np.random.default_rng(0)), flat):
        hidden = Hider(GEOMETRY, policy, clip="one").hide(source, [region((0, 0))])
        shown.append([p.copy() for p in planes(hidden)])
    (face, *face_chroma), (plain, *plain_chroma) = shown
    for a, b in zip(face_chroma, plain_chroma, strict=True):
        assert np.array_equal(a[30:90, 50:105], b[30:90, 50:105])
    assert abs(float(face[50:190, 90:220].mean()) - float(plain[50:190, 90:220].mean())) < 4
    assert correlation(face[50:190, 90:220].astype(np.float64), plain[50:190, 90:220].astype(np.float64)) > 0.8


def test_a_mosaic_is_held_for_its_track_and_keyed() -> None:
    random = np.random.default_rng(1)

    def cells(hider: Hider, track: int) -> npt.NDArray[np.uint8]:
        hidden = hider.hide(picture((0, 0), random), [region((0, 0), track)])
        return planes(hidden)[0][50:190, 90:220].copy()

    policy = AnonymisePolicy(method="mosaic", mosaic_key=bytes(range(32)))
    hider = Hider(GEOMETRY, policy, clip="one")
    first = cells(hider, 0)
    assert np.array_equal(first, cells(hider, 0))
    assert not np.array_equal(first, cells(hider, 1))
    other = Hider(GEOMETRY, replace(policy, mosaic_key=bytes(32)), clip="one")
    assert not np.array_equal(first, cells(other, 0))
    # with one key for all clips, a second one is not disturbed alike
    assert not np.array_equal(first, cells(Hider(GEOMETRY, policy, clip="two"), 0))
    # at most 8 cells across, quantised
    assert MOSAIC_CELLS <= 8
    assert len(np.unique(first)) <= 8


@pytest.mark.parametrize("method", ["solid", "mosaic", "blur"])
def test_only_the_region_changes(method: Method) -> None:
    random = np.random.default_rng(2)
    frame = picture((0, 0), random)
    before = [p.copy() for p in planes(frame)]
    after = planes(Hider(GEOMETRY, AnonymisePolicy(method=method), clip="one").hide(frame, [region((0, 0))]))
    for plane, (old, new) in enumerate(zip(before, after, strict=True)):
        part = (slice(50, 190), slice(90, 220)) if plane == 0 else (slice(25, 95), slice(45, 110))
        assert not np.array_equal(old[part], new[part])
        old[part], new[part] = 0, 0
        assert np.array_equal(old, new)


@pytest.mark.parametrize(("rotation", "corner"), [(0, "tl"), (90, "tr"), (180, "br"), (270, "bl")])
def test_zones_are_given_upright_and_hidden_as_coded(rotation: int, corner: str) -> None:
    # upright is the coded picture turned counter-clockwise by `rotation`
    geometry = replace(GEOMETRY, rotation=rotation)
    zone = ((0.0, 0.0), (0.3, 0.0), (0.3, 0.3), (0.0, 0.3))
    mask = zone_pixels([zone], geometry)
    assert mask.shape == (240, 320)
    corners = {"tl": mask[0, 0], "tr": mask[0, -1], "br": mask[-1, -1], "bl": mask[-1, 0]}
    assert [name for name, hidden in corners.items() if hidden] == [corner]
    assert 0.07 < mask.mean() < 0.12


@pytest.mark.parametrize("method", ["mosaic", "blur"])
@pytest.mark.parametrize("model", ["yunet", "ultraface"])
def test_no_detector_finds_a_face_in_what_is_hidden(
    shared_data: Path, tmp_path: Path, model: str, method: Method
) -> None:
    from cv_platform.vision.detectors.build import make_detector
    from cv_platform.vision.models import ModelRegistry

    models = ModelRegistry(cache_dir=tmp_path, model_dir=shared_data / "models", fetch=False)
    detector = make_detector([model], models=models, score_threshold=0.2, threads=1)
    random = np.random.default_rng(5)
    (bare,) = detector.detect([picture((0, 0), random).to_ndarray(format="bgr24")])
    assert len(bare)
    for _ in range(20):
        x, y = random.uniform(-8, 8, 2)
        hidden = Region(0, int(94 + x) & ~1, int(42 + y) & ~1, int(216 + x) & ~1, int(198 + y) & ~1)
        hider = Hider(GEOMETRY, AnonymisePolicy(method=method), clip="one")
        shown = hider.hide(picture((x, y), random), [hidden]).to_ndarray(format="bgr24")
        (seen,) = detector.detect([shown])
        centres = (seen.boxes[:, :2] + seen.boxes[:, 2:]) / 2
        inside = (centres >= (hidden.x1, hidden.y1)).all(axis=1) & (centres <= (hidden.x2, hidden.y2)).all(axis=1)
        assert not inside.any()
