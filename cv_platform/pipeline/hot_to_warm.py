"""hot → warm: live detections from the stream into PostgreSQL. Committed first, then acknowledged."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg
import redis

from cv_platform import faults
from cv_platform.governance.audit import record
from cv_platform.pipeline.platform import Platform
from cv_platform.storage.database import Connection
from cv_platform.storage.hot_stream import LiveFrame, LiveStream, Malformed, Message, decode
from cv_platform.storage.ledger.registration import register_cameras
from cv_platform.storage.ledger.tombstones import is_erased_interval
from cv_platform.storage.live_rows import write_live
from cv_platform.storage.warehouse import ensure_days

ACTOR: Final = "hot_to_warm"
OLDEST: Final = timedelta(days=2)
"""A live frame older than this is none: its day may have left the warm tier."""
_BATCH: Final = 500
_MOST: Final = 200_000
_DEAD_AFTER_S: Final = 60.0


@dataclass
class DrainReport:
    """What one drain did: counts only.

    Attributes:
        messages: acknowledged, with those that were buried.
        rows: detections that are new in the warm tier.
        taken_over: messages of drains that died.
        dead: messages buried, by reason.
        erased: messages dropped because an erasure covers them.
        degraded: Redis cannot be reached; nothing is lost that was acknowledged.
    """

    messages: int = 0
    rows: int = 0
    taken_over: int = 0
    dead: Counter[str] = field(default_factory=Counter)
    erased: int = 0
    trimmed: int = 0
    degraded: bool = False

    def counts(self) -> dict[str, int]:
        """All that is counted."""
        return {
            "messages": self.messages,
            "rows": self.rows,
            "taken over": self.taken_over,
            "dead letters": self.dead.total(),
            "erased": self.erased,
            "trimmed": self.trimmed,
        }


def drain(platform: Platform, *, dead_after_s: float = _DEAD_AFTER_S, most: int = _MOST) -> DrainReport:
    """Move what is in the stream into the warm tier, and trim what was acknowledged.

    Several drains at once share the messages. One that is killed leaves what it has read to the next, after
    `dead_after_s` seconds; rows that it wrote already are not written twice.

    Raises:
        psycopg.Error: PostgreSQL failed; nothing more was acknowledged.
    """
    report = DrainReport()
    url = platform.settings.redis_url
    if url is None:
        report.degraded = True
        return report
    stream = LiveStream(url, ttl_s=platform.settings.hot_ttl_s)
    consumer = f"drain-{uuid.uuid4().hex}"
    try:
        stream.ensure_group()
        while report.messages < most and not platform.should_stop():
            messages = stream.take_over(consumer, idle_s=dead_after_s, count=_BATCH)
            report.taken_over += len(messages)
            messages = messages or stream.read(consumer, count=_BATCH)
            if not messages:
                break
            faults.point("drain.read")
            _drain(platform, stream, messages, report)
            platform.progress(report.messages, 0)
        faults.point("drain.before_trim")
        report.trimmed = stream.trim()
        stream.trim_dead(older_than=platform.policy.default_rules.keep.quarantine)
        stream.leave(consumer)
    except redis.RedisError as error:
        report.degraded = True
        platform.log.warning(
            "Redis cannot be reached (%s): live detections wait where they are; the warm tier has all that was"
            " acknowledged",
            type(error).__name__,
        )
    if report.messages:
        record(platform.database, actor=ACTOR, action="data.drained", details={"counts": report.counts()})
    return report


def _drain(platform: Platform, stream: LiveStream, messages: Sequence[Message], report: DrainReport) -> None:
    """One batch: decide, commit, acknowledge."""
    now = datetime.now(UTC)
    skew = timedelta(seconds=platform.settings.max_clock_skew_s)
    good: list[tuple[Message, LiveFrame]] = []
    for message in messages:
        try:
            frame = decode(message.fields)
        except Malformed as error:
            _bury(stream, message, str(error), report)
            continue
        if not now - OLDEST <= frame.seen_at <= now + skew:
            _bury(stream, message, "its time is not of now: two days back are taken, and the clock's error", report)
            continue
        good.append((message, frame))
    ensure_days(platform.database, {frame.seen_at.astimezone(UTC).date() for _, frame in good})
    try:
        _commit(platform, stream, good, report)
    except (psycopg.DataError, psycopg.IntegrityError):
        # One of them is what PostgreSQL does not take: the others must not wait for it.
        for pair in good:
            try:
                _commit(platform, stream, [pair], report)
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                _bury(stream, pair[0], f"PostgreSQL refused it: {type(error).__name__}", report)


def _commit(
    platform: Platform, stream: LiveStream, good: Sequence[tuple[Message, LiveFrame]], report: DrainReport
) -> None:
    strangers: list[Message] = []
    erased: list[Message] = []

    def work(connection: Connection) -> int:
        strangers.clear()
        erased.clear()
        owners = register_cameras(connection, {(frame.camera_id, frame.site_id) for _, frame in good})
        wanted = []
        for message, frame in good:
            if owners.get(frame.camera_id) != frame.site_id:
                strangers.append(message)
            elif is_erased_interval(connection, frame.site_id, frame.camera_id, frame.seen_at, frame.seen_at):
                erased.append(message)
            else:
                wanted.append(frame)
        written = write_live(connection, wanted)
        faults.point("drain.before_commit")
        return written

    report.rows += platform.database.transact(work)
    faults.point("drain.after_commit")
    for message in strangers:
        _bury(stream, message, "its camera id is registered at another site", report)
    done = [message for message, _ in good if message not in strangers]
    stream.acknowledge(done)
    faults.point("drain.after_acknowledge")
    report.messages += len(done)
    report.erased += len(erased)


def _bury(stream: LiveStream, message: Message, reason: str, report: DrainReport) -> None:
    faults.point("drain.before_burial")
    stream.bury(message, reason)
    faults.point("drain.after_burial")
    report.messages += 1
    report.dead[reason] += 1
