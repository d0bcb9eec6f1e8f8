"""A clip's frames at full rate, as YUV 4:2:0 pictures of one size, each with its exact tick."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av.error
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from cv_platform.vision.anonymise.failures import AnonymisationFailed
from cv_platform.vision.anonymise.mp4 import IDENTITY_MATRIX
from cv_platform.vision.video.deadline import Deadline
from cv_platform.vision.video.limits import ClipLimits, ClipRejected
from cv_platform.vision.video.probe import open_clip, upright_rotation

_MAX_TIMESCALE = 2**31 - 1
_UNSPECIFIED = 2
_MOST_ASPECT = 3.0


@dataclass(frozen=True)
class Geometry:
    """What all frames of a clip have in common, taken from the first.

    Attributes:
        width, height: of the pictures as coded, before rotation; even.
        rotation: degrees counter-clockwise by which a picture is turned to be upright.
        matrix: display matrix as in MP4's `tkhd`.
        timescale: ticks a second of every time.
        frame_ticks: a frame's usual duration, ticks.
        aspect: sample aspect ratio, None where square or unknown.
        colour: primaries, transfer, matrix (ISO/IEC 23091-2), full range.
        exact: the clip's own pictures are 8-bit 4:2:0 of this very size.
    """

    width: int
    height: int
    rotation: int
    matrix: tuple[int, ...]
    timescale: int
    frame_ticks: int
    aspect: tuple[int, int] | None
    colour: tuple[int, int, int, bool]
    exact: bool

    @property
    def frame_rate(self) -> float:
        """Usual frames a second."""
        return self.timescale / self.frame_ticks

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height after rotation."""
        return (self.height, self.width) if self.rotation in (90, 270) else (self.width, self.height)

    @property
    def square_size(self) -> tuple[int, int]:
        """Width and height, before rotation, with square pixels: what is narrow is stretched, nothing is shrunk.

        A ratio that no camera or disc has is taken for a lie: the pictures are used as they are.
        """
        ratio = 1.0 if self.aspect is None else self.aspect[0] / self.aspect[1]
        if not 1 / _MOST_ASPECT <= ratio <= _MOST_ASPECT:
            ratio = 1.0
        return round(self.width * max(1.0, ratio)), round(self.height * max(1.0, 1 / ratio))


@dataclass(frozen=True)
class ClipFrame:
    """One frame: `index` from 0, `tick` its time, `picture` yuv420p or yuvj420p, not to be changed."""

    index: int
    tick: int
    picture: VideoFrame


