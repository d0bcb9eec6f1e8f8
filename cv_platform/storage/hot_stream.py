"""The stream of live detections: producers append frames, `hot_to_warm` drains them into PostgreSQL.

Redis 6.2 is enough. What is acknowledged is in the warm tier; what is not stays in the stream, whoever dies: nothing is
trimmed but what every group has acknowledged. A message that cannot be read goes to a second stream, with its reason.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import redis

from cv_platform.storage.hot import HotStore

LIVE_STREAM: Final = "cv:live:detections"
DEAD_STREAM: Final = "cv:live:dead"
GROUP: Final = "warm"
MAX_BOXES: Final = 1000
_NAMESPACE: Final = uuid.UUID("3f0f5f86-2f3c-5d3a-8a71-7a0c9b1f2d44")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,49}")
_PAGE: Final = 1000


class Malformed(ValueError):
    """A message that no frame can be read from; says why, and names nothing of it."""


@dataclass(frozen=True)
class LiveDetection:
    """One detection: class id, confidence 0..1, and box x1, y1, x2, y2 normalised to 0..1."""

    class_id: int
    confidence: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class LiveFrame:
    """What a camera sees at one moment.

    Attributes:
        seen_at: with a time zone.
        frame: tells two frames of one microsecond apart; a producer that sends a frame again gives it the same.
    """

    site_id: str
    camera_id: str
    seen_at: datetime
    detections: tuple[LiveDetection, ...] = ()
    frame: str = ""

    def row_ids(self) -> list[uuid.UUID]:
        """Derived from camera, time, frame and index: a frame that comes twice is the same rows."""
        camera = uuid.uuid5(_NAMESPACE, self.camera_id)
        at = self.seen_at.astimezone(UTC).isoformat(timespec="microseconds")
        return [uuid.uuid5(camera, f"{at}/{self.frame}/{n}") for n in range(len(self.detections))]

    def encode(self) -> dict[str, str]:
        """The frame as a message's fields. Raises Malformed where `decode` would not take it."""
        body = {
            "v": 1,
            "site": self.site_id,
            "camera": self.camera_id,
            "at": self.seen_at.isoformat(timespec="microseconds"),
            "frame": self.frame,
            "boxes": [[d.class_id, d.confidence, *d.box] for d in self.detections],
        }
        fields = {"frame": json.dumps(body, separators=(",", ":"))}
        decode(fields)
        return fields


@dataclass(frozen=True)
class Message:
    """An entry of the stream as it was read."""

    id: str
    fields: dict[str, str]


@dataclass(frozen=True)
class StreamState:
    """How far the drain is behind.

    Attributes:
        waiting: messages not yet acknowledged, read or not.
        dead: messages that could not be read.
        oldest_s: age of the oldest that waits, seconds.
    """

    waiting: int
    dead: int
    oldest_s: float


