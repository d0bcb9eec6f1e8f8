"""The process in which clips are decoded on a GPU: `python -m cv_platform.vision.video.gpu_worker`.

Not for people: `gpu_sandbox` starts it and has it serve clip after clip, since a GPU takes seconds to open. Requests
and events are those of `worker`, but for two: `left` says why a clip is left to the processor's decoder, `missing` that
there is no such GPU here. It refuses no clip: that is the sandbox's to do. NVDEC decodes; the shard's pictures are made
and encoded (nvJPEG) where they lie, while the next ones are decoded.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cv_platform.vision.confined_child import Say, serve_each
from cv_platform.vision.gpu.lost import DeviceLost, telling_loss
from cv_platform.vision.video.worker import PROGRESS_INTERVAL_S, HashingFile, tell_done

if TYPE_CHECKING:
    from cv_platform.vision.gpu.resample import Surface
    from cv_platform.vision.video.limits import ClipLimits
    from cv_platform.vision.video.shards import ShardFrame

_BATCH: Final = 16
_WAITING: Final = 2
"""Batches on their way into the shard while the next one is decoded."""


def main() -> int:
    """Serve requests."""
    return serve_each(_serve)


def _serve(request: dict[str, Any], say: Say) -> None:
    from cv_platform.vision.video.limits import ClipLimits, ClipRejected
    from cv_platform.vision.video.nvdec import NvdecMissing, NvdecUnsuitable

    try:
        with telling_loss():
            _extract(request, Path(request["source"]), ClipLimits(**request["limits"]), say)
    except NvdecMissing as reason:
        say("missing", reason=str(reason))
    except NvdecUnsuitable as reason:
        say("left", reason=str(reason))
    except ClipRejected as rejected:
        say("left", reason=f"it would be refused ({rejected.reason_code})")
    except DeviceLost:
        os._exit(1)  # nothing here can be used again, and the clean-up of torch's objects can hang
    except OSError as error:
        # the name of the error only: its text would carry a path
        say("failed", error=errno.errorcode.get(error.errno or 0, type(error).__name__))
    except Exception as error:  # noqa: BLE001 - its text may carry a path, its type cannot
        say("left", reason=type(error).__name__)


def _extract(request: dict[str, Any], source: Path, limits: ClipLimits, say: Say) -> None:
    from cv_platform.vision.video.nvdec import NvdecDecoder, NvdecUnsuitable, check_suitable
    from cv_platform.vision.video.probe import open_clip
    from cv_platform.vision.video.shards import ShardWriter

    facts = check_suitable(source, limits=limits)
    with open_clip(source, limits=limits) as clip:
        decoder = NvdecDecoder(
            clip, rotation=facts.rotation, fps=request["fps"], long_side=request["long_side"], limits=limits
        )
        reported = time.monotonic()
        with open(request["shard"], "wb") as file:
            hashing = HashingFile(file)
            with ShardWriter(hashing) as writer:  # type: ignore[arg-type]
                for frame in _encoded(iter(decoder), request["jpeg_quality"]):
                    writer.add_encoded(frame)
                    if time.monotonic() - reported > PROGRESS_INTERVAL_S:
                        reported = time.monotonic()
                        say("progress", frames=writer.frames, decoded=decoder.tally.decoded)
        if decoder.tally.damaged:
            # the processor's decoder patches up what NVDEC leaves out
            raise NvdecUnsuitable("part of it is damaged")
        say("facts", **decoder.facts.as_dict())
        tell_done(say, decoder.tally, writer.frames, hashing)


def _encoded(surfaces: Iterator[Surface], quality: int) -> Iterator[ShardFrame]:
    """The frames as JPEG files, in order; a thread makes them while this one decodes."""
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as encoding:
        running: deque[Future[list[ShardFrame]]] = deque()
        while batch := list(islice(surfaces, _BATCH)):
            running.append(encoding.submit(_as_jpeg, batch, quality))
            if len(running) > _WAITING:
                yield from running.popleft().result()
        for last in running:
            yield from last.result()


def _as_jpeg(surfaces: list[Surface], quality: int) -> list[ShardFrame]:
    import torch

    from cv_platform.vision.gpu.jpeg import encode_jpegs
    from cv_platform.vision.video.shards import ShardFrame

    device = surfaces[0].nv12.device
    # not torch's default stream, for which others' work waits
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    with nullcontext() if stream is None else torch.cuda.stream(stream):
        files = encode_jpegs([surface.rgb() for surface in surfaces], quality=quality)
    return [
        ShardFrame(surface.index, surface.pts_s, surface.size[1], surface.size[0], file)
        for surface, file in zip(surfaces, files, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