@dataclass
class PacketLog:
    """What the demuxer gave, in order of decoding: enough to find GOPs again."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    complete: bool = True

    def add(self, pts: int | None, dts: int | None) -> None:
        if pts is None or dts is None:
            self.complete = False
        else:
            self.pts.append(pts)
            self.dts.append(dts)


class FrameReader:
    """Iterates once over all frames of a clip, within limits.

    A frame whose time is not after the one before it is left out. Where the resolution changes in mid-stream, frames
    are scaled to the first one's size: the output is one stream of one size. Attributes fill while iterating.

    Raises (while iterating):
        AnonymisationFailed: the clip cannot be read within the limits, or `should_stop` said so.
    """

    def __init__(self, path: Path, *, limits: ClipLimits, should_stop: Callable[[], bool], threads: int = 1) -> None:
        self.geometry: Geometry | None = None
        self.codec = ""
        self.extradata = b""
        self.resized = 0
        self.damaged = 0
        self.left_out = 0
        self.packets = PacketLog()
        self.declared_frames = 0
        self._path = path
        self._limits = limits
        self._should_stop = should_stop
        self._threads = threads

    def __iter__(self) -> Iterator[ClipFrame]:
        try:
            yield from self._frames()
        except ClipRejected as rejected:
            raise AnonymisationFailed.from_rejection(rejected) from None
        except MemoryError:
            raise AnonymisationFailed("out_of_memory") from None

    def _frames(self) -> Iterator[ClipFrame]:
        limits = self._limits
        deadline = Deadline(limits)
        packets_read = index = 0
        first_tick: int | None = None
        last_tick: int | None = None
        with open_clip(self._path, limits=limits, threads=self._threads) as clip:
            stream = clip.stream
            self.codec = stream.codec_context.codec.canonical_name
            self.extradata = bytes(stream.codec_context.extradata or b"")
            self.declared_frames = stream.frames
            factor, timescale = _ticks(Fraction(stream.time_base or Fraction(1, 90_000)))
            packets = clip.packets()
            while True:
                try:
                    packet = next(packets)
                except StopIteration:
                    break
                except (av.error.FFmpegError, UnicodeDecodeError):
                    self.damaged += 1
                    break
                if packet.size:
                    packets_read += 1
                    self.packets.add(packet.pts, packet.dts)
                try:
                    frames = packet.decode()
                except (av.error.FFmpegError, ValueError, OverflowError):
                    context = stream.codec_context
                    if context.width * context.height > limits.max_pixels:
                        limits.check_size(context.width, context.height)
                    self.damaged += 1
                    frames = []
                deadline.check()
                if self._should_stop():
                    raise AnonymisationFailed("stopped")
                for frame in frames:
                    deadline.earn()
                    limits.check_size(frame.width, frame.height)
                    limits.check_frames(index + 1)
                    self.damaged += frame.is_corrupt
                    if self.geometry is None:
                        self.geometry = _geometry(frame, stream, timescale)
                    geometry = self.geometry
                    if upright_rotation(frame) != geometry.rotation:
                        # looked at in the first frame's orientation, faces would lie on their side, and be missed
                        raise ClipRejected("damaged", "the clip's orientation changes; convert it to a single one")
                    if frame.pts is None:
                        tick = 0 if last_tick is None else last_tick + geometry.frame_ticks
                        self.packets.complete = False
                    else:
                        tick = round(frame.pts * factor)
                    if last_tick is not None and tick <= last_tick:
                        self.left_out += 1
                        continue
                    first_tick = tick if first_tick is None else first_tick
                    limits.check_duration((tick - first_tick) / timescale)
                    last_tick = tick
                    ready = ClipFrame(index, tick, self._uniform(frame, geometry))
                    with deadline:
                        yield ready
                    index += 1
        if not index:
            raise ClipRejected("no_frames")
        if self.declared_frames and packets_read < self.declared_frames * 0.9:
            raise ClipRejected("truncated")
        if self.damaged > limits.max_damaged_share * max(packets_read, index, 1):
            raise ClipRejected("damaged")

    def _uniform(self, frame: VideoFrame, geometry: Geometry) -> VideoFrame:
        name = frame.format.name
        if (frame.width, frame.height) != (geometry.width, geometry.height):
            self.resized += 1
        elif name in ("yuv420p", "yuvj420p"):
            return frame
        target = "yuvj420p" if geometry.colour[3] else "yuv420p"
        try:
            return frame.reformat(width=geometry.width, height=geometry.height, format=target)
        except (av.error.FFmpegError, ValueError):
            raise ClipRejected("damaged", "a frame cannot be converted to YUV 4:2:0") from None


def upright_picture(frame: ClipFrame, geometry: Geometry, long_side: int | None) -> npt.NDArray[np.uint8]:
    """The frame as BGR uint8 (H, W, 3), upright, contiguous, as it is to be shown: with square pixels.

    Its long side is at most `long_side`; None leaves the size as it is.
    """
    shown_width, shown_height = geometry.square_size
    scale = 1.0 if long_side is None else min(1.0, long_side / max(shown_width, shown_height))
    width, height = max(2, round(shown_width * scale)), max(2, round(shown_height * scale))
    # one thread: the scaler's own are started anew for each picture, which costs more than the picture
    picture = frame.picture.to_ndarray(format="bgr24", width=width, height=height, threads=1)
    return np.ascontiguousarray(np.rot90(picture, geometry.rotation // 90), dtype=np.uint8)


def coded_boxes(
    boxes: npt.NDArray[np.float32], picture_shape: tuple[int, ...], geometry: Geometry
) -> npt.NDArray[np.float32]:
    """Boxes (N, 4) found in an upright picture of this shape, as boxes in coded pixels."""
    height, width = picture_shape[:2]
    x1, y1, x2, y2 = (boxes[:, i] / (width if i % 2 == 0 else height) for i in range(4))
    if geometry.rotation == 90:
        x1, y1, x2, y2 = 1 - y2, x1, 1 - y1, x2
    elif geometry.rotation == 180:
        x1, y1, x2, y2 = 1 - x2, 1 - y2, 1 - x1, 1 - y1
    elif geometry.rotation == 270:
        x1, y1, x2, y2 = y1, 1 - x2, y2, 1 - x1
    w, h = geometry.width, geometry.height
    return np.stack([x1 * w, y1 * h, x2 * w, y2 * h], axis=1).astype(np.float32)


def upright_boxes(boxes: npt.NDArray[np.float32], geometry: Geometry) -> npt.NDArray[np.float32]:
    """Boxes (N, 4) in coded pixels, as boxes in `upright_picture` of full size: the inverse of `coded_boxes`."""
    w, h = (float(side) for side in geometry.square_size)
    boxes = boxes * np.array([w / geometry.width, h / geometry.height] * 2, np.float32)
    x1, y1, x2, y2 = boxes.T
    turned = {
        0: (x1, y1, x2, y2),
        90: (y1, w - x2, y2, w - x1),
        180: (w - x2, h - y2, w - x1, h - y1),
        270: (h - y2, x1, h - y1, x2),
    }
    return np.stack(turned[geometry.rotation], axis=1).astype(np.float32)


def with_measured_rate(geometry: Geometry, ticks: Sequence[int]) -> Geometry:
    """The geometry with the frame rate that the frames' times have, whatever the container declares.

    Where it varies, a high one (nine tenths of all intervals are at least as long): what is held for a time that is
    counted in frames is then held for too long rather than not long enough.
    """
    steps = np.diff(np.asarray(ticks, np.int64))
    return replace(geometry, frame_ticks=max(1, int(np.quantile(steps, 0.1)))) if len(steps) else geometry


def _ticks(time_base: Fraction) -> tuple[Fraction, int]:
    """What a timestamp is multiplied by, and the ticks a second that result."""
    if time_base.denominator <= _MAX_TIMESCALE:
        return Fraction(time_base.numerator), time_base.denominator
    return time_base * 90_000, 90_000


def _geometry(frame: VideoFrame, stream: VideoStream, timescale: int) -> Geometry:
    rate = stream.average_rate or stream.guessed_rate
    ticks = max(1, round(timescale / rate)) if rate else max(1, timescale // 25)
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    aspect = (ratio.numerator, ratio.denominator) if ratio and ratio > 0 and ratio != 1 else None
    context = stream.codec_context
    yuv = frame.format.name.startswith("yuv") or frame.format.name.startswith("nv")
    full = frame.format.name.startswith("yuvj") or int(frame.color_range or 0) == 2
    colour = (_UNSPECIFIED, _UNSPECIFIED, _UNSPECIFIED, full and yuv)
    if yuv:
        codes = (int(context.color_primaries or 0), int(context.color_trc or 0), int(context.colorspace or 0))
        colour = (*(code if 0 < code < 256 else _UNSPECIFIED for code in codes), full)  # type: ignore[assignment]
    width, height = frame.width & ~1, frame.height & ~1
    exact = (width, height) == (frame.width, frame.height) and frame.format.name in ("yuv420p", "yuvj420p")
    return Geometry(
        width, height, upright_rotation(frame), _display_matrix(frame), timescale, ticks, aspect, colour, exact
    )


def _display_matrix(frame: VideoFrame) -> tuple[int, ...]:
    side_data: Any = frame.side_data  # its stub takes it for a mapping of names
    for data in side_data:
        if str(data.type.name).upper() == "DISPLAYMATRIX":
            values = tuple(int(v) for v in np.frombuffer(data, dtype=np.int32)[:9])
            if len(values) == 9:
                return values
    return IDENTITY_MATRIX