class LiveStream:
    """The stream on one Redis. Every method raises redis.RedisError where that cannot be reached.

    Args:
        url: `redis://…` or `unix://…`.
        ttl_s: how long a camera's current counts live without a new frame, seconds.
    """

    def __init__(self, url: str, *, ttl_s: int = 300) -> None:
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=5,
            socket_connect_timeout=5,
            decode_responses=True,
            encoding_errors="replace",  # a message that is no UTF-8 is malformed; it must not stop the others
        )
        self._hot = HotStore(url, ttl_s=ttl_s)

    def append(self, frame: LiveFrame) -> str:
        """Send a frame, and keep its counts as the camera's current ones; returns the message's id.

        Raises:
            Malformed: the frame is none that the drain would take.
            redis.RedisError: it was not sent, or nobody knows: send it again, which doubles nothing.
        """
        message = str(self._redis.xadd(LIVE_STREAM, frame.encode()))  # type: ignore[arg-type]
        counts = Counter(str(detection.class_id) for detection in frame.detections)
        self._hot.write_current(frame.camera_id, frame.seen_at, counts)
        return message

    def ensure_group(self) -> None:
        """Make the group where there is none, as after Redis lost everything."""
        try:
            self._redis.xgroup_create(LIVE_STREAM, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def read(self, consumer: str, *, count: int) -> list[Message]:
        """New messages; they are this consumer's until it acknowledges them. Does not wait."""
        answer: Any = self._redis.xreadgroup(GROUP, consumer, {LIVE_STREAM: ">"}, count=count)
        streams = answer.values() if isinstance(answer, dict) else [entries for _, entries in answer or []]
        return _messages(entry for entries in streams for entry in _flat(entries))

    def take_over(self, consumer: str, *, idle_s: float, count: int) -> list[Message]:
        """Messages that another consumer read and did not acknowledge for so long: it is dead."""
        answer: Any = self._redis.xautoclaim(LIVE_STREAM, GROUP, consumer, round(idle_s * 1000), "0-0", count=count)
        found = _messages(answer[1])
        # What was deleted from the stream meanwhile is nobody's any more, and would keep it from being trimmed.
        own: Any = self._redis.xpending_range(LIVE_STREAM, GROUP, "-", "+", count, consumername=consumer)
        got = {message.id for message in found}
        for entry in own:
            message_id = entry["message_id"]
            if message_id not in got and not self._redis.xrange(LIVE_STREAM, message_id, message_id):
                self._redis.xack(LIVE_STREAM, GROUP, message_id)
        return found

    def acknowledge(self, messages: Iterable[Message]) -> None:
        """Say that the warm tier has these, or never will."""
        ids = [message.id for message in messages]
        if ids:
            self._redis.xack(LIVE_STREAM, GROUP, *ids)

    def bury(self, message: Message, reason: str) -> None:
        """Move a message to the dead letters, with the reason: both in one step."""
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xadd(
                DEAD_STREAM, {"reason": reason, "id": message.id, "frame": message.fields.get("frame", "")[:65536]}
            )
            pipeline.xack(LIVE_STREAM, GROUP, message.id)
            pipeline.execute()

    def trim(self) -> int:
        """Drop what every group has acknowledged; returns how many messages."""
        floors = []
        # The last delivered id first: what is delivered later lies behind it, what was before is pending or done.
        for group in self._groups():
            delivered = str(group["last-delivered-id"])
            pending: Any = self._redis.xpending(LIVE_STREAM, str(group["name"]))
            floors.append(str(pending["min"]) if pending["pending"] else _next_id(delivered))
        if not floors:
            return 0
        floor = min(floors, key=_order)
        return int(self._redis.xtrim(LIVE_STREAM, minid=floor, approximate=False))

    def trim_dead(self, *, older_than: timedelta, now: datetime | None = None) -> int:
        """Drop dead letters past their term; returns how many."""
        before = (now or datetime.now(UTC)) - older_than
        floor = f"{max(0, round(before.timestamp() * 1000))}-0"
        return int(self._redis.xtrim(DEAD_STREAM, minid=floor, approximate=False))

    def leave(self, consumer: str) -> None:
        """Forget a consumer that has acknowledged all that it read, and those of dead processes that have nothing."""
        consumers: Any = self._redis.xinfo_consumers(LIVE_STREAM, GROUP)
        for entry in consumers:
            done = entry["name"] == consumer or entry["idle"] > 3_600_000
            if done and not entry["pending"]:
                self._redis.xgroup_delconsumer(LIVE_STREAM, GROUP, entry["name"])

    def forget(self, camera_id: str, first: datetime, last: datetime) -> int:
        """Delete a camera's frames of an interval, `last` exclusive, and dead letters that may be of it.

        Returns:
            How many messages went. A dead letter that cannot be read is deleted where the camera's id is in it.
        """
        gone = 0
        for stream in (LIVE_STREAM, DEAD_STREAM):
            start = "-"
            while page := self._page(stream, start):
                of_it = [message.id for message in page if _is_of(message, camera_id, first, last)]
                if of_it:
                    if stream == LIVE_STREAM:
                        with contextlib.suppress(redis.ResponseError):  # no group yet: nothing to acknowledge
                            self._redis.xack(LIVE_STREAM, GROUP, *of_it)
                    gone += int(self._redis.xdel(stream, *of_it))
                start = _next_id(page[-1].id)
        return gone

    def state(self, *, now: datetime | None = None) -> StreamState:
        """How far the drain is behind."""
        waiting = int(self._redis.xlen(LIVE_STREAM))
        for group in self._groups():
            if group["name"] == GROUP:
                pending: Any = self._redis.xpending(LIVE_STREAM, GROUP)
                floor = str(pending["min"]) if pending["pending"] else _next_id(str(group["last-delivered-id"]))
                newer: Any = self._redis.xrange(
                    LIVE_STREAM, _next_id(str(group["last-delivered-id"])), "+", count=_PAGE
                )
                waiting = int(pending["pending"]) + len(newer)
                oldest: Any = self._redis.xrange(LIVE_STREAM, floor, "+", count=1)
                break
        else:
            oldest = self._redis.xrange(LIVE_STREAM, "-", "+", count=1)
        age = 0.0
        if oldest and waiting:
            at = int(str(oldest[0][0]).split("-")[0]) / 1000
            age = max(0.0, (now or datetime.now(UTC)).timestamp() - at)
        return StreamState(waiting, int(self._redis.xlen(DEAD_STREAM)), age)

    def _groups(self) -> list[dict[str, Any]]:
        try:
            groups: Any = self._redis.xinfo_groups(LIVE_STREAM)
        except redis.ResponseError:
            return []  # no stream yet
        return list(groups)

    def _page(self, stream: str, start: str) -> list[Message]:
        entries: Any = self._redis.xrange(stream, start, "+", count=_PAGE)
        return _messages(entries)


def decode(fields: dict[str, str]) -> LiveFrame:
    """Read a message. Raises Malformed, with a reason that names nothing of it."""
    try:
        body = json.loads(fields["frame"], parse_constant=_refuse_constant)
    except KeyError:
        raise Malformed("it has no field `frame`") from None
    except (ValueError, RecursionError):
        raise Malformed("its field `frame` is no JSON") from None
    if not isinstance(body, dict) or body.get("v") != 1:
        raise Malformed("its version is unknown; allowed is an object with v = 1")
    site, camera, frame = body.get("site"), body.get("camera"), body.get("frame", "")
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in (site, camera)):
        raise Malformed("site or camera is no id: letters, digits, '_', '-', '.', at most 50")
    if not isinstance(frame, str) or len(frame) > 100 or not frame.isprintable() or not frame.isascii():
        raise Malformed("its frame is no short printable text")
    try:
        seen_at = datetime.fromisoformat(body["at"])
    except (KeyError, TypeError, ValueError):
        raise Malformed("its time is no ISO 8601 time") from None
    if seen_at.tzinfo is None:
        raise Malformed("its time has no offset")
    boxes = body.get("boxes")
    if not isinstance(boxes, list) or len(boxes) > MAX_BOXES:
        raise Malformed(f"its boxes are no list of at most {MAX_BOXES}")
    return LiveFrame(str(site), str(camera), seen_at, tuple(_detection(box) for box in boxes), frame)


