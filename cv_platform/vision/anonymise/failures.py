"""Why a clip was not anonymised: one exception, a closed list of reasons."""

from __future__ import annotations

import errno
from typing import Final

from cv_platform.vision.video.limits import REASONS as CLIP_REASONS
from cv_platform.vision.video.limits import ClipRejected

REASONS: Final[dict[str, str]] = {
    **CLIP_REASONS,
    "unstable_decode": "the clip decodes differently each time, so what was examined is not what would be published",
    "input_changed": "the clip was replaced while it was being anonymised; it will be done again",
    "uncovered": "the second detector still finds a face that is not covered",
    "proof_failed": "the output does not show as hidden what was meant to be hidden",
    "disk_full": "the disk is full",
    "encode_failed": "the output could not be encoded or written",
    "worker_failed": "the process that did the work failed",
    "detector_failed": "a detector failed",
    "stopped": "the work was stopped from outside",
    "certificate_mismatch": "the clip is not the one that its certificate describes",
}
"""Every reason for which a clip is not anonymised: those for which a clip is refused at all, and our own."""

RETRYABLE: Final = frozenset(
    {"input_changed", "disk_full", "detector_failed", "encode_failed", "worker_failed", "stopped"}
)
"""Reasons that lie outside the clip: trying again may help."""

NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system says where a file cannot grow any further."""


class AnonymisationFailed(Exception):
    """The clip was not anonymised and nothing was written.

    Attributes:
        reason_code: a key of `REASONS`; stable, for ledgers and metrics.
        message: one line for a person; holds no path, no name and nothing else personal.
    """

    def __init__(self, reason_code: str, message: str = "") -> None:
        if reason_code not in REASONS:
            raise ValueError(f"reason code {reason_code!r} is unknown; allowed are {', '.join(sorted(REASONS))}")
        self.reason_code = reason_code
        self.message = message or REASONS[reason_code]
        super().__init__(reason_code, self.message)

    @property
    def retryable(self) -> bool:
        """Whether trying again may help."""
        return self.reason_code in RETRYABLE

    @classmethod
    def from_rejection(cls, rejected: ClipRejected) -> AnonymisationFailed:
        """The same verdict, from the decoder's side."""
        return cls(rejected.reason_code, rejected.message)

    def __str__(self) -> str:
        return self.message
