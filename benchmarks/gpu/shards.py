"""JPEG shards → detections, against nvJPEG alone on the same pictures."""

from __future__ import annotations

import io
import itertools
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu._rig import Rig, alone, turns, without_fused_kernels

FRAMES = 200
"""A shard."""


def measure(rig: Rig) -> dict[str, Any]:
    """Pictures a second."""
    import numpy as np
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    from cv_platform.vision.gpu.jpeg import shard_frames, shard_items
    from cv_platform.vision.gpu.stream import detect_streams

    with ThreadPoolExecutor(4) as pool:
        shards = list(pool.map(shard_of, rig.clip_list(4)))
    files = [frame.jpeg for shard in shards for frame in shard_frames(shard)]
    tensors = [torch.from_numpy(np.frombuffer(file, np.uint8).copy()) for file in files]
    detector = rig.detector()
    with without_fused_kernels():
        plain = rig.detector()
    times = 8

    def nvjpeg(batch: int) -> int:
        for _ in range(times):
            for start in range(0, len(tensors), batch):
                decode_jpeg(tensors[start : start + batch], mode=ImageReadMode.RGB, device=rig.device)
        if rig.device != "cpu":
            torch.cuda.synchronize()
        return times * len(tensors)

    def items(shard: bytes) -> Iterator[Any]:
        return shard_items(shard, batch=rig.batch, device=rig.device)

    def only_read() -> int:
        count = 0
        for shard in shards * times:
            for chunk in items(shard):
                count += len(chunk)
        return count

    def whole(streams: int, using: Any = detector) -> int:
        count = 0
        for found in detect_streams(shards * times, items, using, streams=streams, prefetch=4):
            if found.error is not None:
                raise found.error
            count += found.detections is not None
        return count

    def whole_plain() -> int:
        with without_fused_kernels():
            return whole(3, plain)

    rates = turns(
        {
            "nvJPEG decode only": lambda: nvjpeg(rig.batch),
            "nvJPEG decode only, batches of 128": lambda: nvjpeg(128),
            "shards read and decoded, no network": only_read,
            "end to end, 3 readers": lambda: whole(3),
            "end to end, 6 readers": lambda: whole(6),
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
