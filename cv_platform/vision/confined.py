"""Work on what nobody vouches for, in a process that can be killed: the parent's side. The child's is `confined_child`.

A child is started bare of credentials, silent, in a session of its own. It is given one request, a line of JSON, tells
events, a line of JSON each, and is gone when the caller is done with it, however that comes about.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal

GRACE_S: Final = 5.0
"""What a child may take over its own time limit before it is killed: it starts, and ends by itself if it can."""
_POLL_S: Final = 0.25
_MAX_EVENT_BYTES: Final = 64 * 1024
_PACKAGE_ROOT: Final = Path(__file__).resolve().parents[2]
_CRASHES: Final = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS}

Ending = Literal["out_of_time", "crashed", "killed", "exited"]


class ChildOutOfTime(Exception):
    """The child did not finish in time."""


class ChildStopped(Exception):
    """The caller's `should_stop` said so."""


class ChildTakenOver(Exception):
    """The child said what none of ours says: what it worked on has taken it over."""


class ConfinedChild:
    """A child at work; see `confined_child`."""

    def __init__(
        self, process: subprocess.Popen[bytes], deadline: float, should_stop: Callable[[], bool] | None
    ) -> None:
        self._process, self._deadline, self._should_stop = process, deadline, should_stop

    def allow(self, seconds: float) -> None:
        """Give the child this much more time: it told of progress."""
        self._deadline += seconds

    def events(self) -> Iterator[dict[str, Any]]:
        """What the child tells, until it closes its end.

        Raises:
            ChildOutOfTime: its time is over.
            ChildStopped: `should_stop`, asked four times a second, said so.
            ChildTakenOver: that is no event.
        """
        pipe = self._process.stdout
        assert pipe is not None
        buffer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                if self._should_stop is not None and self._should_stop():
                    raise ChildStopped
                left_s = self._deadline - time.monotonic()
                if left_s <= 0:
                    raise ChildOutOfTime
                if not selector.select(min(left_s, _POLL_S)):
                    continue
                chunk = os.read(pipe.fileno(), _MAX_EVENT_BYTES)
                if not chunk:
                    return
                *lines, buffer = (buffer + chunk).split(b"\n")
                if len(buffer) > _MAX_EVENT_BYTES:
                    raise ChildTakenOver
                for line in lines:
                    try:
                        event = json.loads(line)
                    except ValueError:
                        raise ChildTakenOver from None
                    yield event

    def ending(self) -> tuple[Ending, int]:
        """How the child ended that closed its end without a last word, and its exit code."""
        try:
            code = self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return "crashed", 0
        if code == -signal.SIGXCPU:
            return "out_of_time", code
        if -code in _CRASHES:
            return "crashed", code
        # SIGKILL is the kernel's answer to a hard limit on processor time too, but that comes after SIGXCPU
        return "killed" if code == -signal.SIGKILL else "exited", code


@contextmanager
def confined_child(
    module: str,
    request: Mapping[str, Any],
    *,
    timeout_s: float,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[ConfinedChild]:
    """Start `python -m module` with a request, and leave no process behind.

    Args:
        module: serves one request with `confined_child.serve`.
        request: JSON; this process's id is added as `parent_pid`.
        timeout_s: wall clock; the child gets GRACE_S more to end by itself.
        should_stop: asked four times a second.
    """
    deadline = time.monotonic() + timeout_s + GRACE_S
    # -P: the working folder is not searched for modules; -s: nor is the user's own folder
    process = subprocess.Popen(
        [sys.executable, "-P", "-s", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_bare_environment(),
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps({**request, "parent_pid": os.getpid()}).encode() + b"\n")
            process.stdin.close()
        yield ConfinedChild(process, deadline, should_stop)
    finally:
        _end(process)


def _bare_environment() -> dict[str, str]:
    """No credentials, no settings: what Python needs to start, and one thread a library."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH") if name in os.environ}
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    return {**kept, **one_thread, "PYTHONPATH": str(_PACKAGE_ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
