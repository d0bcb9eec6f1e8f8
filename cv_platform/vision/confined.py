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
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    process = _started(module)
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(_line(request))
            process.stdin.close()
        yield ConfinedChild(process, deadline, should_stop)
    finally:
        _end(process)


class ConfinedServer:
    """A child that serves request after request (`confined_child.serve_each`), where starting one takes long.

    Started with the first request, and again with the next one after it has ended. It is gone with this object, with
    this process, and with the thread that started it. Used by one thread at a time.

    Args:
        module: what serves.
        environment: names of variables that it is given, besides the few that every child is.
    """

    def __init__(self, module: str, *, environment: Sequence[str] = ()) -> None:
        self._module, self._environment = module, tuple(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: weakref.finalize[..., ConfinedServer] | None = None

    def ask(
        self, request: Mapping[str, Any], *, timeout_s: float, should_stop: Callable[[], bool] | None = None
    ) -> ConfinedChild:
        """Hand over a request; arguments as of `confined_child`. Whoever does not hear it to its end calls `stop`."""
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._process = _started(self._module, self._environment)
            self._ending = weakref.finalize(self, _end, self._process)
        process = self._process
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(_line(request))
            process.stdin.flush()
        return ConfinedChild(process, time.monotonic() + timeout_s + GRACE_S, should_stop)

    def stop(self) -> None:
        """End the child, if there is one."""
        if self._ending is not None:
            self._ending()
        self._process = self._ending = None


def _started(module: str, environment: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # -P: the working folder is not searched for modules; -s: nor is the user's own folder
        [sys.executable, "-P", "-s", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_bare_environment(environment),
        start_new_session=True,
    )


def _line(request: Mapping[str, Any]) -> bytes:
    return json.dumps({**request, "parent_pid": os.getpid()}).encode() + b"\n"


def _bare_environment(more: Sequence[str] = ()) -> dict[str, str]:
    """No credentials, no settings: what Python needs to start, and one thread a library."""
    names = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", *more)
    kept = {name: os.environ[name] for name in names if name in os.environ}
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
