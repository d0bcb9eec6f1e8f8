"""What a clip says of itself, checked before anything is decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import av.error
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from cv_platform.vision.video.container import ContainerStructure, inspect_structure
from cv_platform.vision.video.limits import DEFAULT_LIMITS, ClipLimits, ClipRejected

# FFmpeg's messages hold paths and names from the file; nothing of them may reach a log. None, not PANIC: for that PyAV
# asks for Python's lock in FFmpeg's own threads, and a decoder of several threads that closes meanwhile waits for ever.
av.logging.set_level(None)

FORMATS: Final = (
    "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "dhav",
)  # fmt: skip
"""The demuxers that may open an upload. Playlists (HLS, concat) are left out: they make FFmpeg open other files."""

_PACKETS_UNTIL_FIRST_FRAME: Final = 64


@dataclass(frozen=True)
class ClipFacts:
    """What a clip is.

    Attributes:
        container: FFmpeg's name of the container, its first part ("mov", "matroska").
        codec: FFmpeg's name of the video codec ("h264").
        width: of a stored frame, pixels, before rotation.
        height: of a stored frame, pixels, before rotation.
        rotation: degrees counter-clockwise by which a frame is turned to be upright: 0, 90, 180 or 270.
        duration_s: as declared, seconds; None where the container does not say.
        frame_rate: average, frames a second; None where unknown.
        frame_count: as declared, else duration × rate; None where neither is known.
        time_base: seconds a tick of the timestamps.
        start_s: the first timestamp as declared, seconds; frames' `pts_s` count from the first frame instead.
        has_audio: whether there is a sound track.
        size_bytes: length of the file.
    """

    container: str
    codec: str
    width: int
    height: int
    rotation: int
    duration_s: float | None
    frame_rate: Fraction | None
    frame_count: int | None
    time_base: Fraction
    start_s: Fraction
    has_audio: bool
    size_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, fractions as text; `from_dict` is the inverse."""
        return {name: str(value) if isinstance(value, Fraction) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClipFacts:
        """The facts that `as_dict` wrote."""
        exact = {
            name: Fraction(values[name]) for name in ("frame_rate", "time_base", "start_s") if values[name] is not None
        }
        return cls(**{**values, **exact})


def probe_clip(source: Path, *, limits: ClipLimits = DEFAULT_LIMITS) -> ClipFacts:
    """Read what a clip says of itself; at most its first frame is decoded.

    Not for uploads that nobody has looked at: a decoder may crash or hang on them. `sandbox.probe_clip_sandboxed` is.

    Raises:
        ClipRejected: the clip cannot be accepted (see `limits.REASONS`).
        OSError: the file cannot be read.
    """
    with open_clip(source, limits=limits) as clip:
        first: VideoFrame | None = None
        with suppress(av.error.FFmpegError):
            for number, packet in enumerate(clip.packets()):
                with suppress(av.error.InvalidDataError):
                    for frame in packet.decode():
                        first = first or frame
                if first is not None or number >= _PACKETS_UNTIL_FIRST_FRAME:
                    break
        return clip.facts(rotation=0 if first is None else upright_rotation(first))


def upright_rotation(frame: VideoFrame) -> int:
    """Degrees counter-clockwise (0, 90, 180, 270) by which the frame is to be turned; odd angles go to the nearest."""
    return round(frame.rotation / 90) % 4 * 90


class OpenClip:
    """A clip opened for demuxing, its header checked against the limits."""

    def __init__(
        self, container: InputContainer, stream: VideoStream, structure: ContainerStructure, size_bytes: int
    ) -> None:
        self.container = container
        self.stream = stream
        self.structure = structure
        self.size_bytes = size_bytes

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """The video packets, in order of decoding; the last one is empty and flushes the decoder.

        Raises:
            ClipRejected: encrypted.
        """
        for packet in self.container.demux(self.stream):
            if packet.has_sidedata("encryption_info"):
                raise ClipRejected("encrypted")
            yield packet

    def facts(self, *, rotation: int) -> ClipFacts:
        """What the header says."""
        stream = self.stream
        time_base = Fraction(stream.time_base or Fraction(1, 1_000_000))
        rate = stream.average_rate or stream.guessed_rate
        duration_s = declared_duration_s(self.container, stream)
        frames = stream.frames or (round(duration_s * rate) if duration_s and rate else None)
        return ClipFacts(
            container=self.container.format.name.split(",")[0],
            codec=stream.codec_context.codec.canonical_name,
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            rotation=rotation,
            duration_s=duration_s,
            frame_rate=Fraction(rate) if rate else None,
            frame_count=frames,
            time_base=time_base,
            start_s=(stream.start_time or 0) * time_base,
            has_audio=bool(self.container.streams.audio),
            size_bytes=self.size_bytes,
        )


def declared_duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    """The video stream's own duration, else the container's; None where neither says one."""
    if stream.duration and stream.duration > 0 and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration and container.duration > 0:
        return float(Fraction(container.duration, av.time_base))
    return None


@contextmanager
def open_clip(source: Path, *, limits: ClipLimits = DEFAULT_LIMITS, threads: int = 1) -> Iterator[OpenClip]:
    """Open a clip's best video stream and hold its header against the limits.

    Args:
        source: a regular file.
        limits: what is accepted.
        threads: of the decoder; 0 lets it take all cores.

    Raises:
        ClipRejected: the clip cannot be accepted.
        OSError: the file cannot be read.
    """
    size = os.stat(source).st_size
    limits.check_bytes(size)
    with open(source, "rb") as file:
        structure = inspect_structure(file, size)
    if structure.still_picture:
        raise ClipRejected("still_picture")
    if structure.encrypted:
        raise ClipRejected("encrypted")
    if structure.truncated:
        raise ClipRejected("truncated")
    try:
        container = av.open(
            f"file:{os.path.abspath(source)}",
            metadata_errors="replace",
            options={"protocol_whitelist": "file", "format_whitelist": ",".join(FORMATS)},
        )
    except MemoryError as error:
        raise ClipRejected("out_of_memory") from error
    except (av.error.FFmpegError, UnicodeDecodeError, ValueError, OverflowError):
        # the cause is cut off: FFmpeg's errors carry the path
        raise ClipRejected("not_a_video") from None
    with container:
        stream = _video_stream(container)
        context = stream.codec_context
        limits.check_size(context.width, context.height)
        limits.check_duration(declared_duration_s(container, stream) or 0.0)
        limits.check_frames(stream.frames)
        context.options = {"max_pixels": str(limits.max_pixels)}
        context.thread_count = threads
        context.thread_type = "AUTO" if threads != 1 else "SLICE"
        yield OpenClip(container, stream, structure, size)


def _video_stream(container: InputContainer) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise ClipRejected("no_video")
    decodable = [s for s in streams if s.codec_context is not None and s.codec_context.codec.is_decoder]
    if not decodable:
        raise ClipRejected("codec_missing")
    best = container.streams.best("video")
    return best if isinstance(best, VideoStream) and best in decodable else decodable[0]
