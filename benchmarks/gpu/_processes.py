"""Several processes on one GPU, each with its share of clips and decoding threads, warm, told what to run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.gpu._rig import Rig, decode_only, end_to_end


@dataclass(frozen=True)
class Processes:
    """Processes that wait to be told; see `started`."""

    pipes: list[Connection]

    def decode(self) -> int:
        """NVDEC alone, open decoders kept; returns the frames of all processes."""
        return self._all("decode", None)

    def detect(self, fps: float | None) -> int:
        """Detection in the frames sampled, every one at None; returns the frames decoded by all processes."""
        return self._all("detect", fps)

    def _all(self, what: str, fps: float | None) -> int:
        for pipe in self.pipes:
            pipe.send((what, fps))
        return sum(pipe.recv() for pipe in self.pipes)


@contextmanager
def started(rig: Rig, count: int) -> Iterator[Processes]:
    """So many processes, each with a detector of its own; they end with the block."""
    share = replace(rig, streams=max(1, rig.streams // count), work=max(1, rig.work // count))
    context = get_context("spawn")
    pipes, processes = [], []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(share, theirs), daemon=True)
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


def _work(rig: Rig, pipe: Connection) -> None:
    detector, clips = rig.detector(), rig.clip_list()
    kept: list[Any] = []
    try:
        while True:
            what, fps = pipe.recv()
            if what == "decode":
                pipe.send(decode_only(clips, rig.streams, kept=kept))
            else:
                pipe.send(end_to_end(rig, detector, clips, fps))
    except EOFError:
        return
