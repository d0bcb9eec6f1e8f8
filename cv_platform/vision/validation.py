"""Validation: is this something that the core can work on? Each check says what was found and what is allowed.

Belongs here: checks of pictures in memory, and of what a clip says of itself, before anything is decoded.
Does not belong here: reading files and probing clips (`video`), boxes and scores (`Detections` checks itself).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

LARGEST_SIDE: Final = 4096
"""Pixels of a picture's side, at most."""
_CHANNELS: Final = (1, 3, 4)
_DTYPES: Final = (np.dtype(np.uint8), np.dtype(np.float32))


def validate_image_input(img: object) -> npt.NDArray[Any]:
    """Check one picture.

    Args:
        img: 2-D (H, W) grey, or 3-D (H, W, C) with 1, 3 or 4 channels; 1 to 4096 pixels a side; uint8, or float32
            without NaN and infinity.

    Returns:
        The same array, unchanged.

    Raises:
        ValueError: anything else; it says what was found and what is allowed.
    """
    if not isinstance(img, np.ndarray):
        raise ValueError(f"the image is a {type(img).__name__}; allowed is a NumPy array (H, W) or (H, W, C)")
    if img.ndim not in (2, 3):
        raise ValueError(
            f"the image has {img.ndim} dimensions, shape {img.shape}; allowed is 2-D (H, W) or 3-D (H, W, C)"
        )
    if img.ndim == 3 and img.shape[2] not in _CHANNELS:
        raise ValueError(
            f"the image has {img.shape[2]} channels, shape {img.shape}; allowed is 1, 3 or 4 as its last axis"
        )
    height, width = img.shape[:2]
    if height == 0 or width == 0:
        raise ValueError(
            f"the image is empty, shape {img.shape}; allowed is 1×1 to {LARGEST_SIDE}×{LARGEST_SIDE} pixels"
        )
    if height > LARGEST_SIDE or width > LARGEST_SIDE:
        raise ValueError(
            f"the image has {width}×{height} pixels (width×height);"
            f" allowed is at most {LARGEST_SIDE}×{LARGEST_SIDE}: make it smaller first"
        )
    if img.dtype not in _DTYPES:
        raise ValueError(f"the image's dtype is {img.dtype}; allowed is uint8 or float32")
    if img.dtype == np.float32 and not np.isfinite(img).all():
        found = "NaN" if np.isnan(img).any() else "infinity"
        raise ValueError(f"the image holds {found}; allowed are finite float32 values")
    return img


class ProbedClip(Protocol):
    """What the check of a clip reads; `cv_platform.vision.video.probe.ClipFacts` has it."""

    @property
    def container(self) -> str: ...
    @property
    def codec(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def duration_s(self) -> float | None: ...
    @property
    def frame_rate(self) -> Fraction | None: ...


@dataclass(frozen=True)
class ClipRules:
    """What a clip may be, judged by its header alone. (`video.limits.ClipLimits` guards the decoding itself.)

    Attributes:
        containers: FFmpeg's names; None means any.
        codecs: FFmpeg's names; None means any.
        most_pixels: width × height.
        least_side: of the shorter side, pixels.
        most_duration_s: seconds.
        most_frame_rate: frames a second.
    """

    containers: frozenset[str] | None = field(
        default=frozenset({"mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "dhav"})
    )
    codecs: frozenset[str] | None = field(
        default=frozenset({"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg", "vp8", "vp9", "av1"})
    )
    most_pixels: int = LARGEST_SIDE * LARGEST_SIDE
    least_side: int = 16
    most_duration_s: float = 4 * 3600.0
    most_frame_rate: float = 240.0


def validate_clip_input(clip: ProbedClip, *, rules: ClipRules | None = None) -> None:
    """Check what a clip says of itself: container, codec, pixels, duration, rate. Nothing is decoded.

    A duration or rate that the header leaves open is not held against the clip; decoding has limits of its own.

    Raises:
        ValueError: one line with everything that is wrong, what was found and what is allowed.
    """
    rules = rules or ClipRules()
    wrong = []
    if rules.containers is not None and clip.container not in rules.containers:
        wrong.append(f"the container is {clip.container}; allowed is {', '.join(sorted(rules.containers))}")
    if rules.codecs is not None and clip.codec not in rules.codecs:
        wrong.append(f"the codec is {clip.codec}; allowed is {', '.join(sorted(rules.codecs))}")
    if clip.width * clip.height > rules.most_pixels:
        wrong.append(
            f"the picture is {clip.width}×{clip.height}, {clip.width * clip.height:,} pixels;"
            f" allowed is at most {rules.most_pixels:,}"
        )
    if min(clip.width, clip.height) < rules.least_side:
        wrong.append(f"the picture is {clip.width}×{clip.height}; allowed is at least {rules.least_side} pixels a side")
    if clip.duration_s is not None and not 0 <= clip.duration_s <= rules.most_duration_s:
        wrong.append(f"the clip lasts {clip.duration_s:,.1f} s; allowed is 0 to {rules.most_duration_s:,.0f} s")
    if clip.frame_rate is not None and not 0 < clip.frame_rate <= rules.most_frame_rate:
        wrong.append(
            f"the rate is {float(clip.frame_rate):,.2f} frames/s; allowed is more than 0 to {rules.most_frame_rate:,g}"
        )
    if wrong:
        raise ValueError("; ".join(wrong))
