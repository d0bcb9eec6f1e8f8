"""How long a clip may take: a fixed time, and more for each frame that comes of it. Slow is not stuck."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final

from cv_platform.vision.video.limits import ClipLimits, ClipRejected

SECONDS_A_FRAME: Final = 0.25
"""What each frame adds to the time that a clip may take, at each stage."""


class Deadline:
    """When decoding a clip must have ended.

    An hour's clip may take longer than an hour on a slow machine; one that the decoder hangs on, or of which nothing
    comes but packets, may not. As a context manager it stands still: what those who take the frames spend is no time
    of the decoder's.
    """

    def __init__(self, limits: ClipLimits) -> None:
        self._allowed_s = limits.decode_timeout_s
        self._ends = time.monotonic() + limits.decode_timeout_s
        self._still_since = 0.0

    def earn(self) -> None:
        """A frame came."""
        self._allowed_s += SECONDS_A_FRAME
        self._ends += SECONDS_A_FRAME

    def check(self) -> None:
        """Raise `ClipRejected` where the time is over."""
        if time.monotonic() > self._ends:
            raise ClipRejected("decode_timeout", out_of_time(self._allowed_s))

    def __enter__(self) -> Deadline:
        self._still_since = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ends += time.monotonic() - self._still_since


def out_of_time(allowed_s: float) -> str:
    """What is said of a clip that took longer than this."""
    return f"decoding took more than the {allowed_s:,.0f} s that are allowed for as many frames as came of it"


def longest_s(limits: ClipLimits) -> float:
    """What a clip may take at most at one stage, if it has all the frames that it may have."""
    return limits.decode_timeout_s + limits.max_frames * SECONDS_A_FRAME
