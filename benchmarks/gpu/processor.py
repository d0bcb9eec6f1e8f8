"""The platform's processor path on the same machine's cores: one worker with all of them, and a worker a core.

The GPU, too, is worked by one process, and by four.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu._processes import Processes, decode_or_detect, started
from benchmarks.gpu._rig import Rig

RATES = {"5 frames a second": 5.0, "every frame": None}
LIMIT_S = 5.0


def measure(rig: Rig) -> dict[str, Any]:
    """Frames decoded a second, five of each second sampled or all, and how many times more the GPU does."""
    cores = len(os.sched_getaffinity(0))
    results: dict[str, Any] = {"cores": cores}
    with started(rig, 1, decode_or_detect) as one, started(rig, 4, decode_or_detect) as four:
        for name, fps in RATES.items():
            gpu = {f"GPU, processes: {len(of.pipes)}": _median_rate(of, fps) for of in (one, four)}
            result: dict[str, Any] = {name: round(rate, 1) for name, rate in gpu.items()}
            for workers, threads in ((1, cores), (cores, 1)):
                cpu = _rate(rig, workers, threads, fps)
                faster = {f"{name}, faster by": round(rate / cpu, 2) for name, rate in gpu.items()}
                result[f"processor, workers: {workers}"] = {"frames_per_s": round(cpu, 1), **faster}
            results[name] = result
    return results


def _median_rate(processes: Processes, fps: float | None) -> float:
    processes.run("detect", fps)
    rates = []
    for _ in range(3):
        begun = time.perf_counter()
        rates.append(processes.run("detect", fps) / (time.perf_counter() - begun))
    return statistics.median(rates)


def _rate(rig: Rig, workers: int, threads: int, fps: float | None) -> float:
    """Workers that wait until all are warm, then work for a while."""
    command = [sys.executable, "-m", "benchmarks.gpu.processor", str(rig.clips), str(rig.model_dir), str(threads)]
    command.append(str(fps or 0))
    one = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **one})
        for _ in range(workers)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    answers = [child.communicate()[0].split() for child in children]
    return sum(int(frames) / float(seconds) for frames, seconds in answers)


def work(folder: Path, model_dir: Path, threads: int, fps: float | None) -> tuple[int, float]:
    """The processor path over clips for a while: frames decoded, and seconds taken. Says and waits once it is warm."""
    from cv_platform.vision.detectors.onnx import OnnxDetector
    from cv_platform.vision.detectors.streaming import detect_each
    from cv_platform.vision.video.decode import ClipDecoder
    from cv_platform.vision.video.limits import DEFAULT_LIMITS
    from cv_platform.vision.video.probe import open_clip

    rig = Rig(folder, model_dir, 1, 1, 64, 8, 0, None, None, None, "cpu")
    content, values = rig.model()
    detector = OnnxDetector(content, threads=threads, **values)
    detector.warmup()
    print("ready", flush=True)
    sys.stdin.readline()
    begun, frames = time.perf_counter(), 0
    for clip in itertools.cycle(rig.clip_list()):
        with open_clip(clip, threads=threads) as handle:
            decoder = ClipDecoder(handle, fps=fps, long_side=960, limits=DEFAULT_LIMITS)
            for _ in detect_each(detector, decoder, lambda frame: frame.image):
                if time.perf_counter() - begun > LIMIT_S:
                    return frames + decoder.tally.decoded, time.perf_counter() - begun
            frames += decoder.tally.decoded
    raise AssertionError("a cycle has no end")


if __name__ == "__main__":
    print(*work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]) or None), flush=True)
