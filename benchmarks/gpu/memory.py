"""A worker over clips for a long time: memory of its process and of the GPU after each round."""

from __future__ import annotations

import threading
import time
from typing import Any

from benchmarks.gpu._rig import Rig, end_to_end

FPS_OF_CLIPS = 25


def measure(rig: Rig) -> dict[str, Any]:
    """The samples, and how much memory the second half of the run added."""
    import psutil
    import torch

    detector = rig.detector()
    clips = rig.clip_list()
    samples: list[dict[str, float]] = []
    frames, started = 0, time.monotonic()
    while time.monotonic() - started < rig.long_run_s:
        frames += end_to_end(rig, detector, clips, 5.0)
        free, total = torch.cuda.mem_get_info() if rig.device != "cpu" else (0, 0)
        samples.append(
            {
                "s": round(time.monotonic() - started, 1),
                "frames": frames,
                "process MiB": round(psutil.Process().memory_info().rss / 2**20),
                "GPU MiB": round((total - free) / 2**20),
                "torch MiB": round(torch.cuda.memory_reserved() / 2**20) if rig.device != "cpu" else 0,
                "threads": threading.active_count(),
            }
        )
    middle = samples[len(samples) // 2]
    return {
        "minutes of clips": round(frames / FPS_OF_CLIPS / 60, 1),
        "added in the second half, MiB": {
            name: samples[-1][name] - middle[name] for name in ("process MiB", "GPU MiB", "torch MiB")
        },
        "samples": samples,
    }
