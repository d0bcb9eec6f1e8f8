"""Frames of a clip, sampled, upright, scaled, each with its exact time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from cv_platform.vision.video.deadline import Deadline
from cv_platform.vision.video.limits import DEFAULT_LIMITS, ClipLimits, ClipRejected
from cv_platform.vision.video.probe import ClipFacts, OpenClip, open_clip, upright_rotation

_WHOLE = Fraction(9, 10)
"""Share of the packets that the index declares which must be there, or the clip counts as cut short."""


@dataclass(frozen=True)
class SampledFrame:
    """One frame.

    Attributes:
        index: 0, 1, 2, … among the sampled frames.
        pts_s: exact seconds since the clip's first frame.
        image: BGR, uint8 (H, W, 3), upright, at most `long_side` long; contiguous.
    """

    index: int
    pts_s: Fraction
    image: npt.NDArray[np.uint8]


@dataclass
class DecodeTally:
    """What decoding came to.

    Attributes:
        packets: read from the file.
        damaged: packets that failed to decode, and frames that the decoder had to patch up.
        decoded: frames decoded.
        out_of_order: frames left out, since their time was not after the one before.
        last_pts_s: time of the last frame, seconds since the first.
    """

    packets: int = 0
    damaged: int = 0
    decoded: int = 0
    out_of_order: int = 0
    last_pts_s: Fraction = Fraction(0)


def decode_sampled(
    source: Path,
    *,
    fps: float | Fraction | None = 5.0,
    long_side: int | None = 960,
    limits: ClipLimits = DEFAULT_LIMITS,
    threads: int = 1,
) -> Iterator[SampledFrame]:
    """Decode a clip.

    Sampling: of the grid 0, 1/fps, 2/fps, … since the first frame, each point gives the first frame at or after it, and
    no frame is given twice; so a clip slower than `fps` gives each of its frames. Times are the container's own
    (variable frame rates and offsets are kept), counted from the first frame; a frame whose time is not after the one
    before it is left out. A rotation stored in the clip is applied. Where the resolution changes in mid-stream, each
    frame is scaled by its own size.

    Args:
        source: a clip.
        fps: frames a second to sample; None for every frame.
        long_side: pixels to which a frame's longer side is shrunk, never enlarged; None keeps the size.
        limits: what is accepted.
        threads: of the decoder; 0 lets it take all cores.

    Raises:
        ClipRejected: before the first frame, or after any number of frames, where the clip turns out not to be what it
            says. Throw away what came before.
        OSError: the file cannot be read.
    """
    with open_clip(source, limits=limits, threads=threads) as clip:
        yield from ClipDecoder(clip, fps=fps, long_side=long_side, limits=limits)


class SamplingGrid:
    """Which frames are sampled: for each of the points 0, 1/fps, 2/fps, … the first frame at or after it, none twice.

    Args:
        fps: points a second.
        tick_s: seconds a tick of the timestamps. A frame up to a tick early counts as at its point, since containers
            round their timestamps (Matroska to the millisecond); never more than half a point's distance.
    """

    def __init__(self, fps: Fraction, *, tick_s: Fraction = Fraction(0)) -> None:
        self._fps = fps
        self._slack_s = min(tick_s, 1 / (2 * fps))
        self._due = 0

    @property
    def next_s(self) -> Fraction:
        """The earliest time of which `takes` says yes."""
        return self._due / self._fps - self._slack_s

    def takes(self, pts_s: Fraction) -> bool:
        """Whether the frame at this time, later than any before it, is sampled."""
        point = floor((pts_s + self._slack_s) * self._fps)
        if point < self._due:
            return False
        self._due = point + 1
        return True


class ClipDecoder:
    """Iterates over an opened clip's sampled frames once; `tally` and `facts` may be read at any time."""

    def __init__(
        self, clip: OpenClip, *, fps: float | Fraction | None, long_side: int | None, limits: ClipLimits
    ) -> None:
        if fps is not None and fps <= 0:
            raise ValueError(f"fps is {fps}; allowed is more than 0, or None for every frame")
        if long_side is not None and long_side < 1:
            raise ValueError(f"long_side is {long_side}; allowed is at least 1, or None to keep the size")
        self.tally = DecodeTally()
        self.rotation = 0
        self._clip = clip
        tick_s = Fraction(clip.stream.time_base or 0)
        self._grid = None if fps is None else SamplingGrid(Fraction(fps).limit_denominator(1_000_000), tick_s=tick_s)
        self._long_side = long_side
        self._limits = limits
        self._origin: Fraction | None = None
        rate = clip.stream.average_rate or clip.stream.guessed_rate
        self._frame_s = 1 / Fraction(rate) if rate else None

    @property
    def facts(self) -> ClipFacts:
        """What the clip says of itself; its rotation is known from the first frame on."""
        return self._clip.facts(rotation=self.rotation)

    def __iter__(self) -> Iterator[SampledFrame]:
        index = 0
        for frame, pts_s in self._frames():
            if self._grid is not None and not self._grid.takes(pts_s):
                continue
            image = self._image(frame)
            if image is None:
                continue
            yield SampledFrame(index, pts_s, image)
            index += 1
        self._check_end(index)

    def _frames(self) -> Iterator[tuple[VideoFrame, Fraction]]:
        """Every frame with its time since the first, in order; the limits are checked on each."""
        tally, limits = self.tally, self._limits
        deadline = Deadline(limits)
        packets = self._clip.packets()
        previous: Fraction | None = None
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except MemoryError:
                raise ClipRejected("out_of_memory") from None
            except (av.error.FFmpegError, UnicodeDecodeError):
                tally.damaged += 1
                return  # the demuxer lost its way: what is missing is counted at the end
            tally.packets += bool(packet.size)
            try:
                frames = packet.decode()
            except MemoryError:
                raise ClipRejected("out_of_memory") from None
            except (av.error.FFmpegError, ValueError, OverflowError):
                self._check_context_size()
                tally.damaged += 1
                frames = []
            deadline.check()
            for frame in frames:
                deadline.earn()
                limits.check_size(frame.width, frame.height)
                tally.decoded += 1
                limits.check_frames(tally.decoded)
                tally.damaged += frame.is_corrupt
                pts_s = self._time(frame, previous)
                if pts_s is None or (previous is not None and pts_s <= previous):
                    tally.out_of_order += 1
                    continue
                limits.check_duration(float(pts_s))
                previous = tally.last_pts_s = pts_s
                with deadline:
                    yield frame, pts_s

    def _time(self, frame: VideoFrame, previous: Fraction | None) -> Fraction | None:
        """Seconds since the first frame; a frame without a timestamp follows the one before it at the clip's rate."""
        if frame.pts is None or not frame.time_base:
            if previous is None:
                self._origin = Fraction(0)
                return Fraction(0)
            return None if self._frame_s is None else previous + self._frame_s
        seconds = frame.pts * Fraction(frame.time_base)
        if self._origin is None:
            self._origin = seconds
        return seconds - self._origin

    def _image(self, frame: VideoFrame) -> npt.NDArray[np.uint8] | None:
        """The frame upright and scaled, BGR; None where it cannot be converted."""
        self.rotation = upright_rotation(frame)
        scale = 1.0 if self._long_side is None else min(1.0, self._long_side / max(frame.width, frame.height))
        try:
            image = frame.to_ndarray(
                format="bgr24",
                width=max(1, round(frame.width * scale)),
                height=max(1, round(frame.height * scale)),
                interpolation="AREA",
            )
        except MemoryError:
            raise ClipRejected("out_of_memory") from None
        except (av.error.FFmpegError, ValueError):
            self.tally.damaged += 1
            return None
        return np.ascontiguousarray(np.rot90(image, self.rotation // 90), dtype=np.uint8)

    def _check_context_size(self) -> None:
        """A picture over the limit makes the decoder refuse to open or to go on; say so, instead of 'damaged'."""
        context = self._clip.stream.codec_context
        if context.width * context.height > self._limits.max_pixels:
            self._limits.check_size(context.width, context.height)

    def _check_end(self, sampled: int) -> None:
        """At the end: is this the clip that was declared, and did enough of it decode?"""
        tally = self.tally
        declared = self._clip.stream.frames
        if declared and tally.packets < declared * _WHOLE:
            raise ClipRejected(
                "truncated", f"the file holds {tally.packets:,} of the {declared:,} frames that it declares"
            )
        if not sampled:
            raise ClipRejected("no_frames")
        share = tally.damaged / max(tally.packets, tally.decoded, 1)
        if share > self._limits.max_damaged_share:
            raise ClipRejected(
                "damaged",
                f"{share:.0%} of the clip is damaged; at most {self._limits.max_damaged_share:.0%} is accepted",
            )
