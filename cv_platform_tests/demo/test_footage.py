"""The footage: real pictures that move, the same every time, and one file that no decoder accepts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from cv_platform.demo.footage import FPS, HEIGHT, WIDTH, Scene, write_clip, write_corrupt_clip

SCENE = Scene(seed=3)


def test_a_clip_has_the_promised_form(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", SCENE, start_s=0.0, duration_s=2.0)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(stream)]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", WIDTH, HEIGHT)
        assert stream.average_rate == FPS
    assert len(frames) == 2 * FPS
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 100, "nobody moves"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"], "nothing half-written stays"


def test_the_same_stretch_is_the_same_file(tmp_path: Path) -> None:
    digests = set()
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, SCENE, start_s=5.0, duration_s=1.0)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_clips_that_follow_each_other_show_one_movement() -> None:
    background = SCENE.background()
    before, after = SCENE.frame(background, 3.9), SCENE.frame(background, 4.0)
    later = SCENE.frame(background, 5.5)
    step = np.abs(before.astype(int) - after).mean()
    assert 0 < step < np.abs(before.astype(int) - later).mean()


@pytest.mark.parametrize("scene", [Scene(seed=3), Scene(seed=11, leftwards=True, height=280)])
def test_people_are_people_to_a_detector_that_knows_nothing_of_them(scene: Scene) -> None:
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())
    background = scene.background()
    assert len(hog.detectMultiScale(background, winStride=(8, 8), hitThreshold=0.5)[0]) == 0, "the wall is nobody"
    for seconds in (0.0, 1.3, 2.6):
        boxes, _ = hog.detectMultiScale(
            scene.frame(background, seconds), winStride=(8, 8), padding=(16, 16), hitThreshold=0.5
        )
        assert 2 <= len(boxes) <= 4


def test_people_walk_in_the_scenes_direction() -> None:
    for leftwards in (False, True):
        scene = Scene(seed=3, leftwards=leftwards, spacing_s=100.0)
        background = scene.background()
        # One person alone: the columns in which the picture differs from the empty scene.
        moments = [
            np.abs(scene.frame(background, seconds).astype(int) - background).max(axis=(0, 2)).nonzero()[0]
            for seconds in np.arange(-60.0, -50.0, 0.5)
        ]
        places = [columns.mean() for columns in moments if len(columns) > 60]
        assert len(places) > 3
        assert (places[0] > places[-1]) == leftwards


def test_the_corrupt_clip_cannot_be_opened(tmp_path: Path) -> None:
    write_corrupt_clip(tmp_path / "bad.mp4", SCENE, start_s=0.0)
    assert (tmp_path / "bad.mp4").stat().st_size > 1000
    with pytest.raises(av.error.FFmpegError):
        av.open(str(tmp_path / "bad.mp4"))
