"""Sampled frames of a clip by a GPU's decoder (NVDEC), left in its memory.

Opens, checks and demultiplexes a clip exactly as `decode` does; only the packets go to NVDEC instead of a processor's
decoder. So the limits, the sampled frames and their times are the same; H.264's and HEVC's decoded pixels are too, by
their standards. Needs the extra `gpu` (PyNvVideoCodec) and torch. Not sandboxed: a crafted clip can crash the process.

Source: NVIDIA, "PyNvVideoCodec API programming guide", version 2.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Iterator
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import av.error
from av.bitstream import BitStreamFilterContext

from cv_platform.vision.video.deadline import Deadline
from cv_platform.vision.video.decode import DecodeTally, SampledFrame, SamplingGrid, decode_sampled
from cv_platform.vision.video.limits import DEFAULT_LIMITS, ClipLimits, ClipRejected
from cv_platform.vision.video.nvdec_sessions import SESSIONS, NvdecFailed, NvdecSession, NvdecSessions
from cv_platform.vision.video.probe import ClipFacts, OpenClip, open_clip, probe_clip

if TYPE_CHECKING:
    from cv_platform.vision.gpu.resample import Surface

Backend = Literal["auto", "cpu", "nvdec"]

_log = logging.getLogger(__name__)
_FILTERS: Final = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
_LARGEST_SIDE: Final = {"h264": 4096, "hevc": 8192}
_SMALLEST_SIDE: Final = 144
"""Every generation of NVDEC takes these sizes; smaller and larger ones depend on it."""
_FORMATS: Final = ("yuv420p", "yuvj420p", "nv12")
_WHOLE: Final = Fraction(9, 10)


class NvdecUnsuitable(RuntimeError):
    """This clip, or this machine, is not for NVDEC; the processor's decoder may do."""


class NvdecMissing(NvdecUnsuitable):
    """There is no NVDEC here, for any clip."""


