"""`detections` on one shard after another, as the graph's stage calls it: the GPU against the processor's path.

The processor has all of this machine's cores. Both read the shard from its file, decode its pictures and find objects.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu._rig import Rig
from benchmarks.gpu.shards import shard_of

TIMES = 10
"""How often the GPU does what the processor does once in a round."""


def measure(rig: Rig) -> dict[str, Any]:
    """Pictures a second, and how many times more the GPU does."""
    from cv_platform.vision.detectors.onnx import OnnxDetector
    from cv_platform.vision.detectors.streaming import detect_in_shard

    content, values = rig.model()
    cores = len(os.sched_getaffinity(0))
    processor = OnnxDetector(content, threads=cores, **values)
    processor.warmup()
    contenders = {"GPU": (rig.detector(), TIMES), "processor": (processor, 1)}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.tar"
        path.write_bytes(shard_of(rig.clip_list(1)[0]))

        def facts(detector: Any) -> list[Any]:
            with path.open("rb") as file:
                return [picture for picture, _ in detect_in_shard(detector, file)]

        same = facts(contenders["GPU"][0]) == facts(processor)
        for _ in range(rig.rounds):
            for name, (detector, times) in contenders.items():
                started = time.perf_counter()
                pictures = sum(len(facts(detector)) for _ in range(times))
                rates[name].append(pictures / (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "cores": cores,
        "the same pictures, times and sizes": same,
        "pictures_per_s": {name: round(rate, 1) for name, rate in medians.items()},
        "rounds": {name: [round(rate, 1) for rate in values] for name, values in rates.items()},
        "faster by": round(medians["GPU"] / medians["processor"], 1),
    }
