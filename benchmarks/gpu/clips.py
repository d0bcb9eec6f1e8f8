"""1080p clips → sampled frames → detections, against NVDEC alone; latency of one frame."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.gpu._rig import Rig, decode_only, end_to_end, turns


def measure(rig: Rig) -> dict[str, Any]:
    """Frames a second, every decoder's opening counted in; then with decoders that a clip before has left open."""
    import numpy as np

    detector = rig.detector()
    clips = rig.clip_list()
    kept: list[Any] = []
    rates = turns(
        {
            "NVDEC decode only": lambda: decode_only(clips, rig.streams),
            "NVDEC decode only, decoders kept": lambda: decode_only(clips, rig.streams, kept=kept),
            "end to end, 5 frames a second": lambda: end_to_end(rig, detector, clips, 5.0),
            "the same, no decoder kept": lambda: end_to_end(rig, detector, clips, 5.0, keep=False),
            "end to end, every frame": lambda: end_to_end(rig, detector, clips, None),
        },
        rig.rounds,
    )
    kept.clear()
    frame = np.random.default_rng(0).integers(0, 255, (540, 960, 3), dtype=np.uint8)
    detector.detect([frame])
    latencies = []
    for _ in range(50):
        started = time.perf_counter()
        detector.detect([frame])
        latencies.append((time.perf_counter() - started) * 1e3)
    return {**rates, "latency of one 960x540 frame from host memory, ms": round(statistics.median(latencies), 3)}
