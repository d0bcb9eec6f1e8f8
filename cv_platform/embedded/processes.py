"""Processes that outlive the command that started them: remembered by pid and start time, stopped by pid.

A pid alone is no identity, since the kernel gives it out again. So each record holds the process's start mark too, and
nothing is ever signalled whose mark differs.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class ProcessRecord:
    """One process that was started here.

    Attributes:
        name: what it is to the stack, e.g. `postgres`.
        pid: its process id.
        mark: its start mark (see `start_mark`).
        address: where it answers; empty where it has no address.
    """

    name: str
    pid: int
    mark: str
    address: str = ""

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return start_mark(self.pid) == self.mark


def start_mark(pid: int) -> str | None:
    """What tells a process from a later one of the same pid; None where no such process runs.

    On Linux the boot's id and the start in clock ticks since boot, which a change of the clock does not touch.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        fallback = f"created:{process.create_time():.2f}"
    except psutil.Error:
        return None
    try:
        # The command's name may hold spaces and parentheses, so fields are counted after the last one.
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, IndexError):
        return fallback
    return f"{boot}:{ticks}"


def record_of(name: str, pid: int, address: str = "") -> ProcessRecord:
    """The record of a running process.

    Raises:
        RuntimeError: no process of that pid runs.
    """
    mark = start_mark(pid)
    if mark is None:
        raise RuntimeError(f"{name} (pid {pid}) ended as soon as it was started; its log says why")
    return ProcessRecord(name=name, pid=pid, mark=mark, address=address)


def spawn(command: Sequence[str], *, log: Path, environment: Mapping[str, str], cwd: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, its output appended to `log` (mode 0600)."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            env=dict(environment),
            cwd=cwd,
            start_new_session=True,
        )
    finally:
        os.close(handle)


def descendants(record: ProcessRecord) -> list[ProcessRecord]:
    """The processes that a live process started, and theirs; empty where it no longer runs."""
    if not record.alive:
        return []
    try:
        children = psutil.Process(record.pid).children(recursive=True)
    except psutil.Error:
        return []
    marks = ((child.pid, start_mark(child.pid)) for child in children)
    return [ProcessRecord(f"{record.name}'s child", pid, mark) for pid, mark in marks if mark is not None]


def stop(record: ProcessRecord, *, grace_s: float = 10.0, signal_number: int = signal.SIGTERM) -> bool:
    """End a process and its descendants: a signal first, SIGKILL to what is left after `grace_s`.

    Returns:
        Whether it was running. A pid that belongs to another process by now is left alone.
    """
    if not record.alive:
        return False
    family = [record, *descendants(record)]
    _signal(record, signal_number)
    _wait_gone([record], grace_s)
    # What the parent left behind, or started while it was asked to end.
    orphans = [member for member in family[1:] if member.alive]
    for member in orphans:
        _signal(member, signal.SIGTERM)
    _wait_gone([record, *orphans], min(grace_s, 2.0) if orphans else 0.0)
    for member in family:
        if member.alive:
            _signal(member, signal.SIGKILL)
    _wait_gone(family, 5.0)
    return True


def _signal(record: ProcessRecord, number: int) -> None:
    if record.alive:
        try:
            os.kill(record.pid, number)
        except ProcessLookupError:
            return


def _wait_gone(records: Sequence[ProcessRecord], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while any(record.alive for record in records) and time.monotonic() < deadline:
        _reap(records)
        time.sleep(0.05)
    _reap(records)


def _reap(records: Sequence[ProcessRecord]) -> None:
    """Collect the exit status of those that are our own children, so that no zombie stays."""
    for record in records:
        try:
            os.waitpid(record.pid, os.WNOHANG)
        except ChildProcessError:
            continue


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; others wait. The kernel drops it when this process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class ProcessTable:
    """The records of what was started, in one JSON file. Callers that change it hold the stack's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> dict[str, ProcessRecord]:
        """Every record, by name, whether it still runs or not."""
        try:
            rows = json.loads(self.path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return {row["name"]: ProcessRecord(**row) for row in rows}

    def running(self, name: str) -> ProcessRecord | None:
        """The record of that name if its process still runs."""
        record = self.all().get(name)
        return record if record is not None and record.alive else None

    def put(self, record: ProcessRecord) -> None:
        """Remember a process, in place of the earlier one of its name."""
        self._write({**self.all(), record.name: record})

    def remove(self, name: str) -> None:
        """Forget a process."""
        self._write({key: record for key, record in self.all().items() if key != name})

    def _write(self, records: Mapping[str, ProcessRecord]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".new")
        scratch.write_text(json.dumps([asdict(record) for record in records.values()], indent=1))
        scratch.replace(self.path)
