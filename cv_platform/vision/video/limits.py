"""What a clip may be at most, and how one that is not accepted is refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Final

REASONS: Final[dict[str, str]] = {
    "empty_file": "the file is empty; upload the clip again",
    "not_a_video": "the file is in no video format that is accepted (MP4, MOV, MKV, WebM, AVI, MPEG, FLV, ASF, DAV)",
    "still_picture": "the file is a still picture; upload a video",
    "no_video": "the file holds no video stream",
    "truncated": "the file ends before its content does; upload the whole clip again",
    "encrypted": "the video is encrypted; upload it decrypted",
    "too_large": "the file is too large",
    "too_long": "the clip is too long",
    "too_many_pixels": "the picture has too many pixels",
    "too_small": "the picture has too few pixels",
    "too_many_frames": "the clip has too many frames",
    "codec_missing": "no decoder is installed for the clip's codec",
    "no_frames": "not one frame could be decoded",
    "damaged": "too much of the clip is damaged",
    "decode_timeout": "decoding took too long",
    "out_of_memory": "decoding needs more memory than is allowed",
    "decoder_crashed": "the decoder crashed on this file",
}
"""Every reason for which a clip is refused: its code, and what is said where nothing more is known."""


class ClipRejected(Exception):
    """A clip cannot be accepted, now or on any later attempt.

    Attributes:
        reason_code: one of `REASONS`.
        message: one line that a person understands; names no path, no file and nothing personal.
    """

    def __init__(self, reason_code: str, message: str | None = None) -> None:
        if reason_code not in REASONS:
            raise ValueError(f"reason code {reason_code!r} is not one of {', '.join(REASONS)}")
        self.reason_code = reason_code
        self.message = message or REASONS[reason_code]
        super().__init__(reason_code, self.message)

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class ClipLimits:
    """What a clip may be at most. Checked on what its header says, and again on what it turns out to be.

    Attributes:
        max_bytes: size of the file.
        max_duration_s: from its first frame to its last, seconds.
        max_pixels: width × height of any frame.
        min_side_px: shorter side of its frames; below it nothing can be seen, and no H.264 encoder takes it.
        max_frames: frames decoded (not sampled).
        decode_timeout_s: seconds that decoding may take before a frame comes of it; each frame adds some (`deadline`).
        max_memory_bytes: address space of the decoding process.
        max_damaged_share: share of packets that may fail to decode, 0..1.
    """

    max_bytes: int = 4 * 2**30
    max_duration_s: float = 4 * 3600.0
    max_pixels: int = 4096 * 4096
    min_side_px: int = 16
    max_frames: int = 1_000_000
    decode_timeout_s: float = 3600.0
    max_memory_bytes: int = 4 * 2**30
    max_damaged_share: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"{field.name} is {value}; allowed is more than 0")

    def as_dict(self) -> dict[str, Any]:
        """The limits as plain values, for the worker's request."""
        return asdict(self)

    def check_bytes(self, size: int) -> None:
        """Refuse an empty file or one that is too large."""
        if size == 0:
            raise ClipRejected("empty_file")
        if size > self.max_bytes:
            raise ClipRejected(
                "too_large", f"the file has {size / 2**20:,.0f} MiB; at most {self.max_bytes / 2**20:,.0f} are accepted"
            )

    def check_size(self, width: int, height: int) -> None:
        """Refuse a picture with too many pixels, or too few."""
        if width * height > self.max_pixels:
            raise ClipRejected(
                "too_many_pixels",
                f"the picture is {width}×{height}, {width * height:,} pixels; at most {self.max_pixels:,} are accepted",
            )
        if min(width, height) < self.min_side_px:
            raise ClipRejected(
                "too_small",
                f"the picture is {width}×{height}; the shorter side must have at least {self.min_side_px} pixels",
            )

    def check_duration(self, duration_s: float) -> None:
        """Refuse a clip that lasts too long."""
        if duration_s > self.max_duration_s:
            raise ClipRejected(
                "too_long", f"the clip lasts {duration_s:,.0f} s; at most {self.max_duration_s:,.0f} s are accepted"
            )

    def check_frames(self, frames: int) -> None:
        """Refuse a clip with too many frames."""
        if frames > self.max_frames:
            raise ClipRejected("too_many_frames", f"the clip has more than {self.max_frames:,} frames")


DEFAULT_LIMITS: Final = ClipLimits()