def _detection(box: Any) -> LiveDetection:
    if not isinstance(box, list) or len(box) != 6 or any(isinstance(v, bool) for v in box):
        raise Malformed("a box is not class, confidence, x1, y1, x2, y2")
    class_id, *numbers = box
    if not isinstance(class_id, int) or not 0 <= class_id < 2**15:
        raise Malformed("a class id is no whole number of 0..32767")
    if not all(isinstance(v, int | float) and math.isfinite(v) and 0 <= v <= 1 for v in numbers):
        raise Malformed("a confidence or corner lies outside 0..1")
    confidence, x1, y1, x2, y2 = map(float, numbers)
    if x1 > x2 or y1 > y2:
        raise Malformed("a box ends before it begins")
    return LiveDetection(class_id, confidence, (x1, y1, x2, y2))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _messages(entries: Iterable[Any]) -> list[Message]:
    """Entries that are there; one that was deleted is told as nothing."""
    return [Message(entry[0], entry[1]) for entry in entries if entry and entry[0] and entry[1] is not None]


def _flat(entries: Sequence[Any]) -> Sequence[Any]:
    """redis-py wraps the entries of a stream once more where it speaks protocol 3."""
    return entries[0] if entries and entries[0] and isinstance(entries[0][0], list | tuple) else entries


def _order(message_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = message_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _next_id(message_id: str) -> str:
    milliseconds, sequence = _order(message_id)
    return f"{milliseconds}-{sequence + 1}"


def _is_of(message: Message, camera_id: str, first: datetime, last: datetime) -> bool:
    try:
        frame = decode(message.fields)
    except Malformed:
        return camera_id in message.fields.get("frame", "")
    return frame.camera_id == camera_id and first <= frame.seen_at < last
