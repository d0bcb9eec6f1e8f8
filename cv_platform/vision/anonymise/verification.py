"""A published clip held against its certificate, offline, and shown to a detector where one is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.error

from cv_platform.vision.anonymise import h264
from cv_platform.vision.anonymise.certificate import Certificate, sha256_of
from cv_platform.vision.anonymise.failures import AnonymisationFailed
from cv_platform.vision.anonymise.flow import Prefetched
from cv_platform.vision.anonymise.looking import see
from cv_platform.vision.anonymise.policy import AnonymisePolicy
from cv_platform.vision.anonymise.source import FrameReader
from cv_platform.vision.detectors.base import Detector
from cv_platform.vision.video.limits import DEFAULT_LIMITS, ClipLimits

_HARMLESS_TAGS = {
    "major_brand", "minor_version", "compatible_brands", "language", "handler_name", "vendor_id", "encoder",
}  # fmt: skip
_HARMLESS_VALUES = {"", "und", "[0][0][0][0]", "VideoHandler", "SoundHandler"}
_ALLOWED_NALS = {h264.SLICE, h264.IDR, h264.SPS, h264.PPS}


@dataclass
class Verification:
    """What was checked and what was wrong.

    Attributes:
        problems: a line each; empty where the clip is what the certificate says.
        frames: decoded.
        frames_examined: shown to the detector.
        frames_with_faces: of those, with a face at or above the certificate's threshold.
    """

    problems: list[str] = field(default_factory=list)
    frames: int = 0
    frames_examined: int = 0
    frames_with_faces: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.problems


def verify_clip(
    clip: Path,
    certificate: Certificate,
    *,
    detector: Detector | None = None,
    rate_hz: float = 2.0,
    limits: ClipLimits = DEFAULT_LIMITS,
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Check digest, streams, metadata, bitstream, frames, and what a detector still finds.

    Args:
        clip: the published clip.
        certificate: its certificate.
        detector: looks for faces that are still to be seen; None leaves that out.
        rate_hz: frames a second that it is shown.
        limits: for decoding.
        progress: called with the number of frames decoded.
    """
    found = Verification()
    digest, size = sha256_of(clip)
    if (digest, size) != (certificate.output_sha256, certificate.output_bytes):
        found.problems.append("the file is not the one that was certified: its digest or length differs")
    found.problems += certificate.shortcomings()
    found.problems += extra_content(clip, keep_audio=certificate.policy.get("audio") == "keep")
    try:
        _decode(clip, certificate, detector, rate_hz, limits, found, progress)
    except AnonymisationFailed as failed:
        found.problems.append(f"the clip does not decode: {failed.message}")
    return found


def extra_content(clip: Path, *, keep_audio: bool) -> list[str]:
    """What the file holds besides pictures (and, where it may, sound): streams, tags, thumbnails, SEI messages."""
    problems = []
    allowed = ["audio", "video"] if keep_audio else ["video"]
    try:
        with av.open(str(clip), metadata_errors="replace") as container:
            kinds = sorted(stream.type for stream in container.streams)
            if kinds not in (allowed, ["video"]):
                problems.append(f"the file holds the streams {', '.join(kinds)}; allowed is {' and '.join(allowed)}")
            tags = [container.metadata, *(stream.metadata for stream in container.streams)]
            extra = sorted(
                {k for t in tags for k, v in t.items() if k not in _HARMLESS_TAGS}
                | {k for t in tags for k in ("language", "handler_name", "vendor_id", "encoder")
                   if t.get(k, "") not in _HARMLESS_VALUES}
            )  # fmt: skip
            if extra:
                problems.append(f"the file holds metadata: {', '.join(extra)}")
            if list(container.chapters()):
                problems.append("the file holds chapters")
            if not container.streams.video:
                return [*problems, "the file holds no video"]
            stream = container.streams.video[0]
            if stream.codec_context.codec.canonical_name != "h264":
                return [*problems, "the video is not H.264"]
            config = h264.AvcConfig.parse(bytes(stream.codec_context.extradata or b""))
            kinds_of_nal = {
                h264.nal_type(nal)
                for packet in container.demux(stream)
                if packet.size
                for nal in h264.split_lengths(bytes(packet), config.length_size)
            }
            if kinds_of_nal - _ALLOWED_NALS:
                problems.append(f"the video holds NAL units of types {sorted(kinds_of_nal - _ALLOWED_NALS)}")
    except (av.error.FFmpegError, ValueError, UnicodeDecodeError):
        problems.append("the file cannot be read as MP4 with H.264")
    return problems


def _decode(
    clip: Path,
    certificate: Certificate,
    detector: Detector | None,
    rate_hz: float,
    limits: ClipLimits,
    found: Verification,
    progress: Callable[[int], None] | None,
) -> None:
    reader = FrameReader(clip, limits=limits, should_stop=lambda: False)
    values: dict[str, Any] = certificate.policy
    threshold = float(values["verify_threshold"])
    policy = AnonymisePolicy(classes=tuple(values["classes"]), zones=(((0, 0), (0, 1), (1, 1)),))
    due = 0.0
    with Prefetched(reader, depth=8) as frames:
        for frame in frames:
            geometry = reader.geometry
            assert geometry is not None
            found.frames += 1
            seconds = frame.tick / geometry.timescale
            if detector is not None and seconds >= due:
                due = seconds + 1 / rate_hz
                found.frames_examined += 1
                seen = see(detector, frame, geometry, policy, values["verify_long_side"]).above(threshold)
                found.frames_with_faces += bool(len(seen))
            if progress is not None:
                progress(found.frames)
    geometry = reader.geometry
    assert geometry is not None
    if found.frames != certificate.frames or reader.damaged:
        found.problems.append(f"it decodes to {found.frames} frames; the certificate names {certificate.frames}")
    if (geometry.width, geometry.height) != (certificate.width, certificate.height):
        found.problems.append("the pictures are not of the size that the certificate names")
    if found.frames_with_faces:
        found.problems.append(
            f"a face is still found in {found.frames_with_faces} of {found.frames_examined} examined frames"
        )
