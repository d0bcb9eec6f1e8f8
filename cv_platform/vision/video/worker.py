"""The process in which an untrusted clip is opened: `python -m cv_platform.vision.video.worker`.

Not for people: `sandbox` starts it, writes one request (a line of JSON) to its standard input, and reads events, a
line of JSON each, from its standard output: `facts`, `progress`, then one of `done`, `rejected`, `failed`. It holds no
credentials (its environment is bare), writes no core dump (one would hold footage), can take only so much memory and
processor time, says nothing on standard error, and dies with the process that started it.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TextIO

if TYPE_CHECKING:
    from cv_platform.vision.video.limits import ClipLimits

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_PROGRESS_INTERVAL_S = 1.0


class _Say(Protocol):
    def __call__(self, event: str, **values: Any) -> None: ...


def main() -> int:
    """Serve one request."""
    request = json.loads(sys.stdin.readline())
    _die_with(request["parent_pid"])
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    os.umask(0o077)
    limits = request["limits"]
    threads = request.get("threads", 1) or os.cpu_count() or 1
    _confine(memory_bytes=limits["max_memory_bytes"], cpu_s=limits["decode_timeout_s"] * threads)
    _serve(request, events)
    return 0


def _serve(request: dict[str, Any], events: TextIO) -> None:
    # imported under the limits, and only in this process
    from cv_platform.vision.video.limits import ClipLimits, ClipRejected
    from cv_platform.vision.video.probe import probe_clip

    def say(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")
        events.flush()

    limits = ClipLimits(**request["limits"])
    source = Path(request["source"])
    try:
        if request["shard"] is None:
            say("facts", **probe_clip(source, limits=limits).as_dict())
            say("done")
        else:
            _extract(request, source, limits, say)
    except ClipRejected as rejected:
        say("rejected", code=rejected.reason_code, message=rejected.message)
    except MemoryError:
        say("rejected", code="out_of_memory", message=None)
    except OSError as error:
        # the name of the error only: its text would carry a path
        say("failed", error=errno.errorcode.get(error.errno or 0, type(error).__name__))
    except Exception as error:  # noqa: BLE001 - a bug of ours; its text may carry a path, its type cannot
        say("failed", error=type(error).__name__)


def _extract(request: dict[str, Any], source: Path, limits: ClipLimits, say: _Say) -> None:
    from cv_platform.vision.video.decode import ClipDecoder
    from cv_platform.vision.video.probe import open_clip
    from cv_platform.vision.video.shards import ShardWriter

    with open_clip(source, limits=limits, threads=request["threads"]) as clip:
        decoder = ClipDecoder(clip, fps=request["fps"], long_side=request["long_side"], limits=limits)
        with open(request["shard"], "wb") as file:
            hashing = _HashingFile(file)
            reported = time.monotonic()
            with ShardWriter(hashing, jpeg_quality=request["jpeg_quality"]) as writer:  # type: ignore[arg-type]
                for frame in decoder:
                    writer.add(frame)
                    if time.monotonic() - reported > _PROGRESS_INTERVAL_S:
                        reported = time.monotonic()
                        say("progress", frames=writer.frames)
        say("facts", **decoder.facts.as_dict())
        tally = decoder.tally
        say(
            "done",
            frames=writer.frames,
            shard_bytes=hashing.size,
            shard_sha256=hashing.digest.hexdigest(),
            packets=tally.packets,
            damaged=tally.damaged,
            decoded=tally.decoded,
            out_of_order=tally.out_of_order,
            last_pts_s=str(tally.last_pts_s),
        )


class _HashingFile:
    """Counts and digests what is written through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.size += len(content)
        self.digest.update(content)
        return self._file.write(content)


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; end now if it has ended already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def _confine(*, memory_bytes: int, cpu_s: float) -> None:
    cpu_whole_s = int(cpu_s) + 5
    for what, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        (resource.RLIMIT_CPU, cpu_whole_s, cpu_whole_s + 5),  # SIGXCPU at the first, which tells; SIGKILL at the second
        (resource.RLIMIT_NOFILE, 64, 64),
    ):
        _, highest = resource.getrlimit(what)
        if highest != resource.RLIM_INFINITY:
            soft, hard = min(soft, highest), min(hard, highest)
        resource.setrlimit(what, (soft, hard))


if __name__ == "__main__":
    sys.exit(main())
