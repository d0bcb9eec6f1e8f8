"""Live detections: drained once each, whoever dies when; what is acknowledged is warm, what is not is in the stream."""

from __future__ import annotations

import re
import signal
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from cv_platform.governance.erasure import requests
from cv_platform.pipeline import erasure, hot_to_warm
from cv_platform.pipeline.hot_to_warm import drain
from cv_platform.storage.hot import HotStore
from cv_platform.storage.hot_stream import (
    DEAD_STREAM,
    GROUP,
    LIVE_STREAM,
    LiveDetection,
    LiveFrame,
    LiveStream,
    Malformed,
    decode,
)
from cv_platform.storage.ledger.erasure_scope import ErasureScope
from cv_platform_tests.pipeline import workers
from cv_platform_tests.pipeline.world import World, with_settings

NOW = datetime.now(UTC).replace(microsecond=123456)


def frame(n: int, *, boxes: int = 2, camera: str = "live1", site: str = "north", at: datetime = NOW) -> LiveFrame:
    """The n-th frame of a camera."""
    found = tuple(LiveDetection(k, 0.5 + k / 10, (0.1, 0.2, 0.3 + k / 10, 0.4)) for k in range(boxes))
    return LiveFrame(site, camera, at - timedelta(seconds=n), found, frame=str(n))


@pytest.fixture
def stream(redis_url: str) -> LiveStream:
    return LiveStream(redis_url, ttl_s=7)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as opened:
        yield opened


def rows(world: World) -> list[tuple[Any, ...]]:
    return world.rows('SELECT id, camera_id, "timestamp", class_id, clip_s3_key FROM warehouse.detections ORDER BY 1')


def wanted(*frames: LiveFrame) -> set[uuid.UUID]:
    return {row_id for one in frames for row_id in one.row_ids()}


def test_frames_become_rows_once_and_are_acknowledged(world: World, stream: LiveStream, client: redis.Redis) -> None:
    frames = [frame(n) for n in range(1200)]
    for one in frames:
        stream.append(one)
    stream.append(frames[0])  # a producer that was not sure
    report = drain(world.platform)
    assert (report.messages, report.rows, report.degraded) == (1201, 2400, False)
    assert {row[0] for row in rows(world)} == wanted(*frames)
    assert {row[4] for row in rows(world)} <= {f"live/live1/{NOW - timedelta(days=d):%Y-%m-%d}" for d in (0, 1)}
    assert client.xlen(LIVE_STREAM) == 0
    assert client.xpending(LIVE_STREAM, GROUP)["pending"] == 0  # type: ignore[index]
    assert client.xinfo_consumers(LIVE_STREAM, GROUP) == []
    assert drain(world.platform).counts() == dict.fromkeys(report.counts(), 0)
    assert world.rows("SELECT camera_id, site_id FROM cv.cameras") == [("live1", "north")]


def test_the_camera_s_current_counts_are_there_at_once_and_go_by_themselves(
    redis_url: str, stream: LiveStream, client: redis.Redis
) -> None:
    stream.append(frame(0))
    assert HotStore(redis_url).read_current("live1") == {
        "seen_at": NOW.isoformat(timespec="microseconds"),
        "counts": {"0": 1, "1": 1},
    }
    assert 0 < int(client.ttl("cv:hot:live1")) <= 7  # type: ignore[arg-type]


BAD: dict[str, dict[str, str]] = {
    "no field": {"other": "x"},
    "no JSON": {"frame": "{"},
    "no number of JSON": {
        "frame": '{"v":1,"site":"a","camera":"b","at":"2026-03-01T08:00:00Z","boxes":[[0,NaN,0,0,1,1]]}'
    },
    "version": {"frame": '{"v":2}'},
    "a list": {"frame": "[]"},
    "camera": {"frame": '{"v":1,"site":"a","camera":"a/b","at":"2026-03-01T08:00:00Z","boxes":[]}'},
    "no offset": {"frame": '{"v":1,"site":"a","camera":"b","at":"2026-03-01T08:00:00","boxes":[]}'},
    "box": {"frame": '{"v":1,"site":"a","camera":"b","at":"2026-03-01T08:00:00Z","boxes":[[0,0.5,0,0,1]]}'},
    "outside": {"frame": '{"v":1,"site":"a","camera":"b","at":"2026-03-01T08:00:00Z","boxes":[[0,0.5,0,0,1,2]]}'},
    "class": {"frame": '{"v":1,"site":"a","camera":"b","at":"2026-03-01T08:00:00Z","boxes":[[99999,0.5,0,0,1,1]]}'},
    "frame": {"frame": '{"v":1,"site":"a","camera":"b","at":"2026-03-01T08:00:00Z","boxes":[],"frame":"\\u0000"}'},
    "old": {"frame": '{"v":1,"site":"a","camera":"b","at":"2020-03-01T08:00:00Z","boxes":[]}'},
}


def test_what_cannot_be_read_is_a_dead_letter_with_a_term(
    world: World, stream: LiveStream, client: redis.Redis
) -> None:
    for fields in BAD.values():
        client.xadd(LIVE_STREAM, fields)  # type: ignore[arg-type]
    client.xadd(LIVE_STREAM, {b"frame": b"\xff\xfe", b"\xff": b"no UTF-8"})
    stream.append(frame(0))
    stream.append(frame(1, site="south"))  # its camera belongs to the north now
    report = drain(world.platform)
    assert report.dead.total() == len(BAD) + 2
    assert {row[0] for row in rows(world)} == wanted(frame(0))
    assert client.xlen(LIVE_STREAM) == 0
    letters: Any = client.xrange(DEAD_STREAM)
    assert len(letters) == len(BAD) + 2
    assert all(fields["reason"] for _, fields in letters)
    assert stream.state().dead == len(letters)
    month = timedelta(days=31)
    assert stream.trim_dead(older_than=timedelta(days=30)) == 0
    assert stream.trim_dead(older_than=timedelta(days=30), now=datetime.now(UTC) + month) == len(letters)


