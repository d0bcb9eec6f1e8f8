"""Probing and decoding of clips nobody vouches for, in a process that can be killed.

A crafted clip can crash a decoder, make it loop for ever or eat all memory, and may one day take it over. So uploads
are opened only in a child process: bare of credentials, limited in memory and time, silent, and gone with its parent.
What comes back is a shard and a few numbers, or one line on why not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from cv_platform.vision.confined import (
    ChildOutOfTime,
    ChildStopped,
    ChildTakenOver,
    ConfinedChild,
    Ending,
    confined_child,
)
from cv_platform.vision.video.deadline import SECONDS_A_FRAME, longest_s, out_of_time
from cv_platform.vision.video.limits import DEFAULT_LIMITS, REASONS, ClipLimits, ClipRejected
from cv_platform.vision.video.probe import ClipFacts
from cv_platform.vision.video.shards import JPEG_QUALITY

PROBE_TIMEOUT_S: Final = 20.0


class ExtractionFailed(RuntimeError):
    """Something other than the clip went wrong (disk full, child killed from outside); trying again may help."""


class ExtractionStopped(RuntimeError):
    """The caller's `should_stop` said so."""


@dataclass(frozen=True)
class ExtractionSummary:
    """What came of a clip.

    Attributes:
        facts: what the clip says of itself.
        frames: in the shard.
        shard_bytes: length of the shard.
        shard_sha256: its digest, hexadecimal.
        packets: read from the clip.
        decoded: frames decoded, sampled or not.
        damaged: packets that failed to decode, and frames that the decoder had to patch up.
        out_of_order: frames left out, since their time was not after the one before.
        last_pts_s: exact time of the clip's last frame, seconds since its first.
        elapsed_s: wall clock, with the child's start.
    """

    facts: ClipFacts
    frames: int
    shard_bytes: int
    shard_sha256: str
    packets: int
    decoded: int
    damaged: int
    out_of_order: int
    last_pts_s: Fraction
    elapsed_s: float


def probe_clip_sandboxed(source: Path, *, limits: ClipLimits = DEFAULT_LIMITS) -> ClipFacts:
    """As `probe.probe_clip`, in a child process that may take `PROBE_TIMEOUT_S`.

    Raises:
        ClipRejected: the clip cannot be accepted.
        ExtractionFailed: something other than the clip went wrong.
        OSError: the file cannot be read.
    """
    timeout_s = min(limits.decode_timeout_s, PROBE_TIMEOUT_S)
    request = {"source": readable(source), "shard": None, "cpu_s": timeout_s}
    facts, _ = _run(request, limits, timeout_s, None, None)
    return facts