def sampled_frames(
    source: Path,
    *,
    fps: float | Fraction | None = 5.0,
    long_side: int | None = 960,
    limits: ClipLimits = DEFAULT_LIMITS,
    backend: Backend = "auto",
    device: str = "cuda",
) -> Iterator[SampledFrame | Surface]:
    """Decode a clip with whatever suits it; sampling and times are the same everywhere (see `decode.decode_sampled`).

    Args:
        source: a clip that is trusted.
        fps: frames a second to sample; None for every frame.
        long_side: pixels to which a frame's longer side is (or counts as) shrunk; None keeps the size.
        limits: what is accepted.
        backend: "auto" takes NVDEC where machine, codec and size allow it, and says in one log line why it does not.
        device: torch's name of the GPU.

    Returns:
        `Surface`s in device memory from NVDEC, `SampledFrame`s from the processor; both have `index` and `pts_s`.

    Raises:
        ClipRejected: as `decode.decode_sampled`.
        NvdecUnsuitable: backend is "nvdec" and it does not do.
        ValueError: an unknown backend.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend is {backend!r}; allowed is one of {', '.join(get_args(Backend))}")
    if backend != "cpu":
        try:
            facts = check_suitable(source, limits=limits)
        except NvdecUnsuitable as reason:
            if backend == "nvdec":
                raise
            _log.warning("decoding on the processor: %s", reason)
        else:
            with open_clip(source, limits=limits) as clip:
                yield from NvdecDecoder(
                    clip, rotation=facts.rotation, fps=fps, long_side=long_side, limits=limits, device=device
                )
            return
    yield from decode_sampled(source, fps=fps, long_side=long_side, limits=limits)


def check_suitable(source: Path, *, limits: ClipLimits = DEFAULT_LIMITS) -> ClipFacts:
    """What the clip says of itself, if NVDEC can decode it here.

    Raises:
        NvdecMissing: there is none here.
        NvdecUnsuitable: why it cannot.
        ClipRejected: as `probe.probe_clip`.
    """
    if importlib.util.find_spec("PyNvVideoCodec") is None or importlib.util.find_spec("torch") is None:
        raise NvdecMissing("PyNvVideoCodec or torch is not installed (the extras `gpu` and `torch`)")
    import torch

    if not torch.cuda.is_available():
        raise NvdecMissing("torch finds no CUDA GPU on this machine")
    facts = probe_clip(source, limits=limits)
    reason = unsuitable(facts)
    if reason is not None:
        raise NvdecUnsuitable(reason)
    return facts


def unsuitable(facts: ClipFacts) -> str | None:
    """Why a clip is not for NVDEC; None where it is."""
    if facts.codec not in _FILTERS:
        return f"the codec is {facts.codec}; NVDEC is used for {', '.join(_FILTERS)}"
    if facts.width % 2 or facts.height % 2:
        return f"the picture is {facts.width}×{facts.height}; NVDEC is used for even sizes"
    largest = _LARGEST_SIDE[facts.codec]
    if max(facts.width, facts.height) > largest or min(facts.width, facts.height) < _SMALLEST_SIDE:
        return (
            f"the picture is {facts.width}×{facts.height}; "
            f"NVDEC is used for {_SMALLEST_SIDE} to {largest} pixels a side"
        )
    return None


_streams: dict[str, Any] = {}
_streams_lock = threading.Lock()


def _copying_stream(device: str) -> Any:
    """The one stream on which frames are copied: torch keeps memory a stream, which all decoders so share."""
    import torch

    with _streams_lock:
        if device not in _streams:
            _streams[device] = torch.cuda.Stream(device)
        return _streams[device]


class NvdecDecoder:
    """Iterates over an opened clip's sampled frames once; the twin of `decode.ClipDecoder`.

    Args:
        clip: opened, not yet demultiplexed.
        rotation: degrees counter-clockwise by which frames are to be turned (`ClipFacts.rotation`).
        fps, long_side, limits: as there.
        device: torch's name of the GPU.
        sessions: where open decoders come from; this process's own where left out.

    Raises:
        NvdecUnsuitable: on iteration, where NVDEC does not take the stream after all. Throw away what came before.
        ClipRejected: as `decode.ClipDecoder`.
    """

    def __init__(
        self,
        clip: OpenClip,
        *,
        rotation: int,
        fps: float | Fraction | None,
        long_side: int | None,
        limits: ClipLimits,
        device: str = "cuda",
        sessions: NvdecSessions = SESSIONS,
    ) -> None:
        if fps is not None and fps <= 0:
            raise ValueError(f"fps is {fps}; allowed is more than 0, or None for every frame")
        if long_side is not None and long_side < 1:
            raise ValueError(f"long_side is {long_side}; allowed is at least 1, or None to keep the size")
        self.tally = DecodeTally()
        self.rotation = rotation
        self._clip, self._long_side, self._limits = clip, long_side, limits
        self._device, self._sessions = device, sessions
        context = clip.stream.codec_context
        if context.pix_fmt is not None and context.pix_fmt not in _FORMATS:
            raise NvdecUnsuitable(f"the pixels are {context.pix_fmt}; NVDEC is used for {', '.join(_FORMATS)}")
        self._codec = context.codec.canonical_name
        self._colour = (int(context.colorspace), int(context.color_range))
        if not clip.stream.time_base:
            raise NvdecUnsuitable("the clip's timestamps have no unit")
        self._tick_s = tick_s = Fraction(clip.stream.time_base)
        self._grid = None if fps is None else SamplingGrid(Fraction(fps).limit_denominator(1_000_000), tick_s=tick_s)

    @property
    def facts(self) -> ClipFacts:
        """What the clip says of itself."""
        return self._clip.facts(rotation=self.rotation)

    def __iter__(self) -> Iterator[Surface]:
        import torch

        from cv_platform.vision.gpu.resample import Surface

        index = 0
        stream = _copying_stream(self._device)
        for frame, pts_s in self._frames():
            with torch.cuda.stream(stream):
                # the decoder writes to this memory again soon
                nv12 = torch.from_dlpack(frame).clone()
            stream.synchronize()
            yield Surface(index, pts_s, nv12, self.rotation, self._long_side, *self._colour)
            index += 1
        self._check_end(index)

    def _frames(self) -> Iterator[tuple[Any, Fraction]]:
        """The sampled frames with their times since the first, in order; the limits are checked on every frame."""
        tally, limits, tick_s = self.tally, self._limits, self._tick_s
        deadline = Deadline(limits)
        # most frames are not sampled: for those whole ticks are compared, which is far cheaper than fractions
        last_allowed = floor(limits.max_duration_s / tick_s)
        origin: int | None = None
        previous, due = -1, 0
        for frame in self._decoded():
            rows, width = frame.shape[:2]
            limits.check_size(width, rows * 2 // 3)
            tally.decoded += 1
            limits.check_frames(tally.decoded)
            deadline.check()
            deadline.earn()
            origin = frame.timestamp if origin is None else origin
            ticks = frame.timestamp - origin
            if ticks <= previous:
                tally.out_of_order += 1
                continue
            if ticks > last_allowed:
                limits.check_duration(float(ticks * tick_s))
            previous = ticks
            if ticks < due:
                continue
            pts_s = ticks * tick_s
            if self._grid is not None:
                if not self._grid.takes(pts_s):
                    continue
                due = ceil(self._grid.next_s / tick_s)
            with deadline:
                yield frame, pts_s
        tally.last_pts_s = max(previous, 0) * tick_s

    def _decoded(self) -> Iterator[Any]:
        """NVDEC's frames in order of display, as the decoder's own objects, valid until the next is asked for."""
        try:
            yield from self._fed()
        except NvdecFailed as failure:
            raise NvdecUnsuitable(str(failure)) from None

    def _fed(self) -> Iterator[Any]:
        tally, context = self.tally, self._clip.stream.codec_context
        to_annex_b = BitStreamFilterContext(_FILTERS[self._codec], self._clip.stream)
        kind = (self._codec, int(self._device.partition(":")[2] or 0), context.width, context.height)
        session: NvdecSession | None = None
        packets = self._clip.packets()
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except (av.error.FFmpegError, UnicodeDecodeError):
                tally.damaged += 1
                break  # the demuxer lost its way: what is missing is counted at the end
            if not packet.size:
                continue
            tally.packets += 1
            if packet.pts is None:
                raise NvdecUnsuitable("a packet has no timestamp")
            if session is None:
                session = self._sessions.take(kind, fresh=not packet.is_keyframe)
            try:
                filtered = to_annex_b.filter(packet)
            except av.error.FFmpegError:
                tally.damaged += 1
                continue
            for part in filtered:
                yield from session.decode(part)
        if session is not None:
            yield from session.decode(None)
        # a frame that NVDEC could not make out never comes
        lost = max(0, tally.packets - tally.decoded - tally.damaged)
        tally.damaged += lost
        if session is not None and not tally.damaged:
            self._sessions.give_back(kind, session)

    def _check_end(self, sampled: int) -> None:
        """At the end: is this the clip that was declared, and did enough of it decode?"""
        tally, declared = self.tally, self._clip.stream.frames
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
