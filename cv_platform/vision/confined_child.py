"""Work on what nobody vouches for, in a process that can be killed: the child's side. The parent's is `confined`.

Imports nothing that takes long or holds state: libraries are loaded under the limits, by what `serve` calls.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, Protocol, TextIO

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


class Say(Protocol):
    """Tells the parent an event."""

    def __call__(self, event: str, **values: Any) -> None: ...


def serve_each(work: Callable[[dict[str, Any], Say], None]) -> int:
    """Serve requests, a line each, until standard input ends; returns the exit status.

    As `serve`, but limited neither in memory (a GPU's driver maps far more address space than it uses) nor in time:
    what it works on is not to be what nobody vouches for.

    Args:
        work: as there; it may end the process.
    """
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    events = _silenced()
    _limit(resource.RLIMIT_CORE, 0, 0)

    def say(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")
        events.flush()

    for line in requests:
        request = json.loads(line)
        _die_with(request["parent_pid"])
        work(request, say)
    return 0


def serve(work: Callable[[dict[str, Any], Say], None], limits: Callable[[dict[str, Any]], tuple[int, float]]) -> int:
    """Serve the one request that stands on standard input; returns the exit status.

    Standard input, output and error lead nowhere while it works, and no core dump is left (one would hold footage).

    Args:
        work: does what the request asks for, and tells events.
        limits: the request's bytes of address space and seconds of processor time.
    """
    request = json.loads(sys.stdin.readline())
    _die_with(request["parent_pid"])
    events = _silenced()
    memory_bytes, cpu_s = limits(request)
    _confine(memory_bytes, cpu_s)

    def say(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")
        events.flush()

    work(request, say)
    return 0


def _silenced() -> TextIO:
    """What is left of standard output; that, standard input and error lead nowhere from now on."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    os.umask(0o077)
    return events


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; end now if it has ended already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def _confine(memory_bytes: int, cpu_s: float) -> None:
    cpu_whole_s = int(cpu_s) + 5
    for what, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        (resource.RLIMIT_CPU, cpu_whole_s, cpu_whole_s + 5),  # SIGXCPU at the first, which tells; SIGKILL at the second
        (resource.RLIMIT_NOFILE, 64, 64),
    ):
        _limit(what, soft, hard)


def _limit(what: int, soft: int, hard: int) -> None:
    _, highest = resource.getrlimit(what)
    if highest != resource.RLIM_INFINITY:
        soft, hard = min(soft, highest), min(hard, highest)
    resource.setrlimit(what, (soft, hard))