def extract_frames(
    source: Path,
    shard: Path,
    *,
    fps: float = 5.0,
    long_side: int = 960,
    limits: ClipLimits = DEFAULT_LIMITS,
    jpeg_quality: int = JPEG_QUALITY,
    threads: int = 1,
    on_progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ExtractionSummary:
    """Check a clip, decode it, and write its sampled frames to a shard, all in a child process.

    Args:
        source: the clip.
        shard: where to write; appears only when whole, readable by this user alone.
        fps: frames a second to sample (see `decode.decode_sampled`).
        long_side: pixels to which a frame's longer side is shrunk, never enlarged.
        limits: what is accepted; `decode_timeout_s` is wall clock, here, and `deadline.SECONDS_A_FRAME` more for each
            frame that the child tells of, up to `max_frames`.
        jpeg_quality: 1 to 100.
        threads: of the decoder; 0 lets it take all cores.
        on_progress: called about once a second with the number of frames written so far.
        should_stop: asked four times a second; once it says True, the child is killed.

    Raises:
        ClipRejected: the clip cannot be accepted; a crash of the decoder too ends here.
        ExtractionFailed: something other than the clip went wrong.
        ExtractionStopped: `should_stop` said so.
        OSError: the source cannot be read.
    """
    started = time.monotonic()
    partial = shard.with_name(shard.name + ".partial")
    request = {
        "source": readable(source),
        "shard": os.path.abspath(partial),
        "fps": fps,
        "long_side": long_side,
        "jpeg_quality": jpeg_quality,
        "threads": threads,
        # the clock on the wall ends it, and it does not outlive this process: a backstop
        "cpu_s": longest_s(limits) * (threads or os.cpu_count() or 1),
    }
    try:
        facts, done = _run(request, limits, limits.decode_timeout_s, on_progress, should_stop)
        os.replace(partial, shard)
    finally:
        partial.unlink(missing_ok=True)
    return summary_of(facts, done, elapsed_s=time.monotonic() - started)


def summary_of(facts: ClipFacts, done: dict[str, Any], *, elapsed_s: float) -> ExtractionSummary:
    """The summary of what a child told at its end."""
    last_pts_s = Fraction(done.pop("last_pts_s"))
    return ExtractionSummary(facts=facts, last_pts_s=last_pts_s, elapsed_s=elapsed_s, **done)


def readable(source: Path) -> str:
    """The file's absolute path.

    Raises:
        OSError: it cannot be read.
    """
    with open(source, "rb"):
        return os.path.abspath(source)


def _run(
    request: dict[str, Any],
    limits: ClipLimits,
    timeout_s: float,
    on_progress: Callable[[int], None] | None,
    should_stop: Callable[[], bool] | None,
) -> tuple[ClipFacts, dict[str, Any]]:
    """Serve a child the request and return what it found."""
    child_limits = {**limits.as_dict(), "decode_timeout_s": timeout_s}
    worker = confined_child(
        "cv_platform.vision.video.worker",
        {**request, "limits": child_limits},
        timeout_s=timeout_s,
        should_stop=should_stop,
    )
    with worker as child:
        return followed(child, child.events(), limits, timeout_s, on_progress)


def followed(
    child: ConfinedChild,
    events: Iterable[dict[str, Any]],
    limits: ClipLimits,
    timeout_s: float,
    on_progress: Callable[[int], None] | None,
) -> tuple[ClipFacts, dict[str, Any]]:
    """What a decoding child found, heard to its end; its time grows with the frames that it tells of.

    Args:
        events: what it tells, or what somebody between them hands on.

    Raises:
        ClipRejected, ExtractionFailed, ExtractionStopped: as `extract_frames`.
    """
    facts: ClipFacts | None = None
    decoded = 0
    try:
        for event in events:
            match event.pop("event"):
                case "facts":
                    facts = ClipFacts.from_dict(event)
                case "progress":
                    frames, so_far = event["frames"], event["decoded"]
                    if not isinstance(frames, int) or not isinstance(so_far, int):
                        raise ChildTakenOver
                    if decoded < so_far <= limits.max_frames:
                        child.allow((so_far - decoded) * SECONDS_A_FRAME)
                        decoded = so_far
                    if on_progress is not None:
                        on_progress(frames)
                case "rejected":
                    code = event["code"] if event["code"] in REASONS else "not_a_video"
                    raise ClipRejected(code, event["message"])
                case "failed":
                    raise ExtractionFailed(f"decoding stopped with {event['error']}, which is not the clip's doing")
                case "done" if facts is not None:
                    return facts, event
        raise _verdict(*child.ending())
    except ChildStopped:
        raise ExtractionStopped("the caller stopped the extraction") from None
    except ChildTakenOver:
        raise ClipRejected("decoder_crashed") from None
    except ChildOutOfTime:
        raise ClipRejected("decode_timeout", out_of_time(timeout_s + decoded * SECONDS_A_FRAME)) from None


def _verdict(ending: Ending, code: int) -> Exception:
    """Why a child ended without a word."""
    match ending:
        case "out_of_time":
            return ClipRejected("decode_timeout")
        case "crashed":
            return ClipRejected("decoder_crashed")
        case "killed":
            return ExtractionFailed("the decoding process was killed from outside; is the machine out of memory?")
        case "exited":
            return ExtractionFailed(f"the decoding process ended with exit code {code} and without a result")
