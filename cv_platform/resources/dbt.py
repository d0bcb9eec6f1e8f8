"""dbt as a child process: an address without secrets on a command line, events without rows in a log.

The address goes to dbt-postgres through environment variables (dbt/profiles.yml). dbt's own log file is off, and what
it prints is read as JSON events: PostgreSQL's errors quote the values that they fail on, so every message is filtered
before anyone sees it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg

DbtEvent = dict[str, Any]

# Lines of a PostgreSQL error that hold values or statements.
_VALUE_LINES = re.compile(r"^\s*(DETAIL|CONTEXT|HINT|LINE \d+|QUERY|WHERE|STATEMENT)\b.*", re.IGNORECASE)
_QUOTED = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'")
_NUMBER_OR_KEY = re.compile(r"=\s*\([^)\n]*\)|\b[0-9a-f]{8}-[0-9a-f-]{27}\b", re.IGNORECASE)
_TRANSIENT = re.compile(
    r"could not connect|connection (to server|refused|reset|timed out)|server closed the connection|"
    r"terminating connection|deadlock detected|could not serialize|too many (clients|connections)|"
    r"lock timeout|canceling statement|the database system is (starting up|shutting down|in recovery)|"
    r"tuple concurrently updated",
    re.IGNORECASE,
)
_PARSED = "partial_parse.msgpack"
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT", "PYTHONPATH", "PYTHONHOME")


class DbtError(Exception):
    """A dbt invocation that failed. The message holds no values from the database.

    Attributes:
        transient: another attempt may succeed: a lost connection, a deadlock.
    """

    def __init__(self, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.transient = transient


class DbtResource(dg.ConfigurableResource["DbtResource"]):
    """The dbt project and where it may write while it runs.

    Attributes:
        project_dir: folder with dbt_project.yml and profiles.yml; may be read-only.
        scratch_dir: where compiled SQL goes for as long as dbt runs; empty: the system's temporary folder.
    """

    project_dir: str
    scratch_dir: str = ""

    def build(self, url: str, *, days: Sequence[date], k: int, identifiers: frozenset[str]) -> Iterator[DbtEvent]:
        """Run `dbt build` and yield its events, filtered.

        Args:
            url: `postgresql://…` of the warehouse.
            days: UTC dates to rebuild.
            k: the least count that analysts may see.
            identifiers: names that may stand in quotes in a message: models, columns, tests.

        Raises:
            DbtError: dbt ended with an error (after the last event), or could not be started.
        """
        scope = {"CV_DBT_DAYS": ",".join(day.isoformat() for day in days), "CV_DBT_K": str(k)}
        if self.scratch_dir:
            Path(self.scratch_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix="dbt-", dir=self.scratch_dir or None) as target:
            self._restore_parsed(Path(target))
            command = [
                sys.executable,
                "-c",
                "from dbt.cli.main import cli; cli()",
                "build",
                *("--project-dir", self.project_dir, "--profiles-dir", self.project_dir),
                *("--target-path", target, "--log-path", target),
                *("--log-format", "json", "--log-level", "info", "--log-level-file", "none"),
                "--no-write-json",
                "--no-version-check",
            ]
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**dbt_environment(url), **scope, "HOME": target},
                cwd=self.project_dir,
                text=True,
                errors="replace",
            )
            try:
                yield from _events(process, identifiers)
                self._keep_parsed(Path(target))
            finally:
                _stop(process)

    def _restore_parsed(self, target: Path) -> None:
        """Hand dbt what the last run parsed: it parses again only what changed since, which saves two seconds."""
        if self.scratch_dir:
            with suppress(OSError):
                shutil.copy(Path(self.scratch_dir) / _PARSED, target / _PARSED)

    def _keep_parsed(self, target: Path) -> None:
        if self.scratch_dir:
            with suppress(OSError):
                (target / _PARSED).replace(Path(self.scratch_dir) / _PARSED)


def dbt_environment(url: str) -> dict[str, str]:
    """The variables that dbt/profiles.yml reads, for `postgresql://…`, and what a process needs besides.

    Nothing else of this process's environment is handed on: it holds credentials that dbt has no use for.
    """
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(url)
    given = {
        "CV_DBT_HOST": parts.get("host") or os.environ.get("PGHOST"),
        "CV_DBT_PORT": parts.get("port") or os.environ.get("PGPORT"),
        "CV_DBT_USER": parts.get("user") or os.environ.get("PGUSER"),
        "DBT_ENV_SECRET_CV_PASSWORD": parts.get("password") or os.environ.get("PGPASSWORD"),
        "CV_DBT_DATABASE": parts.get("dbname") or os.environ.get("PGDATABASE"),
        "CV_DBT_SSLMODE": parts.get("sslmode") or os.environ.get("PGSSLMODE"),
        "PGSSLROOTCERT": parts.get("sslrootcert") or os.environ.get("PGSSLROOTCERT"),
        "PGOPTIONS": parts.get("options"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "PYTHONUNBUFFERED": "1",
    }
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, **{name: str(value) for name, value in given.items() if value is not None}}


def scrub(message: str, identifiers: frozenset[str]) -> str:
    """The message without what PostgreSQL quotes from rows: details, keys, and quoted text that is no known name."""
    kept = [line for line in message.splitlines() if not _VALUE_LINES.match(line)]

    def quoted(match: re.Match[str]) -> str:
        text = match.group()
        return text if all(part in identifiers for part in text[1:-1].split(".")) else f"{text[0]}…{text[0]}"

    return _NUMBER_OR_KEY.sub("…", _QUOTED.sub(quoted, "\n".join(kept))).strip()


def _events(process: subprocess.Popen[str], identifiers: frozenset[str]) -> Iterator[DbtEvent]:
    errors: list[str] = []
    transient = False
    garbled = 0
    assert process.stdout is not None
    for line in process.stdout:
        try:
            event: DbtEvent = json.loads(line)
            info = event["info"]
            message = str(info["msg"])
        except (ValueError, KeyError, TypeError):
            garbled += 1  # no event: a warning of Python's, a traceback; its text may hold anything
            continue
        info["msg"] = scrub(message, identifiers)
        if info["level"] == "error":
            transient = transient or _TRANSIENT.search(message) is not None
            errors.append(info["msg"])
        yield event
    code = process.wait()
    if code != 0:
        said = "\n".join(dict.fromkeys(filter(None, errors))) or f"{garbled} lines that are no dbt events"
        raise DbtError(f"dbt build ended with exit code {code}:\n{said}", transient=transient)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()  # dbt cancels its queries
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def find_project() -> Path:
    """The dbt project's folder, beside the package.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    here = Path(__file__).resolve().parents[2] / "dbt"
    for folder in (here, Path.cwd() / "dbt"):
        if (folder / "dbt_project.yml").is_file():
            return folder
    raise FileNotFoundError(
        f"no dbt project in {here} nor in ./dbt; install the package editable (pip install -e .) or start in its root"
    )


def read_manifest(project_dir: Path) -> Mapping[str, Any]:
    """What the code location must know of the dbt project (written by `python -m cv_platform.resources.dbt_manifest`).

    Raises:
        FileNotFoundError: it was never written.
    """
    path = project_dir / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; write it with: python -m cv_platform.resources.dbt_manifest")
    manifest: dict[str, Any] = json.loads(path.read_text())
    return manifest
