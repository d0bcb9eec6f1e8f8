"""The embedded stack as a whole: which servers it has to run, and Dagster's daemon and webserver on top of them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from cv_platform.embedded.dagster_tables import has_tables, make_tables
from cv_platform.embedded.environment import REPOSITORY, absolute, child_environment, nimble
from cv_platform.embedded.postgres import PostgresServer
from cv_platform.embedded.processes import ProcessRecord, ProcessTable, locked, record_of, spawn, stop
from cv_platform.embedded.redis import RedisServer
from cv_platform.settings import Settings

HOST = "127.0.0.1"
_PLATFORM_DATABASE = "cv_platform"
_DAGSTER_DATABASE = "dagster"


class StackError(RuntimeError):
    """A part of the embedded stack did not come up; the message says which, why, and where its log is."""


class Stack:
    """What runs under one state folder. Every method may be called again, and from several commands at once.

    Args:
        settings: addresses that are set in it are used as they stand, and nothing embedded is started for them.
    """

    def __init__(self, settings: Settings) -> None:
        self._asked = nimble(absolute(settings))
        self.folder = self._asked.state_dir
        self.logs = self.folder / "logs"
        self.table = ProcessTable(self.folder / "processes.json")
        self.postgres = PostgresServer(self.folder / "postgres")
        self.redis = RedisServer(self.folder / "redis")

    @property
    def settings(self) -> Settings:
        """The settings with every address filled in, whether its server runs or not."""
        asked = self._asked
        return asked.model_copy(
            update={
                "postgres_url": asked.postgres_url or self.postgres.url(_PLATFORM_DATABASE),
                "dagster_postgres_url": asked.dagster_postgres_url
                or self.postgres.url(_DAGSTER_DATABASE, driver="psycopg2"),
                "redis_url": asked.redis_url or self.redis.url(),
            }
        )

    @property
    def embeds_platform_database(self) -> bool:
        """Whether ledger and warehouse are left to the embedded PostgreSQL."""
        return self._asked.postgres_url is None

    @property
    def embeds_dagster_database(self) -> bool:
        """Whether Dagster's storage is left to the embedded PostgreSQL."""
        return self._asked.dagster_postgres_url is None

    @property
    def embeds_redis(self) -> bool:
        """Whether Redis is left to the embedded server."""
        return self._asked.redis_url is None

    def start_servers(self) -> Settings:
        """Start what is embedded, make the databases and bring the schema up to date; returns full settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "stack.lock"):
            if self.embeds_platform_database or self.embeds_dagster_database:
                self.table.put(self.postgres.start())
            if self.embeds_platform_database:
                self.postgres.ensure_database(_PLATFORM_DATABASE)
            if self.embeds_redis:
                self.table.put(self.redis.start())
            self._prepare_dagster_database()
        settings = self.settings
        for private in (settings.scratch, self.folder / "store"):
            private.mkdir(parents=True, exist_ok=True)
            private.chmod(0o700)  # faces are visible in what lies here
        from cv_platform.storage.schema import migrate

        migrate(str(settings.postgres_url))
        return settings

    def start_daemon(self) -> ProcessRecord:
        """Start Dagster's daemon (sensors, queue, launcher) unless it runs. The servers must run."""
        return self._start_dagster("daemon", ["-m", "dagster._daemon", "run"])

    def start_webserver(self) -> ProcessRecord:
        """Start Dagster's UI unless it runs, on the port asked for or the next free one; its address answers."""
        running = self.table.running("webserver")
        port = _free_port(self._asked.ui_port) if running is None else 0
        address = f"http://{HOST}:{port}"
        arguments = ["-m", "dagster_webserver", "-h", HOST, "-p", str(port)]
        record = running or self._start_dagster("webserver", arguments, address)
        self._await_answer(record)
        return record

    def stop(self, *names: str) -> list[ProcessRecord]:
        """Stop what was started here (or only `names`), by pid: Dagster first, the databases last.

        Returns:
            What was running and no longer is.
        """
        stopped = []
        with locked(self.folder / "stack.lock"):
            found = self.table.all()
            # A state file may be lost; the servers' own pid files are not.
            for server, record in (("postgres", self.postgres.process()), ("redis", self.redis.process())):
                if record is not None:
                    found[server] = record
            order = ["webserver", "daemon", *sorted(set(found) - {"webserver", "daemon", "redis", "postgres"})]
            for name in [*order, "redis", "postgres"]:
                if name not in found or (names and name not in names):
                    continue
                record = found[name]
                if record.alive:
                    self._stop_one(record)
                    stopped.append(record)
                self.table.remove(name)
        return stopped

    def running(self) -> dict[str, ProcessRecord]:
        """What runs of the stack, by name."""
        found = {name: record for name, record in self.table.all().items() if record.alive}
        for record in (self.postgres.process(), self.redis.process()):
            if record is not None:
                found[record.name] = record
        return found

    def _prepare_dagster_database(self) -> None:
        """See that Dagster's tables are there before several processes of its look for them."""
        if self.embeds_dagster_database:
            self.postgres.ensure_database(_DAGSTER_DATABASE, prepare=make_tables)
        url = str(self.settings.dagster_postgres_url)
        if not has_tables(url):
            make_tables(url)

    def _stop_one(self, record: ProcessRecord) -> None:
        if record.name == "postgres":
            self.postgres.stop()
        else:
            # The webserver answers SIGINT sooner than SIGTERM; what does not answer is killed.
            number = signal.SIGINT if record.name == "webserver" else signal.SIGTERM
            stop(record, grace_s=8.0, signal_number=number)

    def _start_dagster(self, name: str, arguments: list[str], address: str = "") -> ProcessRecord:
        with locked(self.folder / "stack.lock"):
            running = self.table.running(name)
            if running is not None:
                return running
            log = self.logs / f"{name}.log"
            command = [sys.executable, *arguments, "-w", str(REPOSITORY / "workspace.yaml")]
            environment = child_environment(self.settings)
            child = spawn(command, log=log, environment=environment, cwd=REPOSITORY)
            try:
                status = child.wait(0.3)
            except subprocess.TimeoutExpired:
                record = record_of(name, child.pid, address)
            else:
                raise StackError(f"Dagster's {name} ended at once (exit {status}); {_tail(log)}")
            self.table.put(record)
            return record

    def _await_answer(self, record: ProcessRecord, *, timeout_s: float = 120.0) -> None:
        """Wait until the webserver answers and says that the code location is loaded."""
        log = self.logs / f"{record.name}.log"
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not record.alive:
                self.table.remove(record.name)
                raise StackError(f"Dagster's {record.name} ended while it started; {_tail(log)}")
            problem = location_problem(record.address)
            if problem is None:
                return
            time.sleep(0.25)
        raise StackError(f"Dagster's {record.name} did not answer within {timeout_s:.0f} s: {problem}; {_tail(log)}")