@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(str))
def test_no_text_is_more_than_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        decode({"frame": text})


def test_what_another_drain_has_read_is_neither_trimmed_nor_lost(
    world: World, stream: LiveStream, client: redis.Redis
) -> None:
    stream.ensure_group()
    stream.append(frame(0))
    [held] = stream.read("slow", count=10)
    stream.append(frame(1))
    assert drain(world.platform).rows == 2
    assert client.xlen(LIVE_STREAM) == 2  # the slow one's is the oldest: nothing behind it goes
    assert stream.state().waiting == 1
    report = drain(world.platform, dead_after_s=0.0)
    assert (report.taken_over, report.rows) == (1, 2)
    assert client.xlen(LIVE_STREAM) == 0
    stream.acknowledge([held])  # it comes back, and harms nothing
    assert {row[0] for row in rows(world)} == wanted(frame(0), frame(1))


def test_what_another_group_has_not_read_is_not_trimmed(world: World, stream: LiveStream, client: redis.Redis) -> None:
    client.xgroup_create(LIVE_STREAM, "other", id="0", mkstream=True)
    stream.append(frame(0))
    drain(world.platform)
    assert client.xlen(LIVE_STREAM) == 1


def test_a_message_deleted_while_it_was_pending_does_not_stop_the_trimming(
    world: World, stream: LiveStream, client: redis.Redis
) -> None:
    stream.ensure_group()
    stream.append(frame(0))
    [held] = stream.read("dead", count=10)
    client.xdel(LIVE_STREAM, held.id)
    stream.append(frame(1))
    drain(world.platform, dead_after_s=0.0)
    assert client.xlen(LIVE_STREAM) == 0
    assert client.xpending(LIVE_STREAM, GROUP)["pending"] == 0  # type: ignore[index]


def fault_points() -> list[str]:
    """Every fault point of the drain, as the code names them."""
    return sorted(set(re.findall(r'faults\.point\("(drain\.[a-z_]+)"\)', Path(hot_to_warm.__file__).read_text())))


@pytest.mark.slow
def test_killed_at_every_point_it_loses_and_doubles_nothing(
    world: World, stream: LiveStream, client: redis.Redis
) -> None:
    points = fault_points()
    assert len(points) >= 6
    sent = []
    for n, point in enumerate(points):
        sent.append(frame(n))
        stream.append(sent[-1])
        client.xadd(LIVE_STREAM, {"frame": "broken"})
        assert workers.ended(workers.start_drain(world.settings, plan={point: "kill"})) == -signal.SIGKILL, point
    drain(world.platform, dead_after_s=0.0)
    assert [row[0] for row in rows(world)] == sorted(wanted(*sent))
    assert client.xlen(LIVE_STREAM) == 0
    assert client.xpending(LIVE_STREAM, GROUP)["pending"] == 0  # type: ignore[index]
    letters: Any = client.xrange(DEAD_STREAM)
    assert len({fields["id"] for _, fields in letters}) == len(letters) == len(points)


def test_redis_gone_is_degraded_and_redis_emptied_goes_on(
    world: World, stream: LiveStream, client: redis.Redis
) -> None:
    stream.append(frame(0))
    drain(world.platform)
    gone = World.at(with_settings(world.settings, redis_url="redis://127.0.0.1:1"))
    assert drain(gone.platform).degraded
    gone.database.close()
    client.flushdb()
    stream.append(frame(1))
    report = drain(world.platform)
    assert (report.degraded, report.rows) == (False, 2)
    assert {row[0] for row in rows(world)} == wanted(frame(0), frame(1))


def test_an_interval_of_a_camera_is_forgotten(world: World, stream: LiveStream, client: redis.Redis) -> None:
    for n in range(4):
        stream.append(frame(n))
        stream.append(frame(n, camera="live2"))
    client.xadd(DEAD_STREAM, {"frame": '"live1" and no more', "reason": "r"})
    client.xadd(DEAD_STREAM, {"frame": "another", "reason": "r"})
    assert stream.forget("live1", NOW - timedelta(seconds=2), NOW + timedelta(seconds=1)) == 4
    drain(world.platform)
    left = {row[0] for row in rows(world)}
    assert left == wanted(frame(3), *(frame(n, camera="live2") for n in range(4)))
    assert client.xlen(DEAD_STREAM) == 1


def test_a_late_event_of_an_erased_interval_is_dropped(world: World, stream: LiveStream, client: redis.Redis) -> None:
    scope = ErasureScope("camera", camera_id="live1", starts_at=NOW - timedelta(seconds=2), ends_at=NOW)
    request = requests.receive(world.database, scope, reference="case 1", by="clerk")
    erasure.preview(world.platform, request)
    requests.approve(world.database, request, by="officer")
    assert erasure.execute(world.platform, request, actor="job") == "executed"
    for n in range(4):
        stream.append(frame(n))  # the interval's end is outside it
        stream.append(frame(n, camera="live2"))
    assert drain(world.platform).erased == 2
    assert {row[0] for row in rows(world)} == wanted(frame(0), frame(3), *(frame(n, camera="live2") for n in range(4)))
    assert (client.xlen(LIVE_STREAM), client.xlen(DEAD_STREAM)) == (0, 0)
