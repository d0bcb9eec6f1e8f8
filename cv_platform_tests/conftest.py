"""Fixtures that every test may use: real servers, one set for the whole run, fresh databases and buckets a test."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cv_platform.embedded.postgres import PostgresServer
from cv_platform.settings import Settings, get_settings
from cv_platform_tests.servers import TestServers, scratch_in_memory

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
_SERVERS_VARIABLE = "CV_TEST_SERVERS"


def pytest_configure(config: pytest.Config) -> None:
    """Give the run a folder for its servers; pytest-xdist's workers inherit it and share them."""
    for name in [name for name in os.environ if name.startswith(("CV_PLATFORM_", "DAGSTER_"))]:
        del os.environ[name]  # a developer's shell must not decide what a test sees
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # as in a shell's background job. Dagster makes SIGTERM do what SIGINT does, so that every process of a test
        # would outlive SIGTERM until its grace period is over
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        if in_memory := scratch_in_memory():
            os.environ["TMPDIR"] = in_memory
            tempfile.tempdir = None  # asked for before; from now on, and in every worker, what TMPDIR says
        os.environ[_SERVERS_VARIABLE] = str(TestServers.create().folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the run's servers, by pid."""
    folder = os.environ.get(_SERVERS_VARIABLE)
    if folder is not None and not hasattr(config, "workerinput"):
        TestServers(Path(folder)).destroy()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test first: handed out last, such a file keeps one worker busy while others have nothing."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips, models and sequences beside the checkout; skips where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no folder {SHARED_DATA.name} beside the checkout: real clips, models and sequences are missing")
    return SHARED_DATA


@pytest.fixture(scope="session")
def servers() -> TestServers:
    """The run's servers, each started where it is first asked for."""
    return TestServers(Path(os.environ[_SERVERS_VARIABLE]))


@pytest.fixture(scope="session")
def postgres_server(servers: TestServers) -> PostgresServer:
    """A running PostgreSQL, the run's own, shared by its workers."""
    return servers.postgres()


@pytest.fixture
def database_url(servers: TestServers) -> Iterator[str]:
    """`postgresql://…` of a fresh database with the platform's schema; dropped after the test."""
    yield from _fresh_database(servers, servers.platform_template(), "test")


@pytest.fixture
def empty_database_url(servers: TestServers) -> Iterator[str]:
    """`postgresql://…` of a fresh database with nothing in it."""
    yield from _fresh_database(servers, "template1", "empty")


@pytest.fixture
def dagster_database_url(servers: TestServers) -> Iterator[str]:
    """`postgresql+psycopg2://…` of a fresh database with Dagster's own tables."""
    for url in _fresh_database(servers, servers.dagster_template(), "dagster"):
        yield url.replace("postgresql://", "postgresql+psycopg2://", 1)


def _fresh_database(servers: TestServers, template: str, prefix: str) -> Iterator[str]:
    server = servers.postgres()
    name = f"{prefix}_{uuid4().hex[:12]}"
    yield server.ensure_database(name, template=template)
    server.drop_database(name)


@pytest.fixture
def redis_url(servers: TestServers) -> str:
    """`unix://…` of an empty Redis database, this worker's own."""
    import redis

    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    url = servers.redis().url(int(worker) % 16)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@dataclass(frozen=True)
class S3Server:
    """An S3 and SQS protocol server on 127.0.0.1, with fresh buckets.

    Attributes:
        endpoint_url: where it answers.
        bucket: cold store.
        restricted_bucket: raw clips, frames, quarantine.
        queue_url: receives the notifications of new objects in `restricted_bucket`.
    """

    endpoint_url: str
    bucket: str
    restricted_bucket: str
    queue_url: str

    def client(self, service: str = "s3") -> Any:
        """A boto3 client of this server."""
        import boto3

        return boto3.client(service, endpoint_url=self.endpoint_url, region_name="us-east-1")


@pytest.fixture(scope="session")
def _moto_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_server(_moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A real S3 and SQS protocol over HTTP; buckets and queue are new. AWS credentials are set for the test."""
    import requests

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    requests.post(f"{_moto_endpoint}/moto-api/reset", timeout=10).raise_for_status()
    tag = uuid4().hex[:8]
    server = S3Server(_moto_endpoint, f"cold-{tag}", f"restricted-{tag}", "")
    s3, sqs = server.client("s3"), server.client("sqs")
    s3.create_bucket(Bucket=server.bucket)
    s3.create_bucket(Bucket=server.restricted_bucket)
    queue_url = sqs.create_queue(QueueName=f"uploads-{tag}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    s3.put_bucket_notification_configuration(
        Bucket=server.restricted_bucket,
        NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]},
    )
    sqs.purge_queue(QueueUrl=queue_url)  # S3 announces a new configuration by a test message
    return S3Server(server.endpoint_url, server.bucket, server.restricted_bucket, queue_url)


@pytest.fixture
def settings(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Settings]:
    """Settings that point at this test's own servers and at a folder as object store."""
    get_settings.cache_clear()
    yield Settings(state_dir=tmp_path / "state", postgres_url=database_url, redis_url=redis_url)
    get_settings.cache_clear()
