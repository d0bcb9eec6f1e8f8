"""Pictures to H.264: x264 behind a thread, NAL units out, nothing but slices and parameter sets kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final

import av
import av.error
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame

from cv_platform.vision.anonymise import h264
from cv_platform.vision.anonymise.failures import AnonymisationFailed
from cv_platform.vision.anonymise.policy import AnonymisePolicy
from cv_platform.vision.anonymise.source import Geometry

_KEY_INTERVAL_S = 8.0
_TUNED: Final = {"superfast": "mbtree=1:rc-lookahead=5:b-adapt=0:weightp=0"}
"""What a preset gets besides. `superfast` as it is makes files nearly twice as large as `veryfast` does; with a short
look ahead for its macroblock tree they are smaller than those, about as near to the source, and take less time."""

AccessUnit = tuple[list[bytes], int, int, bool]
"""Slices of one picture, its pts and dts in ticks, and whether it is an IDR."""


class Encoder:
    """x264 over pictures in order of time; access units come in order of decoding.

    Args:
        geometry: size, colour and time base.
        policy: crf and preset.
        options: more of x264's, by name as FFmpeg has them.
        emit: called with each access unit.
    """

    def __init__(
        self,
        geometry: Geometry,
        policy: AnonymisePolicy,
        emit: Callable[[AccessUnit], None],
        options: dict[str, str] | None = None,
    ) -> None:
        self._emit = emit
        self._context = _context(geometry, policy, options or {})
        self._time_base = Fraction(1, geometry.timescale)

    @property
    def config(self) -> h264.AvcConfig:
        """The parameter sets; known once something was encoded."""
        return h264.AvcConfig.parse(bytes(self._context.extradata or b""))

    def add(self, picture: VideoFrame, tick: int, *, idr: bool = False) -> None:
        """Encode one picture; `idr` makes it start a new closed group."""
        picture.pts = tick
        picture.time_base = self._time_base
        picture.pict_type = PictureType.I if idr else PictureType.NONE
        self._drain(picture)

    def finish(self) -> None:
        """Encode what is still held back."""
        self._drain(None)

    def _drain(self, picture: VideoFrame | None) -> None:
        try:
            packets = self._context.encode(picture)
        except (av.error.FFmpegError, ValueError, OverflowError) as error:
            raise AnonymisationFailed("encode_failed", f"x264 refused a picture: {type(error).__name__}") from None
        for packet in packets:
            nals = [n for n in h264.split_annexb(bytes(packet)) if h264.nal_type(n) in h264.VCL]
            assert packet.pts is not None
            assert packet.dts is not None
            self._emit((nals, packet.pts, packet.dts, any(h264.nal_type(n) == h264.IDR for n in nals)))


def _context(geometry: Geometry, policy: AnonymisePolicy, options: dict[str, str]) -> VideoCodecContext:
    context: Any = av.CodecContext.create("libx264", "w")
    context.width, context.height = geometry.width, geometry.height
    context.pix_fmt = "yuvj420p" if geometry.colour[3] else "yuv420p"
    context.time_base = Fraction(1, geometry.timescale)
    context.framerate = Fraction(geometry.timescale, geometry.frame_ticks)
    context.gop_size = max(1, min(250, round(_KEY_INTERVAL_S * geometry.frame_rate)))
    context.thread_count = min(4, len(os.sched_getaffinity(0)))
    context.flags |= int(av.codec.context.Flags.global_header) | int(av.codec.context.Flags.closed_gop)
    primaries, transfer, matrix, full = geometry.colour
    context.color_primaries, context.color_trc, context.colorspace = primaries, transfer, matrix
    context.color_range = 2 if full else 1
    if geometry.aspect is not None:
        context.sample_aspect_ratio = Fraction(*geometry.aspect)
    context.options = {"preset": policy.preset, "crf": str(policy.crf), "forced-idr": "1", **options}
    if policy.preset in _TUNED:
        parameters = (_TUNED[policy.preset], options.get("x264-params"))
        context.options["x264-params"] = ":".join(filter(None, parameters))
    try:
        context.open()
    except (av.error.FFmpegError, ValueError) as error:
        raise AnonymisationFailed("encode_failed", f"x264 does not open: {type(error).__name__}") from None
    return context  # type: ignore[no-any-return]
