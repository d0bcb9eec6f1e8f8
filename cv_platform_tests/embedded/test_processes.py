"""Processes are known by pid and start time together, and nothing else is ever signalled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cv_platform.embedded.processes import (
    ProcessRecord,
    ProcessTable,
    record_of,
    spawn,
    start_mark,
    stop,
)


def _start(tmp_path: Path, program: str) -> ProcessRecord:
    """Start a Python program that prints a line when it is ready."""
    log = tmp_path / "program.log"
    command = [sys.executable, "-u", "-c", textwrap.dedent(program)]
    record = record_of("program", spawn(command, log=log, environment=dict(os.environ), cwd=tmp_path).pid)
    deadline = time.monotonic() + 20
    while not log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert log.read_text(), "the program did not start"
    return record


def test_a_record_is_alive_until_its_process_is_stopped(tmp_path: Path) -> None:
    record = _start(tmp_path, "import time; print('ready'); time.sleep(60)")
    assert record.alive
    assert stop(record)
    assert not record.alive
    assert not stop(record), "a second stop finds nothing to stop"


def test_a_pid_that_belongs_to_another_process_is_left_alone(tmp_path: Path) -> None:
    record = _start(tmp_path, "import time; print('ready'); time.sleep(60)")
    stale = replace(record, mark="another boot:1")
    assert not stale.alive
    assert not stop(stale)
    assert record.alive, "the process that has the pid by now was signalled"
    stop(record)


def test_a_process_that_ignores_sigterm_is_killed_and_so_are_its_children(tmp_path: Path) -> None:
    record = _start(
        tmp_path,
        """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import signal, time; "
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"])
        print(child.pid)
        time.sleep(60)
        """,
    )
    child_pid = int((tmp_path / "program.log").read_text())
    child = record_of("child", child_pid)
    assert stop(record, grace_s=0.5)
    assert not record.alive
    assert not child.alive


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    deadline = time.monotonic() + 20
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert start_mark(child.pid) is None
    child.wait()


def test_two_processes_have_different_marks_and_one_keeps_its_own() -> None:
    first = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    time.sleep(0.05)
    second = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        assert start_mark(first.pid) == start_mark(first.pid)
        assert start_mark(first.pid) != start_mark(second.pid)
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def test_output_goes_to_a_log_that_only_its_owner_may_read(tmp_path: Path) -> None:
    record = _start(tmp_path, "print('ready')")
    assert (tmp_path / "program.log").stat().st_mode & 0o777 == 0o600
    stop(record)


def test_a_lock_keeps_others_out_and_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    program = f"""
        from pathlib import Path
        from cv_platform.embedded.processes import locked
        import time
        with locked(Path({str(path)!r})):
            print("held", flush=True)
            time.sleep(60)
    """
    record = _start(tmp_path, program)
    waiter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from cv_platform.embedded.processes import locked\nfrom pathlib import Path\n"
            f"with locked(Path({str(path)!r})): pass",
        ]
    )
    with pytest.raises(subprocess.TimeoutExpired):
        waiter.wait(0.7)
    os.kill(record.pid, signal.SIGKILL)
    assert waiter.wait(20) == 0
    stop(record)


class TestProcessTable:
    def test_remembers_replaces_and_forgets(self, tmp_path: Path) -> None:
        table = ProcessTable(tmp_path / "state" / "processes.json")
        assert table.all() == {}
        one = ProcessRecord("daemon", 1, "m1")
        two = ProcessRecord("webserver", 2, "m2", "http://127.0.0.1:3000")
        table.put(one)
        table.put(two)
        table.put(replace(one, pid=3))
        assert table.all() == {"daemon": replace(one, pid=3), "webserver": two}
        table.remove("daemon")
        assert ProcessTable(table.path).all() == {"webserver": two}

    def test_a_damaged_file_holds_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "processes.json").write_text("{ cut o")
        assert ProcessTable(tmp_path / "processes.json").all() == {}

    def test_running_is_only_what_still_runs(self, tmp_path: Path) -> None:
        table = ProcessTable(tmp_path / "processes.json")
        table.put(record_of("self", os.getpid()))
        table.put(ProcessRecord("gone", os.getpid(), "another boot:1"))
        assert table.running("self") is not None
        assert table.running("gone") is None
        assert table.running("unknown") is None
