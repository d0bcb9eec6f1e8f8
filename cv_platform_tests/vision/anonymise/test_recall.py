"""What the pixels say of a face that the detector loses: still there, or gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from cv_platform.vision.anonymise import AnonymisePolicy
from cv_platform.vision.anonymise.recall import Recall
from cv_platform.vision.anonymise.sightings import FrameSightings, Scan
from cv_platform.vision.anonymise.source import ClipFrame, FrameReader
from cv_platform.vision.classes import FACE
from cv_platform.vision.video.limits import DEFAULT_LIMITS
from cv_platform_tests.vision.anonymise.scripted import BrightSquares, write_pictures

PLACE = (100, 70, 140, 110)
SEEN_UNTIL = 9
FRAMES = 20

Picture = npt.NDArray[np.uint8]


def texture(seed: int, width: int, height: int) -> Picture:
    coarse = np.random.default_rng(seed).normal(0, 1, (height // 5, width // 5)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.repeat(np.clip(110 + 25 * smooth, 20, 145).astype(np.uint8)[:, :, None], 3, axis=2)


GROUND, OTHER, FACE_PICTURE = texture(1, 240, 180), texture(2, 240, 180), texture(3, 40, 40)


def with_face(ground: Picture = GROUND, *, x: int = PLACE[0]) -> Picture:
    picture = ground.copy()
    picture[PLACE[1] : PLACE[3], x : x + 40] = FACE_PICTURE
    return picture


def half_covered(number: int) -> Picture:
    picture = with_face()
    picture[60:120, 120:150] = OTHER[60:120, 120:150]
    return picture


AFTER: list[tuple[str, Callable[[int], Picture], bool]] = [
    ("vanished", lambda number: GROUND, True),
    ("covered whole", lambda number: OTHER, True),
    ("only missed", lambda number: with_face(), False),
    ("moves on", lambda number: with_face(x=PLACE[0] + (number - SEEN_UNTIL)), False),
    ("moves on faster", lambda number: with_face(x=PLACE[0] + 7 * (number - SEEN_UNTIL)), False),
    ("half covered", half_covered, False),
    ("darker", lambda number: np.asarray(with_face() * 0.6, np.uint8), False),
]


def settle(path: Path, pictures: list[Picture], seen: range, score: float = 0.9) -> Scan:
    """A blind detector's recall over a clip in which a face is seen in these frames."""
    write_pictures(path, pictures)
    reader = FrameReader(path, limits=DEFAULT_LIMITS, should_stop=lambda: False)
    found = Scan()
    box = np.array([PLACE], np.float32)
    sighting = FrameSightings(box, np.array([score], np.float32), np.array([FACE], np.int16))
    recall: Recall | None = None
    window: list[ClipFrame] = []
    for frame in reader:
        assert reader.geometry is not None
        recall = recall or Recall(BrightSquares(blind=True), reader.geometry, AnonymisePolicy())
        window.append(frame)
        found.detected[frame.index] = sighting if frame.index in seen else FrameSightings.none()
        if frame.index % 4 == 0:
            recall.settle(window, found)
            window = []
    return found


@pytest.mark.parametrize(("after", "gone"), [(a, g) for _, a, g in AFTER], ids=[name for name, _, _ in AFTER])
def test_a_face_is_gone_only_where_no_part_of_it_is_left(
    tmp_path: Path, after: Callable[[int], Picture], gone: bool
) -> None:
    pictures = [with_face() if n <= SEEN_UNTIL else after(n) for n in range(FRAMES)]
    found = settle(tmp_path / "clip.mp4", pictures, range(SEEN_UNTIL + 1))
    assert list(found.gone) == ([SEEN_UNTIL + 1] if gone else [])


@pytest.mark.parametrize(("before", "gone"), [(GROUND, [6]), (with_face(), [])], ids=["appears", "was only missed"])
def test_so_it_is_before_it_was_first_seen(tmp_path: Path, before: Picture, gone: list[int]) -> None:
    pictures = [before if n < 7 else with_face() for n in range(FRAMES)]
    found = settle(tmp_path / "clip.mp4", pictures, range(7, FRAMES))
    assert list(found.gone) == gone


@pytest.mark.parametrize(("score", "last"), [(0.9, 48), (0.3, 20)])
def test_pixels_alone_speak_for_a_doubtful_face_only_for_a_while(tmp_path: Path, score: float, last: int) -> None:
    found = settle(tmp_path / "clip.mp4", [with_face()] * 50, range(13), score)
    assert max(frame for frame, seen in found.detected.items() if len(seen)) == last
