"""One to eight processes on one GPU: detection against NVDEC alone with as many processes, decoders kept in both."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.gpu._processes import decode_or_detect, started
from benchmarks.gpu._rig import Rig, turns

COUNTS = (1, 2, 4, 8)


def measure(rig: Rig) -> dict[str, Any]:
    """Frames (decoded) a second of all processes together, by how many there are."""
    results = {}
    for count in COUNTS:
        with started(rig, count, decode_or_detect) as processes:
            results[f"processes: {count}, decoding threads each: {max(1, rig.streams // count)}"] = turns(
                {
                    "NVDEC decode only": partial(processes.run, "decode"),
                    "end to end, 5 frames a second": partial(processes.run, "detect", 5.0),
                    "end to end, every frame": partial(processes.run, "detect", None),
                },
                rig.rounds,
            )
    return results
