"""Several processes on one GPU, each with its share of clips and decoding threads, warm, told what to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.gpu._rig import Rig, decode_only, end_to_end

Runs = Mapping[str, Callable[..., int]]
"""What a process can be told to run; each returns how many frames it handled."""


@dataclass(frozen=True)
class Processes:
    """Processes that wait to be told; see `started`."""

    pipes: list[Connection]

    def run(self, what: str, *arguments: Any) -> int:
        """Have all of them run it at once; returns the frames of all together."""
        for pipe in self.pipes:
            pipe.send((what, arguments))
        return sum(pipe.recv() for pipe in self.pipes)


@contextmanager
def started(rig: Rig, count: int, make: Callable[[Rig], Runs]) -> Iterator[Processes]:
    """So many processes; each calls `make`, a function of a module, with its share; they end with the block."""
    share = replace(rig, streams=max(1, rig.streams // count), work=max(1, rig.work // count))
    context = get_context("spawn")
    pipes, processes = [], []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(share, make, theirs), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        yield Processes(pipes)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(10)
            process.kill()


def _work(rig: Rig, make: Callable[[Rig], Runs], pipe: Connection) -> None:
    runs = make(rig)
    try:
        while True:
            what, arguments = pipe.recv()
            pipe.send(runs[what](*arguments))
    except EOFError:
        return


def decode_or_detect(rig: Rig) -> Runs:
    """NVDEC alone with open decoders kept, and detection in the frames sampled (every one at None)."""
    detector, clips = rig.detector(), rig.clip_list()
    kept: list[Any] = []
    return {
        "decode": lambda: decode_only(clips, rig.streams, kept=kept),
        "detect": lambda fps: end_to_end(rig, detector, clips, fps),
    }
