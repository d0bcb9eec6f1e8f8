"""One to eight processes on one GPU: detection against NVDEC alone with as many processes, decoders kept in both."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu._processes import started
from benchmarks.gpu._rig import Rig, turns

COUNTS = (1, 2, 4, 8)


def measure(rig: Rig) -> dict[str, Any]:
    """Frames (decoded) a second of all processes together, by how many there are."""
    results = {}
    for count in COUNTS:
        with started(rig, count) as processes:
            results[f"processes: {count}, decoding threads each: {max(1, rig.streams // count)}"] = turns(
                {
                    "NVDEC decode only": processes.decode,
                    "end to end, 5 frames a second": lambda running=processes: running.detect(5.0),  # type: ignore[misc]
                    "end to end, every frame": lambda running=processes: running.detect(None),  # type: ignore[misc]
                },
                rig.rounds,
            )
    return results
