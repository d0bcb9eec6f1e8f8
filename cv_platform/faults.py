"""Named fault points: no-ops outside tests.

A test names a point and what happens there; code under test calls `faults.point("detections.before_commit")`. In
processes of their own the plan comes from the environment variable `CV_PLATFORM_FAULTS`, `point=action` joined by
commas: `raise`, `kill` (SIGKILL to this process), `stop` (SIGSTOP to this process), `sleep:SECONDS`. With `@FILE`
behind the action it happens once: the first process that makes FILE does it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "CV_PLATFORM_FAULTS"


class InjectedFault(RuntimeError):
    """Raised by the action `raise`."""


def _parse(plan: str) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in plan.split(",") if "=" in entry)


_plan: dict[str, str] = _parse(os.environ.get(VARIABLE, ""))


def point(name: str) -> None:
    """Mark a place where a test may make something go wrong."""
    if _plan and (action := _plan.get(name)) is not None:
        _act(name, action)


@contextmanager
def plan(**points: str) -> Iterator[None]:
    """Set actions for this process while the block runs; in names `__` stands for a dot."""
    global _plan
    before = _plan
    _plan = {**before, **{name.replace("__", "."): action for name, action in points.items()}}
    try:
        yield
    finally:
        _plan = before


def _act(name: str, action: str) -> None:
    action, _, once = action.partition("@")
    if once:
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    verb, _, argument = action.partition(":")
    if verb == "raise":
        raise InjectedFault(f"fault injected at {name}")
    if verb == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif verb == "sleep":
        time.sleep(float(argument))
    else:
        raise ValueError(f"{VARIABLE}: action {verb!r} at {name}; allowed: raise, kill, stop, sleep:SECONDS")
