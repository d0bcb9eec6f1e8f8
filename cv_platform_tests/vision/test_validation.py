"""Validation: every refusal says what was found and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from cv_platform.vision.validation import ClipRules, validate_clip_input, validate_image_input


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4), (4096, 1, 3), (1, 4096)])
def test_pictures_that_are_allowed(shape: tuple[int, ...], dtype: Any) -> None:
    img = np.zeros(shape, dtype)
    assert validate_image_input(img) is img


@pytest.mark.parametrize(
    ("img", "found", "allowed"),
    [
        ([[1, 2]], "a list", "a NumPy array"),
        (None, "a NoneType", "a NumPy array"),
        (np.zeros(3, np.uint8), "1 dimensions", "2-D"),
        (np.zeros((1, 2, 2, 3), np.uint8), "4 dimensions", "3-D"),
        (np.zeros((4, 4, 2), np.uint8), "2 channels", "1, 3 or 4"),
        (np.zeros((3, 4, 5), np.uint8), "5 channels", "as its last axis"),
        (np.zeros((0, 4), np.uint8), r"empty, shape \(0, 4\)", "allowed is"),
        (np.zeros((4, 0, 3), np.uint8), "empty", "allowed is"),
        (np.zeros((4097, 1), np.uint8), "1×4097 pixels", "at most 4096×4096"),
        (np.zeros((1, 4097, 3), np.uint8), "4097×1 pixels", "at most 4096×4096"),
        (np.zeros((4, 4), np.float64), "float64", "uint8 or float32"),
        (np.zeros((4, 4), np.int32), "int32", "uint8 or float32"),
        (np.zeros((4, 4), np.bool_), "bool", "uint8 or float32"),
        (np.full((4, 4), np.nan, np.float32), "NaN", "finite"),
        (np.full((4, 4, 3), -np.inf, np.float32), "infinity", "finite"),
    ],
)
def test_pictures_that_are_refused(img: Any, found: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{found}.*{allowed}"):
        validate_image_input(img)


@dataclass(frozen=True)
class Clip:
    container: str = "mov"
    codec: str = "h264"
    width: int = 1920
    height: int = 1080
    duration_s: float | None = 60.0
    frame_rate: Fraction | None = Fraction(30000, 1001)


@pytest.mark.parametrize(
    "clip", [Clip(), Clip(duration_s=None, frame_rate=None), Clip(width=4096, height=4096), Clip("matroska", "hevc")]
)
def test_clips_that_are_allowed(clip: Clip) -> None:
    validate_clip_input(clip)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"container": "hls"}, "the container is hls; allowed is asf, avi"),
        ({"codec": "gif"}, "the codec is gif; allowed is av1, h264"),
        ({"width": 4097, "height": 4096}, "4097×4096, 16,781,312 pixels; allowed is at most 16,777,216"),
        ({"height": 15}, "1920×15; allowed is at least 16"),
        ({"duration_s": 14401.0}, "lasts 14,401.0 s; allowed is 0 to 14,400 s"),
        ({"duration_s": float("nan")}, "lasts nan s"),
        ({"frame_rate": Fraction(0)}, "0.00 frames/s"),
        ({"frame_rate": Fraction(1000)}, "1,000.00 frames/s; allowed is more than 0 to 240"),
    ],
)
def test_clips_that_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate_clip_input(replace(Clip(), **change))


def test_everything_that_is_wrong_is_said_at_once_and_rules_may_be_changed() -> None:
    with pytest.raises(ValueError, match=r"container is gif.*codec is gif.*lasts 2\.0 s"):
        validate_clip_input(Clip("gif", "gif", duration_s=2.0), rules=ClipRules(most_duration_s=1.0))
    validate_clip_input(Clip("gif", "gif"), rules=ClipRules(containers=None, codecs=None))
