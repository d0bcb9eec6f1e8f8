"""The servers of one test run: one PostgreSQL and one Redis in one folder, whichever worker asks first starts them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil

from cv_platform.embedded.dagster_tables import make_tables
from cv_platform.embedded.postgres import UNSAFE_FOR_TESTS, PostgresServer
from cv_platform.embedded.processes import locked, start_mark
from cv_platform.embedded.redis import RedisServer

_PREFIX = "cvp-test-"
_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 6 * 2**30


def scratch_in_memory() -> str | None:
    """A folder in memory for what tests write, a fifth faster than a disk; None where TMPDIR is set or room is short.

    A test's databases and clips come and go by the thousand; none of them has to outlive the machine.
    """
    if os.environ.get("TMPDIR") or not os.access(_MEMORY, os.W_OK):
        return None
    room = min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available)
    return str(_MEMORY) if room >= _ENOUGH_BYTES else None


class TestServers:
    """The servers under `folder`; every worker of a run holds one of these on the same folder."""

    __test__ = False  # not a test case, whatever its name

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._postgres = PostgresServer(folder / "postgres", settings=UNSAFE_FOR_TESTS)
        self._redis = RedisServer(folder / "redis")
        self._started: set[str] = set()

    @classmethod
    def create(cls) -> TestServers:
        """A folder for this run, after clearing away those of runs that were killed."""
        root = Path(tempfile.gettempdir())
        for folder in root.glob(f"{_PREFIX}*"):
            try:
                owner = json.loads((folder / "owner.json").read_text())
            except (OSError, json.JSONDecodeError):
                continue  # just being made, or another user's
            if start_mark(owner["pid"]) != owner["mark"]:
                cls(folder).destroy()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        scratch = folder / "owner.new"
        scratch.write_text(json.dumps({"pid": os.getpid(), "mark": start_mark(os.getpid())}))
        scratch.rename(folder / "owner.json")
        return cls(folder)

    def destroy(self) -> None:
        """Stop what runs, by pid, and remove the folder."""
        self._postgres.stop()
        self._redis.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def postgres(self) -> PostgresServer:
        """The running PostgreSQL."""
        if "postgres" not in self._started:
            with locked(self.folder / "postgres.lock"):
                self._postgres.start()
            self._started.add("postgres")
        return self._postgres

    def redis(self) -> RedisServer:
        """The running Redis."""
        if "redis" not in self._started:
            with locked(self.folder / "redis.lock"):
                self._redis.start()
            self._started.add("redis")
        return self._redis

    def platform_template(self) -> str:
        """Name of a database with the platform's schema, to be cloned (40 ms instead of a migration)."""
        return self._template("template_platform", _migrate_platform)

    def dagster_template(self) -> str:
        """Name of a database with Dagster's tables, to be cloned."""
        return self._template("template_dagster", make_tables)

    def _template(self, name: str, migrate: Callable[[str], None]) -> str:
        if name not in self._started:
            server = self.postgres()
            done = self.folder / f"{name}.done"
            with locked(self.folder / f"{name}.lock"):
                if not done.exists():
                    migrate(server.ensure_database(name))
                    done.touch()
            self._started.add(name)
        return name


def _migrate_platform(url: str) -> None:
    from cv_platform.storage.schema import migrate

    migrate(url)