_LOCATIONS_QUERY = """
{ workspaceOrError { __typename ... on PythonError { message } ... on Workspace { locationEntries {
  name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""


def location_problem(address: str) -> str | None:
    """What is wrong with the webserver's code locations, in one line; None where all are loaded.

    Raises:
        StackError: a location failed to load, which waiting does not mend.
    """
    request = urllib.request.Request(
        f"{address}/graphql",
        data=json.dumps({"query": _LOCATIONS_QUERY}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            answer = json.load(response)["data"]["workspaceOrError"]
    except (OSError, urllib.error.URLError, ValueError) as error:
        return f"no answer yet ({error})"
    entries = answer.get("locationEntries")
    if entries is None:
        return str(answer.get("message", answer))
    for entry in entries:
        loaded = entry["locationOrLoadError"]
        if loaded is None or entry["loadStatus"] == "LOADING":
            return f"code location {entry['name']} is still loading"
        if loaded["__typename"] == "PythonError":
            raise StackError(f"the code location {entry['name']} does not load: {loaded['message'].strip()[-1500:]}")
    return None if entries else "no code location in workspace.yaml"


def _free_port(wanted: int) -> int:
    for port in range(wanted, min(wanted + 50, 65536)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise StackError(f"no free port on {HOST} from {wanted} to {wanted + 49}: set CV_PLATFORM_UI_PORT")


def _tail(log: Path, characters: int = 1500) -> str:
    try:
        return f"the end of {log}:\n{log.read_text(errors='replace')[-characters:]}"
    except OSError:
        return f"no log at {log}"
