"""The doctor's checks: every dependency and connection, what was found, and how to mend it."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlparse

from cv_platform.embedded.environment import REPOSITORY
from cv_platform.embedded.stack import HOST, Stack, StackError, location_problem

Status = Literal["ok", "warning", "failure"]


_LIVE_BEHIND_S = 300.0
"""Live detections that wait longer are behind: the drain runs every minute."""


@dataclass(frozen=True)
class Finding:
    """One check's outcome.

    Attributes:
        check: what was looked at.
        status: `warning` where something is missed but the platform runs, `failure` where it does not.
        found: what was found, in one line.
        remedy: how to mend it; empty where nothing is wrong.
    """

    check: str
    status: Status
    found: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        """Plain values."""
        return asdict(self)


def check_up(stack: Stack) -> Iterator[Finding]:
    """All checks, in an order in which the first failure explains the later ones."""
    for check in _CHECKS:
        try:
            yield from check(stack)
        except Exception as error:  # noqa: BLE001  # a check that fails in an unforeseen way is a finding too
            name = check.__name__.removeprefix("_").replace("_", " ")
            yield Finding(name, "failure", f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}")


def _python(stack: Stack) -> Iterator[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding("python", "ok", f"{version} at {sys.executable}")


def _packages(stack: Stack) -> Iterator[Finding]:
    """Every package that ours requires is there, in a version that it allows."""
    from packaging.requirements import Requirement

    wrong = []
    count = 0
    for line in metadata.requires("cv-platform") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if wrong:
        yield Finding("packages", "failure", "; ".join(wrong), "pip install -c constraints.txt -e .   (or: make .venv)")
    else:
        yield Finding("packages", "ok", f"all {count} required packages")
    for extra, package, use in (
        ("demo", "scikit-image", "the demo's footage"),
        ("kubernetes", "dagster-k8s", "runs on Kubernetes"),
        ("torch", "torch", "detectors on a GPU"),
        ("tensorrt", "tensorrt", "TensorRT engines"),
    ):
        try:
            yield Finding(f"extra {extra}", "ok", f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            yield Finding(
                f"extra {extra}",
                "ok",
                f"not installed; only {use} needs it (pip install -c constraints.txt -e .[{extra}])",
            )


def _clone(stack: Stack) -> Iterator[Finding]:
    missing = [name for name in ("dagster.yaml", "workspace.yaml", "dbt") if not (REPOSITORY / name).exists()]
    if missing:
        yield Finding(
            "clone", "failure", f"no {', '.join(missing)} in {REPOSITORY}", "install from a clone: pip install -e ."
        )
    else:
        yield Finding("clone", "ok", str(REPOSITORY))


def _state_folder(stack: Stack) -> Iterator[Finding]:
    folder = stack.folder
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(
            "state folder", "failure", f"cannot write in {existing}", "set CV_PLATFORM_STATE_DIR to a folder of yours"
        )
        return
    free = shutil.disk_usage(existing).free / 1e9
    if free < 1:
        yield Finding(
            "disk", "failure", f"{free:.1f} GB free under {existing}", "free space, or move CV_PLATFORM_STATE_DIR"
        )
    elif free < 5:
        yield Finding(
            "disk", "warning", f"{free:.1f} GB free under {existing}", "free space, or move CV_PLATFORM_STATE_DIR"
        )
    else:
        yield Finding("disk", "ok", f"{free:.0f} GB free under {folder}")
    for private in (stack.settings.scratch, folder / "store"):
        if private.exists() and stat.S_IMODE(private.stat().st_mode) & 0o077:
            yield Finding("private folder", "failure", f"others may look into {private}", f"chmod 700 {private}")


def _postgres(stack: Stack) -> Iterator[Finding]:
    if stack.embeds_platform_database:
        process = stack.postgres.process()
        if process is None:
            yield Finding("postgres server", "warning", "embedded, not running", "cv-platform up   (or: make up)")
            return
        yield Finding("postgres server", "ok", f"embedded, pid {process.pid}")
    import psycopg

    from cv_platform.storage.schema import pending_migrations

    url = str(stack.settings.postgres_url)
    remedy = "start the server, or mend CV_PLATFORM_POSTGRES_URL"
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            version = connection.info.server_version
            writable = connection.execute("SELECT NOT pg_is_in_recovery()").fetchone()
    except psycopg.OperationalError as error:
        yield Finding("postgres", "failure", _first_line(error), remedy)
        return
    if version < 140000:
        yield Finding("postgres", "failure", f"version {version // 10000}", "PostgreSQL 14 or newer is needed")
    elif writable != (True,):
        yield Finding("postgres", "failure", "the server is a read-only standby", remedy)
    else:
        yield Finding("postgres", "ok", f"version {version // 10000}.{version % 10000}")
    behind = pending_migrations(url)
    if behind:
        yield Finding("schema", "warning", f"migrations to run: {', '.join(behind)}", "cv-platform up runs them")
    else:
        yield Finding("schema", "ok", "newest")


def _dagster_storage(stack: Stack) -> Iterator[Finding]:
    if stack.embeds_dagster_database and stack.postgres.process() is None:
        return
    import psycopg

    url = str(stack.settings.dagster_postgres_url)
    if not url.startswith("postgresql+psycopg2://"):
        yield Finding(
            "dagster storage",
            "failure",
            f"CV_PLATFORM_DAGSTER_POSTGRES_URL starts with {url.split(':', 1)[0]!r}",
            "write postgresql+psycopg2://…: to SQLAlchemy plain postgresql:// is a driver that Dagster breaks with",
        )
        return
    try:
        with psycopg.connect(url.replace("+psycopg2", "", 1), connect_timeout=5) as connection:
            tables = connection.execute("SELECT to_regclass('runs'), to_regclass('event_logs')").fetchone()
    except psycopg.OperationalError as error:
        yield Finding("dagster storage", "failure", _first_line(error), "mend CV_PLATFORM_DAGSTER_POSTGRES_URL")
        return
    if tables is None or None in tables:
        yield Finding("dagster storage", "ok", "reachable, empty: Dagster makes its tables when it starts")
    else:
        yield Finding("dagster storage", "ok", "reachable")


def _redis(stack: Stack) -> Iterator[Finding]:
    import redis

    if stack.embeds_redis and stack.redis.process() is None:
        yield Finding("redis", "warning", "embedded, not running", "cv-platform up   (or: make up)")
        return
    try:
        with redis.Redis.from_url(str(stack.settings.redis_url), socket_timeout=5, socket_connect_timeout=5) as client:
            version = client.info("server")["redis_version"]
    except (redis.RedisError, ValueError) as error:
        yield Finding("redis", "failure", _first_line(error), "start the server, or mend CV_PLATFORM_REDIS_URL")
        return
    yield Finding("redis", "ok", f"version {version}{', embedded' if stack.embeds_redis else ''}")


def _live_stream(stack: Stack) -> Iterator[Finding]:
    """Whether live detections reach the warm tier; nothing where Redis itself is told as broken."""
    import redis

    from cv_platform.storage.hot_stream import LiveStream

    if stack.settings.redis_url is None or (stack.embeds_redis and stack.redis.process() is None):
        return
    try:
        state = LiveStream(str(stack.settings.redis_url)).state()
    except (redis.RedisError, ValueError):
        return
    found = f"{state.waiting} messages wait, the oldest for {state.oldest_s:.0f} s; {state.dead} could not be read"
    if state.oldest_s > _LIVE_BEHIND_S:
        yield Finding("live detections", "warning", found, "the schedule hot_to_warm_minutely must run: cv-platform up")
    elif state.dead:
        yield Finding("live detections", "warning", found, "mend the producer; Redis keeps them in cv:live:dead")
    else:
        yield Finding("live detections", "ok", found)


def _object_stores(stack: Stack) -> Iterator[Finding]:
    from cv_platform.pipeline.platform import open_platform
    from cv_platform.storage.database import Database

    settings = stack.settings
    urls = {"cold store": settings.store_url, "restricted store": settings.raw_store_url}
    for name, url in urls.items():
        variable = "CV_PLATFORM_OBJECT_STORE_URL" if name == "cold store" else "CV_PLATFORM_RESTRICTED_STORE_URL"
        key = f"doctor/{os.getpid()}"
        if url.startswith("file://") and not Path(unquote(urlparse(url).path)).exists():
            yield Finding(name, "ok", f"{url}: not made yet")
            continue
        try:
            platform = open_platform(settings, Database(str(settings.postgres_url)))  # opens no connection
            store = platform.cold if name == "cold store" else platform.restricted
            store.put_bytes(key, b"ok")
            same = store.get_bytes(key) == b"ok"
            store.delete([key])
        except Exception as error:  # noqa: BLE001  # each kind of store fails in its own way
            remedy = f"check {variable}, its bucket and the credentials (AWS_*)"
            yield Finding(name, "failure", f"{url}: {_first_line(error)}", remedy)
            continue
        if same:
            yield Finding(name, "ok", f"{url}: written, read, deleted")
        else:
            yield Finding(name, "failure", f"{url}: read back something else", f"check {variable}")
    if settings.raw_store_url == settings.store_url and not settings.store_url.startswith("file://"):
        yield Finding(
            "restricted store",
            "warning",
            "raw clips lie in the same bucket as published ones",
            "set CV_PLATFORM_RESTRICTED_STORE_URL to a bucket with credentials of its own",
        )


def _upload_queue(stack: Stack) -> Iterator[Finding]:
    settings = stack.settings
    if settings.sqs_queue_url is None:
        yield Finding("upload notifications", "ok", "no queue configured: the raw prefix is listed")
        return
    import boto3

    client = boto3.client("sqs", region_name=settings.s3_region, endpoint_url=settings.s3_endpoint_url)
    try:
        answer = client.get_queue_attributes(
            QueueUrl=settings.sqs_queue_url, AttributeNames=["ApproximateNumberOfMessages"]
        )
    except Exception as error:  # noqa: BLE001  # botocore's errors are made at run time
        remedy = "check CV_PLATFORM_SQS_QUEUE_URL and the right sqs:ReceiveMessage"
        yield Finding("upload notifications", "failure", _first_line(error), remedy)
        return
    yield Finding("upload notifications", "ok", f"{answer['Attributes']['ApproximateNumberOfMessages']} waiting")


def _codecs(stack: Stack) -> Iterator[Finding]:
    import av

    missing = [name for name in ("h264", "hevc", "vp9", "mpeg4", "mjpeg") if name not in av.codecs_available]
    if "libx264" not in av.codecs_available:
        missing.append("libx264 (needed to write blurred clips)")
    if missing:
        yield Finding("video codecs", "failure", f"missing: {', '.join(missing)}", "pip install --force-reinstall av")
    else:
        yield Finding("video codecs", "ok", f"PyAV {av.__version__}")


def _models(stack: Stack) -> Iterator[Finding]:
    """Which models are here; nothing is fetched."""
    from cv_platform.vision.models import AUTO, ModelRefused, ModelRegistry, ModelUnavailable

    settings = stack.settings
    registry = ModelRegistry(cache_dir=settings.model_cache, model_dir=settings.model_dir, fetch=False)
    wanted = {
        "detectors": (settings.detectors, "detectors"),
        "face detector": (settings.face_detector, None),
    }
    for use, (spec, choice) in wanted.items():
        try:
            names = registry.resolve(spec, choice=choice) if choice else registry.resolve(spec)
        except ValueError as error:
            yield Finding(use, "failure", _first_line(error), f"mend CV_PLATFORM_{use.upper().replace(' ', '_')}")
        except ModelRefused as error:
            yield Finding(use, "failure", _first_line(error), "remove the file, or put the right one there")
        except ModelUnavailable as error:
            remedy = "the first run fetches it; or now: cv-platform models pull"
            yield Finding(use, "warning", f"not here yet ({_first_line(error)})", remedy)
        else:
            best = registry.choices[choice][0] if choice and spec == AUTO else names
            note = "" if names == best else f"; the first choice, {'+'.join(best)}, is not here"
            yield Finding(use, "ok", f"{'+'.join(names)}{note}")


def _ports(stack: Stack) -> Iterator[Finding]:
    record = stack.running().get("webserver")
    if record is not None:
        try:
            problem = location_problem(record.address)
        except StackError as error:
            yield Finding("dagster ui", "failure", _first_line(error), f"see {stack.logs / 'webserver.log'}")
            return
        if problem is not None:
            yield Finding("dagster ui", "warning", problem, "wait a moment and ask again")
        else:
            yield Finding("dagster ui", "ok", f"{record.address}, pid {record.pid}, the asset graph is loaded")
        return
    port = stack.settings.ui_port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            yield Finding(
                "dagster ui",
                "warning",
                f"not running; port {port} is taken",
                "`up` takes the next free one, or set CV_PLATFORM_UI_PORT",
            )
            return
    yield Finding("dagster ui", "ok", f"not running; port {port} is free")


def _daemon(stack: Stack) -> Iterator[Finding]:
    record = stack.running().get("daemon")
    if record is None:
        yield Finding(
            "dagster daemon", "warning", "not running: nothing is processed", "cv-platform up   (or: make up)"
        )
    else:
        yield Finding("dagster daemon", "ok", f"pid {record.pid}")


def _temporary_folder(stack: Stack) -> Iterator[Finding]:
    folder = Path(tempfile.gettempdir())
    if not os.access(folder, os.W_OK):
        yield Finding("temporary folder", "failure", f"cannot write in {folder}", "set TMPDIR")
    elif len(os.fsencode(folder)) > 40:
        yield Finding("temporary folder", "warning", f"{folder} is a long path; sockets may not fit", "set TMPDIR=/tmp")


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


_CHECKS: tuple[Callable[[Stack], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _clone,
    _state_folder,
    _temporary_folder,
    _codecs,
    _models,
    _postgres,
    _dagster_storage,
    _redis,
    _live_stream,
    _object_stores,
    _upload_queue,
    _daemon,
    _ports,
)
