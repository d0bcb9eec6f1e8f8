"""`decoded_frames` on the GPU: clips to JPEG shards by so many steps at once, against NVDEC alone and the sandbox.

Each step has one clip in hand, as in the graph, and its own process on the GPU (`video/gpu_sandbox.py`), open before
the clock starts. NVDEC alone is as many decoders, kept open; the sandbox is what the processor's path does with the
same clips.
"""

from __future__ import annotations

import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu._processes import Runs, started
from benchmarks.gpu._rig import Rig, decode_only, turns

COUNTS = (1, 4, 8, 16)
CLIPS = 4
"""Of each step in a round; the sandbox, which takes long, has one."""


def measure(rig: Rig) -> dict[str, Any]:
    """Frames decoded a second of all steps together, by how many there are."""
    results: dict[str, Any] = {"one clip, both ways": _compared(rig)}
    for count in COUNTS:
        with started(rig, count, decode_or_extract) as processes:
            results[f"steps: {count}"] = turns(
                {
                    "NVDEC decode only": partial(processes.run, "decode"),
                    "shards by the GPU": partial(processes.run, "gpu"),
                    "shards by the sandbox": partial(processes.run, "cpu"),
                },
                rig.rounds,
            )
    return results


def decode_or_extract(rig: Rig) -> Runs:
    """NVDEC alone; a shard of each clip, by the GPU or by the sandbox."""
    from cv_platform.vision.video.gpu_sandbox import GpuExtractor
    from cv_platform.vision.video.sandbox import extract_frames

    _log_of_gpu_sandbox().addHandler(_NoFallback())
    clips, extractor = rig.clip_list(CLIPS), GpuExtractor()
    kept: list[Any] = []
    return {
        "decode": lambda: decode_only(clips, 1, kept=kept),
        "gpu": lambda: _extracted(extractor.extract_frames, clips),
        "cpu": lambda: _extracted(extract_frames, clips[:1]),
    }


def _extracted(extract: Any, clips: list[Path]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return sum(extract(clip, Path(folder) / "frames.tar").decoded for clip in clips)


def _compared(rig: Rig) -> dict[str, Any]:
    """A clip's shard by the GPU and by the sandbox: whether frames and times are the same, how far pictures are."""
    import numpy as np

    from cv_platform.vision.video.gpu_sandbox import GpuExtractor
    from cv_platform.vision.video.sandbox import extract_frames
    from cv_platform.vision.video.shards import read_shard

    _log_of_gpu_sandbox().addHandler(_NoFallback())
    (clip,) = rig.clip_list(1)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "gpu.tar", Path(folder) / "cpu.tar"
        GpuExtractor().extract_frames(clip, ours)
        extract_frames(clip, theirs)
        pairs = list(zip(read_shard(ours.read_bytes()), read_shard(theirs.read_bytes()), strict=True))
        sizes = ours.stat().st_size, theirs.stat().st_size
    return {
        "frames": len(pairs),
        "the same frames, times and sizes": all(
            (a.index, a.pts_s, a.width, a.height) == (b.index, b.pts_s, b.width, b.height) for a, b in pairs
        ),
        "mean difference, levels": round(
            float(np.mean([np.abs(a.image().astype(int) - b.image()).mean() for a, b in pairs])), 2
        ),
        "shard bytes, GPU and sandbox": sizes,
    }


def _log_of_gpu_sandbox() -> logging.Logger:
    return logging.getLogger("cv_platform.vision.video.gpu_sandbox")


class _NoFallback(logging.Handler):
    """Ends the measurement where a clip goes to the processor after all."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.getMessage())
