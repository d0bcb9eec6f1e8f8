"""Several GPUs of one host: what `workers.spread` does on all of them against one, and what a killed worker costs.

A rate is counted while every process is at work: from the moment at which each has answered to that at which the clips
left no longer fill every decoding thread.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu._rig import Clips, Rig
from cv_platform.vision.gpu.workers import Told, spread

Task = tuple[int, Path]
"""A clip, and a number that keeps it apart from the same file's next turn."""

PER_GPU = 2
RATES = {"5 frames a second": 5.0, "every frame": None}
CLIP_FPS = 25
"""Of the clips that `make_clips` makes."""


class Answer(NamedTuple):
    """From a worker: where it works, and how many frames it has found objects in; the end of a clip with None."""

    gpu: str
    pid: int
    error: str | None
    is_frame: bool


def measure(rig: Rig) -> dict[str, Any]:
    """Frames decoded a second on one GPU and on all, by sampling rate; then a worker killed on all of them."""
    import torch

    gpus = torch.cuda.device_count() if rig.device != "cpu" else 0
    if gpus < 2:
        return {"left out": f"there are {gpus} GPUs here; it takes two or more"}
    results: dict[str, Any] = {"gpus": gpus, "processes on each": PER_GPU}
    for name, fps in RATES.items():
        per_frame = 1 if fps is None else CLIP_FPS / fps
        rates = {used: per_frame * _rate(rig, fps, used) for used in (1, gpus)}
        results[name] = {
            **{f"GPUs: {used}, frames_per_s": round(rate, 1) for used, rate in rates.items()},
            "grows to": round(rates[gpus] / rates[1], 2),
        }
    results["a worker killed"] = _killed(rig, gpus)
    return results


def serve(tasks: Iterator[tuple[int, Task]], *, rig: Rig, fps: float | None) -> Iterator[tuple[int, Answer, bool]]:
    """A worker: `stream.serve_streams`, told with the GPU that it sees."""
    from cv_platform.vision.gpu.stream import serve_streams

    clips = Clips(fps, rig.device)
    told = serve_streams(
        tasks, make_detector=rig.detector, open_source=lambda task: clips(task[1]), streams=_streams_each(rig)
    )
    gpu, pid = os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.getpid()
    for number, (_, _, detections, error), last in told:
        yield number, Answer(gpu, pid, error, detections is not None), last


def _streams_each(rig: Rig) -> int:
    return max(1, rig.streams // PER_GPU)


def _spread(rig: Rig, fps: float | None, used: int, tasks: list[Task]) -> Iterator[Told[Task, Answer]]:
    worker = partial(serve, rig=rig, fps=fps)
    return spread(tasks, worker, gpus=range(used), per_gpu=PER_GPU, in_hand=_streams_each(rig) + 4)


def _rate(rig: Rig, fps: float | None, used: int) -> float:
    """Answers a second.

    Raises:
        RuntimeError: a clip ended with an error, a worker died, or the clips were too few to measure anything.
    """
    tasks = list(enumerate(rig.clip_list(rig.work * used * 2)))
    workers: set[int] = set()
    busy_since = busy_until = 0.0
    answers = ended = 0
    for told in _spread(rig, fps, used, tasks):
        if told.answer is None or told.answer.error is not None:
            raise RuntimeError(f"a clip ended with {'its worker' if told.answer is None else told.answer.error}")
        now = time.perf_counter()
        ended += told.ended
        if len(workers) < used * PER_GPU:
            workers.add(told.answer.pid)
            busy_since = now
            continue
        answers += told.answer.is_frame
        busy_until = now
        if len(tasks) - ended < used * PER_GPU * _streams_each(rig):
            break
    if busy_until <= busy_since:
        raise RuntimeError(f"{len(tasks)} clips ended before all {used * PER_GPU} workers had begun: give --work more")
    return answers / (busy_until - busy_since)


def _killed(rig: Rig, gpus: int) -> dict[str, Any]:
    """One of the workers is killed once all are at work; what became of every clip, and who did the rest."""
    tasks = list(enumerate(rig.clip_list(rig.work * gpus)))
    workers: dict[int, str] = {}
    done: Counter[str] = Counter()
    ends: Counter[Task] = Counter()
    released = 0
    killed: str | None = None
    for told in _spread(rig, 5.0, gpus, tasks):
        if told.ended:
            ends[told.task] += 1
        if told.answer is None:
            released += told.released
            continue
        workers[told.answer.pid] = told.answer.gpu
        done[f"GPU {told.answer.gpu}"] += told.ended
        if killed is None and len(workers) == gpus * PER_GPU:
            os.kill(told.answer.pid, signal.SIGKILL)
            killed = f"one of GPU {told.answer.gpu}"
    return {
        "clips": len(tasks),
        "killed": killed or "none: the clips ended before all workers had begun",
        "released": released,
        "done": dict(sorted(done.items())),
        "each ended once": len(ends) == len(tasks) and set(ends.values()) == {1},
    }
