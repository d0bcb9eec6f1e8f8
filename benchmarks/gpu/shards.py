"""JPEG shards → detections, against nvJPEG alone on the same pictures: by one process, and by several on one GPU."""

from __future__ import annotations

import io
import itertools
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu._processes import Runs, started
from benchmarks.gpu._rig import Rig, alone, turns, without_fused_kernels

FRAMES = 200
"""A shard."""
TIMES = 8
"""How often a round goes over the shards."""
COUNTS = (2, 4)


def measure(rig: Rig) -> dict[str, Any]:
    """Pictures a second: of one process, and of several together."""
    results = {"processes: 1": _one(rig)}
    for count in COUNTS:
        with started(rig, count, nvjpeg_or_detect) as processes:
            results[f"processes: {count}"] = turns(
                {
                    "nvJPEG decode only": partial(processes.run, "nvjpeg", rig.batch),
                    "end to end, 2 readers each": partial(processes.run, "detect", 2),
                    "end to end, 3 readers each": partial(processes.run, "detect", 3),
                },
                rig.rounds,
            )
    return results


def nvjpeg_or_detect(rig: Rig) -> Runs:
    """nvJPEG alone on files in memory, in batches; detection in the shards that hold them."""
    shards = _shards(rig)
    detector = rig.detector()
    return {"nvjpeg": partial(_nvjpeg, rig, _files(shards)), "detect": partial(_detect, rig, shards, detector)}


def _shards(rig: Rig) -> list[bytes]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(shard_of, rig.clip_list(4)))


def _files(shards: list[bytes]) -> list[Any]:
    import numpy as np
    import torch

    from cv_platform.vision.gpu.jpeg import shard_frames

    return [
        torch.from_numpy(np.frombuffer(frame.jpeg, np.uint8).copy())
        for shard in shards
        for frame in shard_frames(shard)
    ]


def _nvjpeg(rig: Rig, files: list[Any], batch: int) -> int:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    for _ in range(TIMES):
        for start in range(0, len(files), batch):
            decode_jpeg(files[start : start + batch], mode=ImageReadMode.RGB, device=rig.device)
    if rig.device != "cpu":
        torch.cuda.synchronize()
    return TIMES * len(files)


def _detect(rig: Rig, shards: list[bytes], detector: Any, readers: int) -> int:
    from cv_platform.vision.gpu.jpeg import shard_items
    from cv_platform.vision.gpu.stream import detect_streams

    def items(shard: bytes) -> Iterator[Any]:
        return shard_items(shard, batch=rig.batch, device=rig.device)

    count = 0
    for found in detect_streams(shards * TIMES, items, detector, streams=readers, prefetch=4):
        if found.error is not None:
            raise found.error
        count += found.detections is not None
    return count


def _one(rig: Rig) -> dict[str, Any]:
    from cv_platform.vision.gpu.jpeg import shard_items

    shards = _shards(rig)
    files = _files(shards)
    detector = rig.detector()
    with without_fused_kernels():
        plain = rig.detector()

    def only_read() -> int:
        return sum(len(chunk) for s in shards * TIMES for chunk in shard_items(s, batch=rig.batch, device=rig.device))

    def whole_plain() -> int:
        with without_fused_kernels():
            return _detect(rig, shards, plain, 3)

    rates = turns(
        {
            "nvJPEG decode only": lambda: _nvjpeg(rig, files, rig.batch),
            "nvJPEG decode only, batches of 128": lambda: _nvjpeg(rig, files, 128),
            "shards read and decoded, no network": only_read,
            "end to end, 3 readers": lambda: _detect(rig, shards, detector, 3),
            "end to end, 6 readers": lambda: _detect(rig, shards, detector, 6),
            "end to end, 3 readers, torch's own kernels": whole_plain,
        },
        rig.rounds,
    )
    return {
        **rates,
        "network, head and suppression alone, frames_per_s": alone(rig, detector),
        "the same of torch's own kernels": alone(rig, plain),
        "mean JPEG bytes": round(statistics.mean(map(len, files))),
    }


def shard_of(clip: Path) -> bytes:
    """A shard of a clip's first frames, 960 pixels wide."""
    from cv_platform.vision.video.decode import decode_sampled
    from cv_platform.vision.video.shards import ShardWriter

    file = io.BytesIO()
    with ShardWriter(file) as writer:
        for frame in itertools.islice(decode_sampled(clip, fps=None, long_side=960, threads=2), FRAMES):
            writer.add(frame)
    return file.getvalue()
