"""The process in which an untrusted clip is opened: `python -m cv_platform.vision.video.worker`.

Not for people: `sandbox` starts it, writes one request (a line of JSON) to its standard input, and reads events, a
line of JSON each, from its standard output: `facts`, `progress`, then one of `done`, `rejected`, `failed`. It holds no
credentials (its environment is bare), writes no core dump (one would hold footage), can take only so much memory and
processor time, says nothing on standard error, and dies with the process that started it.
"""

from __future__ import annotations

import errno
import hashlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cv_platform.vision.confined_child import Say, serve

if TYPE_CHECKING:
    from cv_platform.vision.video.decode import DecodeTally
    from cv_platform.vision.video.limits import ClipLimits

PROGRESS_INTERVAL_S = 1.0


def main() -> int:
    """Serve one request."""
    return serve(_serve, _limits)


def _limits(request: dict[str, Any]) -> tuple[int, float]:
    return request["limits"]["max_memory_bytes"], request["cpu_s"]


def _serve(request: dict[str, Any], say: Say) -> None:
    # imported under the limits, and only in this process
    from cv_platform.vision.video.limits import ClipLimits, ClipRejected
    from cv_platform.vision.video.probe import probe_clip

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


def _extract(request: dict[str, Any], source: Path, limits: ClipLimits, say: Say) -> None:
    from cv_platform.vision.video.decode import ClipDecoder
    from cv_platform.vision.video.probe import open_clip
    from cv_platform.vision.video.shards import ShardWriter

    with open_clip(source, limits=limits, threads=request["threads"]) as clip:
        decoder = ClipDecoder(clip, fps=request["fps"], long_side=request["long_side"], limits=limits)
        with open(request["shard"], "wb") as file:
            hashing = HashingFile(file)
            reported = time.monotonic()
            with ShardWriter(hashing, jpeg_quality=request["jpeg_quality"]) as writer:  # type: ignore[arg-type]
                for frame in decoder:
                    writer.add(frame)
                    if time.monotonic() - reported > PROGRESS_INTERVAL_S:
                        reported = time.monotonic()
                        say("progress", frames=writer.frames, decoded=decoder.tally.decoded)
        say("facts", **decoder.facts.as_dict())
        tell_done(say, decoder.tally, writer.frames, hashing)


def tell_done(say: Say, tally: DecodeTally, frames: int, shard: HashingFile) -> None:
    """Tell what came of the clip; the last word."""
    say(
        "done",
        frames=frames,
        shard_bytes=shard.size,
        shard_sha256=shard.digest.hexdigest(),
        packets=tally.packets,
        damaged=tally.damaged,
        decoded=tally.decoded,
        out_of_order=tally.out_of_order,
        last_pts_s=str(tally.last_pts_s),
    )


class HashingFile:
    """Counts and digests what is written through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.size += len(content)
        self.digest.update(content)
        return self._file.write(content)


if __name__ == "__main__":
    sys.exit(main())
