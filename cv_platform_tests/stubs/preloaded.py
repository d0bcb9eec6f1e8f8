"""A process that has Dagster and the code location loaded, and forks a child for each pod's command.

A pod of one's own costs six seconds of imports, and a backfill has sixty: forked, it costs half a second. What is run
is the same: `dagster api …`, in a session, with an environment and a log of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


class Preloaded:
    """The process, and a way to ask it for children.

    Args:
        folder: takes its socket and log.
        modules: what it loads before it forks; they read its environment, so the pods' has to be the same.
        renew: `module:function` that a child calls first: what must follow its own environment.
    """

    def __init__(self, folder: Path, *, environment: Mapping[str, str], modules: Sequence[str], renew: str) -> None:
        self._path = folder / "preloaded.sock"
        with (folder / "preloaded.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(self._path), renew, *modules],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"it did not come up: {(folder / 'preloaded.log').read_text()[-2000:]}")

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
        """Fork a child that does `dagster …`."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(self._path))
        arguments = list(command[command.index("api") :])
        connection.sendall(
            json.dumps({"arguments": arguments, "environment": dict(environment), "log": str(log)}).encode() + b"\n"
        )
        return Child(connection)

    def stop(self) -> None:
        """End it; children that live are not its."""
        self._process.kill()
        self._process.wait()


class Child:
    """A forked child, with what a `Popen` has of it."""

    def __init__(self, connection: socket.socket) -> None:
        self._lines = connection.makefile("rb")
        self._connection = connection
        self.pid = int(self._lines.readline())

    def wait(self) -> int:
        """Its exit code; negative the signal that ended it."""
        line = self._lines.readline()
        self._connection.close()
        return int(line) if line else -signal.SIGKILL

    def terminate(self) -> None:
        """SIGTERM to it."""
        os.kill(self.pid, signal.SIGTERM)


def _serve(path: str, renew: str, modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    assert threading.active_count() == 1, "a process with threads must not fork"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(64)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    children: dict[int, socket.socket] = {}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for _ in selector.select(timeout=0.05):
            connection, _address = listener.accept()
            order = json.loads(connection.makefile("rb").readline())
            pid = os.fork()
            if pid == 0:
                listener.close()
                connection.close()
                for other in children.values():
                    other.close()
                selector.close()
                _become(order, renew)
            children[pid] = connection
            connection.sendall(f"{pid}\n".encode())
        for pid in list(children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                with suppress(OSError), children.pop(pid) as connection:
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(order: dict[str, Any], renew: str) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(order["environment"])
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    module, _, function = renew.partition(":")
    getattr(importlib.import_module(module), function)()
    sys.argv = ["dagster", *order["arguments"]]
    from dagster._cli import main

    main()
    sys.exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], sys.argv[3:])
