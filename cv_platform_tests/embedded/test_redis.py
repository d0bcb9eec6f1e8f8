"""The embedded Redis: starts once, keeps nothing on disk."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cv_platform.embedded.redis import RedisServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    yield server
    server.stop()


def test_starting_twice_is_one_server_and_stopping_twice_is_no_error(server: RedisServer) -> None:
    first = server.start()
    assert server.start() == first
    assert server.stop()
    assert not first.alive
    assert not server.stop()


def test_it_starts_again_after_a_kill(server: RedisServer) -> None:
    record = server.start()
    os.kill(record.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while record.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.process() is None
    assert server.start().pid != record.pid


def test_hot_data_is_never_written_to_disk(server: RedisServer) -> None:
    server.start()
    with redis.Redis.from_url(server.url()) as client:
        client.set("hot:camera", "a row about a person")
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
    server.stop()
    assert not list(server.folder.glob("*.rdb")) + list(server.folder.glob("*.aof"))


def test_a_path_too_long_for_a_socket_moves_the_socket(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / ("long" * 30) / "redis")
    try:
        server.start()
        with redis.Redis.from_url(server.url(3)) as client:
            assert client.ping()
    finally:
        server.stop()


def test_nothing_listens_on_the_network(server: RedisServer) -> None:
    server.start()
    with redis.Redis.from_url(server.url()) as client:
        assert client.config_get("port") == {"port": "0"}
