"""The platform's processor path on the same machine's cores: one worker with all of them, and a worker a core."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu._rig import Rig, end_to_end

FPS = 5.0
LIMIT_S = 5.0


def measure(rig: Rig) -> dict[str, Any]:
    """Frames decoded a second, five of each second sampled, and how many times more the GPU does."""
    cores = len(os.sched_getaffinity(0))
    detector = rig.detector()
    clips = rig.clip_list()
    end_to_end(rig, detector, clips, FPS)
    ours = []
    for _ in range(3):
        started = time.perf_counter()
        ours.append(end_to_end(rig, detector, clips, FPS) / (time.perf_counter() - started))
    rate = statistics.median(ours)
    result: dict[str, Any] = {"cores": cores, "GPU, frames_per_s": round(rate, 1)}
    for name, workers, threads in (("one worker, all cores", 1, cores), ("a worker a core", cores, 1)):
        cpu = _rate(rig, workers, threads)
        result[name] = {"frames_per_s": round(cpu, 1), "GPU faster by": round(rate / cpu, 2)}
    return result


def _rate(rig: Rig, workers: int, threads: int) -> float:
    """Workers that wait until all are warm, then work for a while."""
    command = [sys.executable, "-m", "benchmarks.gpu.processor", str(rig.clips), str(rig.model_dir), str(threads)]
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


def work(folder: Path, model_dir: Path, threads: int) -> tuple[int, float]:
    """The processor path over clips for a while: frames decoded, and seconds taken. Says and waits once it is warm."""
    from cv_platform.vision.detectors.onnx import OnnxDetector
    from cv_platform.vision.video.ahead import ahead
    from cv_platform.vision.video.decode import ClipDecoder
    from cv_platform.vision.video.limits import DEFAULT_LIMITS
    from cv_platform.vision.video.probe import open_clip

    rig = Rig(folder, model_dir, 1, 1, 64, 8, 0, None, None, None, "cpu")
    content, values = rig.model()
    detector = OnnxDetector(content, threads=threads, **values)
    detector.warmup()
    print("ready", flush=True)
    sys.stdin.readline()
    started, frames = time.perf_counter(), 0
    for clip in itertools.cycle(rig.clip_list()):
        with open_clip(clip, threads=threads) as handle:
            decoder = ClipDecoder(handle, fps=FPS, long_side=960, limits=DEFAULT_LIMITS)
            for sampled in _eights(ahead(decoder)):
                detector.detect([frame.image for frame in sampled])
                if time.perf_counter() - started > LIMIT_S:
                    return frames + decoder.tally.decoded, time.perf_counter() - started
            frames += decoder.tally.decoded
    raise AssertionError("a cycle has no end")


def _eights(frames: Any) -> Iterator[list[Any]]:
    iterator = iter(frames)
    while batch := list(itertools.islice(iterator, 8)):
        yield batch


if __name__ == "__main__":
    print(*work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])), flush=True)
