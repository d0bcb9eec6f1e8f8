"""A pod of the stub cluster: the container's command as a process in a session of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from cv_platform_tests.stubs.preloaded import Child, Preloaded

MARK = "CV_STUB_POD"
"""Every process of a pod carries the pod's uid under this name: also one that left its session."""


def now() -> str:
    """This moment as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Pod:
    """A pod: what the API shows of it, and its process.

    Args:
        manifest: its metadata and spec.
        environment: the container's whole environment.
        log: file that takes what it writes.
        ended: called once when its process has ended.
        preloaded: forks Dagster's commands; None: every command is a program that is started.
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        *,
        environment: dict[str, str],
        log: Path,
        ended: Callable[[Pod], None],
        preloaded: Preloaded | None = None,
    ) -> None:
        self.object = manifest
        self.uid = str(uuid.uuid4())
        self.name: str = manifest["metadata"]["name"]
        self.log = log
        self.deleted = threading.Event()
        self.finished = threading.Event()
        self.exit_code: int | None = None
        self._reason: str | None = None
        self._pod_reason: tuple[str, str] | None = None
        self._environment = {**environment, "HOSTNAME": self.name, MARK: self.uid}
        self._ended = ended
        self._preloaded = preloaded
        self._process: subprocess.Popen[bytes] | Child | None = None
        self._lock = threading.Lock()
        manifest["metadata"] |= {"uid": self.uid, "creationTimestamp": now()}
        self._show("Pending", {"waiting": {"reason": "ContainerCreating"}})

    def start(self) -> None:
        """Run the container's command."""
        container = self.object["spec"]["containers"][0]
        command = [*container.get("command", []), *container.get("args", [])]
        with self._lock:
            if self.deleted.is_set():
                return self._finish(143)
            self._started = now()
            if self._preloaded is not None and "api" in command:
                self._process = self._preloaded.start(command, self._environment, self.log)
            else:
                with self.log.open("ab") as log:
                    self._process = subprocess.Popen(
                        command,
                        env=self._environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
            self._show("Running", {"running": {"startedAt": self._started}}, ready=True)
        threading.Thread(target=self._wait, daemon=True, name=f"pod {self.name}").start()
        return None

    def kill(self, *, reason: str | None = None, pod_reason: tuple[str, str] | None = None) -> None:
        """SIGKILL to all of it, as the kernel does; `reason` is what the container's status says then."""
        self._reason, self._pod_reason = reason, pod_reason
        self._signal(signal.SIGKILL)

    def delete(self, grace_s: float) -> None:
        """SIGTERM to its first process, SIGKILL to what is left after `grace_s` seconds; returns at once."""
        if self.deleted.is_set():
            return
        self.deleted.set()
        self.object["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": int(grace_s)}

        def end() -> None:
            with self._lock:
                process = self._process
            if process is None:
                return self._finish(143)
            with suppress(ProcessLookupError):
                process.terminate()
            if not self.finished.wait(grace_s):
                self._signal(signal.SIGKILL)
            return None

        threading.Thread(target=end, daemon=True).start()

    def processes(self) -> list[psutil.Process]:
        """What lives of it: its session, and what carries its mark though it left the session."""
        session = None if self._process is None else self._process.pid
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                ours = os.getsid(process.pid) == session
                if not ours and process.pid != os.getpid():
                    ours = f"{MARK}={self.uid}".encode() in Path(f"/proc/{process.pid}/environ").read_bytes()
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _wait(self) -> None:
        assert self._process is not None
        code = self._process.wait()
        for left in self.processes():  # a container ends with its first process
            with suppress(psutil.Error):
                left.kill()
        self._finish(128 - code if code < 0 else code)

    def _finish(self, code: int) -> None:
        self.exit_code = code
        reason = self._reason or ("Completed" if code == 0 else "Error")
        ended = {"exitCode": code, "reason": reason, "finishedAt": now(), "startedAt": getattr(self, "_started", now())}
        self._show("Succeeded" if code == 0 else "Failed", {"terminated": ended})
        if self._pod_reason is not None:
            self.object["status"] |= dict(zip(("reason", "message"), self._pod_reason, strict=True))
        self.finished.set()
        self._ended(self)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(psutil.Error, ProcessLookupError):
                process.send_signal(number)

    def _show(self, phase: str, state: dict[str, Any], *, ready: bool = False) -> None:
        containers = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": ready,
                "started": ready,
                "restartCount": 0,
                "state": state,
            }
            for container in self.object["spec"]["containers"]
        ]
        self.object["status"] = {"phase": phase, "containerStatuses": containers, "startTime": now(), "conditions": []}
