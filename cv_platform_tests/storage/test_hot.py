"""The hot tier: newest counts, gone by themselves, never in anyone's way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
import redis

from cv_platform.storage.hot import HotStore

NOW = datetime(2026, 3, 1, 8, 0, 0, 1, tzinfo=UTC)


def test_the_newest_counts_stay_whatever_comes_last(redis_url: str) -> None:
    hot = HotStore(redis_url)
    assert hot.read_current("cam") is None
    assert hot.write_current("cam", NOW, {"0": 3})
    assert hot.write_current("cam", NOW - timedelta(microseconds=1), {"0": 9})  # an older clip, done later
    assert hot.read_current("cam") == {"seen_at": "2026-03-01T08:00:00.000001+00:00", "counts": {"0": 3}}
    later = (NOW + timedelta(seconds=1)).astimezone(timezone(timedelta(hours=-5)))
    assert hot.write_current("cam", later, {})
    assert hot.read_current("cam") == {"seen_at": "2026-03-01T08:00:01.000001+00:00", "counts": {}}
    assert hot.read_current("other") is None


def test_counts_go_with_their_time(redis_url: str) -> None:
    HotStore(redis_url, ttl_s=7).write_current("cam", NOW, {"0": 1})
    with redis.Redis.from_url(redis_url) as client:
        [key] = client.keys("*")
        assert 5 <= client.ttl(key) <= 7


def test_a_redis_that_is_down_degrades_and_says_so() -> None:
    hot = HotStore("redis://127.0.0.1:1")
    assert not hot.write_current("cam", NOW, {"0": 1})
    assert not hot.ping()
    with pytest.raises(redis.RedisError):
        hot.read_current("cam")
