"""Augmentation: boxes follow the picture, equal seeds give equal results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cv_platform.vision import augment
from cv_platform.vision.detections import Detections


def scene() -> tuple[Any, Detections]:
    """A white block on grey, and its box."""
    frame = np.full((60, 100, 3), 90, np.uint8)
    frame[10:30, 20:50] = 255
    return frame, Detections(np.array([[20, 10, 50, 30]]), np.array([0.8]), np.array([2]), np.array([7]))


def block(frame: Any) -> list[int]:
    rows, columns = np.nonzero(frame[..., 0] == 255)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_flipped_box_lies_on_the_flipped_block() -> None:
    frame, found = scene()
    mirrored, moved = augment.flip_horizontally(frame, found)
    assert moved.boxes[0].tolist() == block(mirrored)
    again, back = augment.flip_horizontally(mirrored, moved)
    assert (again == frame).all()
    assert back == found


@pytest.mark.parametrize(
    ("x", "y", "kept"), [(0, 0, True), (15, 5, True), (30, 15, True), (45, 0, False), (60, 0, False)]
)
def test_a_cropped_box_lies_on_what_is_left_of_the_block(x: int, y: int, kept: bool) -> None:
    frame, found = scene()
    part, moved = augment.crop(frame, found, x=x, y=y, width=40, height=30)
    assert part.shape == (30, 40, 3)
    assert len(moved) == kept
    if kept:
        assert moved.boxes[0].tolist() == block(part)
        assert moved.track_ids is not None
        assert moved.track_ids.tolist() == [7]


@pytest.mark.parametrize("rectangle", [(0, 0, 101, 10), (-1, 0, 10, 10), (0, 55, 10, 10), (0, 0, 0, 10)])
def test_a_crop_out_of_the_frame_is_refused(rectangle: tuple[int, int, int, int]) -> None:
    x, y, width, height = rectangle
    with pytest.raises(ValueError, match="within 100×60"):
        augment.crop(*scene(), x=x, y=y, width=width, height=height)


def test_colour() -> None:
    frame = np.random.default_rng(0).integers(30, 200, (20, 20, 3), np.uint8)
    assert (augment.adjust_colour(frame) == frame).all()
    assert abs(augment.adjust_colour(frame, brightness=0.1).mean() - frame.mean() - 25.5) < 0.5
    assert augment.adjust_colour(frame, contrast=0.5).std() == pytest.approx(frame.std() / 2, rel=0.02)
    assert np.ptp(augment.adjust_colour(frame, saturation=0.0), axis=2).max() == 0
    turned = augment.adjust_colour(np.full((2, 2, 3), (0, 0, 200), np.uint8), hue_degrees=120.0)
    assert turned[0, 0].tolist() == [0, 200, 0]
    with pytest.raises(ValueError, match="allowed is 0 or more"):
        augment.adjust_colour(frame, contrast=-1.0)


def test_blur_and_noise() -> None:
    frame, _ = scene()
    assert (augment.blur(frame, sigma=0.0) == frame).all()
    assert augment.blur(frame, sigma=3.0).std() < frame.std()
    noisy = augment.add_noise(frame, sigma=8.0, rng=np.random.default_rng(1))
    assert (noisy[frame == 90].astype(float) - 90).std() == pytest.approx(8.0, rel=0.05)
    for change in (augment.blur, lambda f, sigma: augment.add_noise(f, sigma=sigma, rng=np.random.default_rng(0))):
        with pytest.raises(ValueError, match="sigma is -1"):
            change(frame, sigma=-1.0)


@pytest.mark.parametrize("seed", range(8))
def test_drawn_changes_repeat_with_their_seed(seed: int) -> None:
    frame, found = scene()
    before = frame.copy()
    one, two = (augment.Augmenter()(frame, found, seed=seed) for _ in range(2))
    assert (one[0] == two[0]).all()
    assert one[1] == two[1]
    assert (frame == before).all()
    assert not np.array_equal(one[0], augment.Augmenter()(frame, found, seed=seed + 100)[0])
    for box in one[1].boxes.round().astype(int):  # the block is the brightest thing, before and after
        inside = one[0][box[1] : box[3], box[0] : box[2]].mean()
        assert inside > one[0].mean()


@pytest.mark.parametrize("arguments", [{"flip_probability": 2}, {"least_crop": 0}, {"contrast": -0.1}])
def test_amounts_that_are_not_allowed(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed is"):
        augment.Augmenter(**arguments)
