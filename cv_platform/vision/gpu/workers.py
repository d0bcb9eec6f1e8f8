"""A process a GPU, or several: tasks are handed out as they are asked for; a process that dies costs its own alone.

A process sees its own GPU alone, as "cuda:0", and has at most so many tasks in hand: those that it works on (several
clips fill its batches together, see `stream.detect_streams`) and a few that wait. A CUDA error ends its process
(`lost.DeviceLost`); what it had in hand is told as released, for somebody else to do, and the others go on.

Knows no torch: a worker's `serve` imports what it needs, after its GPU was chosen.
"""

from __future__ import annotations

import os
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
Answer = TypeVar("Answer")

_JOIN_S = 10.0


@dataclass(frozen=True)
class Told(Generic[Task, Answer]):
    """What is told of a task: any number of answers, then its end.

    Attributes:
        task: as it was given.
        answer: what was found; None at the end.
        ended: whether this is the last that is told of the task.
        released: at the end: the task was in hand when its process died, and is still to do.
    """

    task: Task
    answer: Answer | None
    ended: bool = False
    released: bool = False


Serve = Callable[[Iterator[tuple[int, Any]]], Iterable[tuple[int, Any, bool]]]
"""A worker: takes numbered tasks as it has room for them; gives a task's number, an answer, whether it was the last.

Picklable, so a function of a module or a `functools.partial` of one.
"""


class WorkersGone(RuntimeError):
    """No process is left, and there are tasks that nobody has begun."""


def spread(
    tasks: Iterable[Task], serve: Serve, *, gpus: Sequence[int], per_gpu: int = 1, in_hand: int = 20
) -> Iterator[Told[Task, Any]]:
    """Have tasks done by one process a GPU, or by several.

    Args:
        tasks: picklable and small (a path, a key); taken as there is room for them.
        serve: what each process runs.
        gpus: the GPUs' numbers as CUDA counts them, or of the MIG slices that are visible, each once.
        per_gpu: processes on each GPU; more than one where Python's lock, not the GPU, is the limit (docs/gpu.md).
        in_hand: tasks that a process holds at most, the bound of its prefetch.

    Raises:
        WorkersGone: every process died; what they had in hand was told as released before.
        ValueError: no GPU, one twice, no process on each, or no task in hand.
    """
    if not gpus or len(set(gpus)) != len(gpus):
        raise ValueError(f"gpus is {list(gpus)}; allowed is one or more numbers, each once")
    for name, number in (("per_gpu", per_gpu), ("in_hand", in_hand)):
        if number < 1:
            raise ValueError(f"{name} is {number}; allowed is 1 or more")
    waiting = enumerate(tasks)
    workers = [_Worker(serve, gpu) for _ in range(per_gpu) for gpu in gpus]
    try:
        more = True
        while workers:
            for worker in workers:
                while more and len(worker.held) < in_hand:
                    numbered = next(waiting, None)
                    if numbered is None:
                        more = False
                    else:
                        worker.give(*numbered)
                if not more:
                    worker.end()
            speaking = connection.wait([worker.pipe for worker in workers])
            for worker in [worker for worker in workers if worker.pipe in speaking]:
                yield from worker.heard()
                if worker.dead:
                    workers.remove(worker)
        if more and next(waiting, None) is not None:
            raise WorkersGone("every GPU's process has died; see their own messages")
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """One process, as its parent sees it."""

    def __init__(self, serve: Serve, gpu: int) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.held: dict[int, Any] = {}
        self.dead = False
        self._ended = False
        self._process: BaseProcess = context.Process(target=_work, args=(serve, gpu, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def give(self, number: int, task: Any) -> None:
        self.held[number] = task  # held even if it never gets there: then it is released
        with suppress(OSError):
            self.pipe.send((number, task))

    def end(self) -> None:
        if not self._ended and not self.dead:
            self._ended = True
            with suppress(OSError):
                self.pipe.send(None)

    def heard(self) -> Iterator[Told[Any, Any]]:
        """One message; at the process's end, what it leaves."""
        try:
            number, answer, last = self.pipe.recv()
        except (EOFError, OSError):
            self.stop()
            for task in self.held.values():
                yield Told(task, None, ended=True, released=True)
            self.held.clear()
            return
        task = self.held.pop(number) if last else self.held[number]
        yield Told(task, answer, ended=last)

    def stop(self) -> None:
        self.dead = True
        self.pipe.close()
        self._process.join(_JOIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _work(serve: Serve, gpu: int, pipe: Connection) -> None:
    """The process itself."""
    os.environ["CUDA_VISIBLE_DEVICES"] = visible(gpu, os.environ.get("CUDA_VISIBLE_DEVICES"))

    def given() -> Iterator[tuple[int, Any]]:
        try:
            while (numbered := pipe.recv()) is not None:
                yield numbered
        except (EOFError, OSError):
            return  # the parent is gone, or has enough

    try:
        for told in serve(given()):
            pipe.send(told)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent has enough
    except Exception:  # noqa: BLE001 - whatever it is, what is in hand is released by the end of this process
        traceback.print_exc()
        pipe.close()
        os._exit(1)  # not by the usual way: after a CUDA error the clean-up of torch's objects can hang
    pipe.close()


def visible(gpu: int, given: str | None) -> str:
    """CUDA_VISIBLE_DEVICES of a process that is to see one GPU alone; MIG slices and UUIDs keep their names."""
    names = [name.strip() for name in given.split(",")] if given else None
    if names is None:
        return str(gpu)
    if gpu >= len(names):
        raise ValueError(f"GPU {gpu} is asked for; CUDA_VISIBLE_DEVICES shows {len(names)}")
    return names[gpu]


def in_turns(serve_one: Callable[[Any], Iterable[Any]]) -> Serve:
    """A worker that does one task after the other."""
    return _InTurns(serve_one)


@dataclass(frozen=True)
class _InTurns:
    serve_one: Callable[[Any], Iterable[Any]]

    def __call__(self, tasks: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any, bool]]:
        for number, task in tasks:
            held: deque[Any] = deque(maxlen=1)
            for answer in self.serve_one(task):
                if held:
                    yield number, held.pop(), False
                held.append(answer)
            yield number, held.pop() if held else None, True
