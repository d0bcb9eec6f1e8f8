"""The hot tier: what cameras see now, in Redis, gone after minutes. Written after the commit, never the truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import redis

# One step in the server: two workers may write at once. Times are UTC in one format, so that text compares like time.
_WRITE_IF_NEWER = """
local held = redis.call('HGET', KEYS[1], 'seen_at')
if held and held > ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'seen_at', ARGV[1], 'counts', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


class HotStore:
    """Current state per camera.

    Args:
        url: `redis://…` or `unix://…`.
        ttl_s: how long a key lives without being written again, seconds.
    """

    def __init__(self, url: str, *, ttl_s: int = 300) -> None:
        self._redis = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
        self._write = self._redis.register_script(_WRITE_IF_NEWER)
        self.ttl_s = ttl_s

    @staticmethod
    def _key(camera_id: str) -> str:
        return f"cv:hot:{camera_id}"

    def write_current(self, camera_id: str, seen_at: datetime, counts: Mapping[str, int]) -> bool:
        """Keep a camera's newest counts by class.

        Clips are done in any order: what was seen later stays.

        Returns:
            False where Redis cannot be reached: nothing is lost, the platform is only degraded.
        """
        at = seen_at.astimezone(UTC).isoformat(timespec="microseconds")
        try:
            self._write(keys=[self._key(camera_id)], args=[at, json.dumps(dict(counts)), self.ttl_s])
        except redis.RedisError:
            return False
        return True

    def read_current(self, camera_id: str) -> dict[str, Any] | None:
        """A camera's newest counts, or None where it has sent nothing for `ttl_s` seconds."""
        seen_at, counts = cast("list[bytes | None]", self._redis.hmget(self._key(camera_id), ["seen_at", "counts"]))
        if seen_at is None or counts is None:
            return None
        return {"seen_at": seen_at.decode(), "counts": json.loads(counts)}

    def forget(self, camera_id: str) -> None:
        """Drop a camera's counts, as an erasure must. Raises redis.RedisError: an erasure does not go on without."""
        self._redis.delete(self._key(camera_id))

    def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(self._redis.ping())
        except redis.RedisError:
            return False
