"""Marts follow the ledger: late clips, removed clips, midnight, local days, commits in the middle of a build."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest

from cv_platform.embedded.postgres import PostgresServer
from cv_platform.storage.database import Connection, Database
from cv_platform_tests.dbt import warehouse as wh
from cv_platform_tests.dbt.warehouse import moment
from cv_platform_tests.servers import TestServers

Step = Callable[[Connection], None]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that dbt parses the project once."""
    return tmp_path_factory.mktemp("dbt")


@pytest.fixture
def other_database_url(servers: TestServers, postgres_server: PostgresServer) -> str:
    return postgres_server.ensure_database("marts_other", template=servers.platform_template())


def sites(connection: Connection) -> None:
    wh.add_site(connection, "berlin", "Europe/Berlin", "b1", "b2")
    wh.add_site(connection, "kolkata", "Asia/Kolkata", "k1")  # UTC+5:30: local midnight within a UTC hour


def clip(camera: str, start: str, tracks: int, *, dwell_s: float = 4.0) -> Step:
    def add(connection: Connection) -> None:
        begin = moment(start)
        clip_id = wh.add_clip(connection, camera, begin, 600)
        first = begin.hour * 1000 + begin.minute * 10
        for n in range(tracks):
            wh.add_track(connection, clip_id, first + n, begin + timedelta(seconds=5 * n), dwell_s)

    return add


def crossing(connection: Connection) -> None:
    """A track that begins before midnight, goes on in the next clip, and ends two hours into the next day."""
    before = wh.add_clip(connection, "b1", moment("2026-03-10 23:50:00"), 600)
    after = wh.add_clip(connection, "b1", moment("2026-03-11 00:00:00"), 7200)
    day = date(2026, 3, 10)
    wh.add_track(connection, before, 77, moment("2026-03-10 23:59:00"), 59.0, track_day=day, detections=5)
    wh.add_track(connection, after, 77, moment("2026-03-11 00:00:01"), 7000.0, track_day=day, detections=7)


STEPS: list[Step] = [
    clip("b1", "2026-03-10 08:00:00", 6),
    clip("b2", "2026-03-10 08:00:00", 3),
    clip("b1", "2026-03-10 22:55:00", 7),  # an hour of two local days in Berlin
    clip("k1", "2026-03-10 18:25:00", 8, dwell_s=90.0),  # local midnight is 18:30 UTC
    clip("k1", "2026-03-10 18:40:00", 5),
    clip("b2", "2026-03-11 08:00:00", 2),
    crossing,
]


def apply(database: Database, *steps: Step) -> None:
    for step in steps:
        with database.transaction() as connection:
            step(connection)


def test_late_clips_and_a_commit_within_a_build_converge_to_a_build_in_order(
    database_url: str, other_database_url: str, scratch: Path
) -> None:
    in_order, late = Database(database_url), Database(other_database_url)
    apply(in_order, sites, *STEPS)
    wh.build(in_order, scratch)

    shuffled = random.Random(5).sample(STEPS, len(STEPS))
    apply(late, sites, *shuffled[:3])
    for number, _ in enumerate(wh.build_stepwise(late, scratch)):
        if number == 0:  # dbt runs: its first query lies before or after this commit
            apply(late, *shuffled[3:5])
    assert wh.dirty_days(late, 5)  # what came meanwhile is still due, whether or not this build saw it
    apply(late, *shuffled[5:])
    wh.build(late, scratch)

    assert wh.dirty_days(late, 5) == []
    assert wh.contents(late) == wh.contents(in_order)
    expect_known_numbers(wh.contents(in_order))

    # Another k makes every day due, and changes what analysts see, nothing else.
    before = wh.contents(late)
    assert wh.dirty_days(late, 3) == [date(2026, 3, 10), date(2026, 3, 11)]
    wh.build(late, scratch, k=3)
    after = wh.contents(late)
    assert wh.dirty_days(late, 3) == []
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"aggregates.publication", *(name for name in wh.MARTS if name.startswith("marts."))}
    assert {row[5] for row in after["marts.camera_hourly"]} == {6, 3, 7, 13}

    # What is erased leaves the marts, also where nothing of the day remains.
    with late.transaction() as connection:
        for (clip_id,) in connection.execute("SELECT clip_id FROM cv.clips ORDER BY captured_at DESC").fetchall():
            wh.remove_clip(connection, clip_id)
    wh.build(late, scratch)
    emptied = wh.contents(late)
    assert {name for name, rows in emptied.items() if rows} == {"aggregates.pipeline_daily"}
    assert {row[2] for row in emptied["aggregates.pipeline_daily"]} == {"erased"}
    in_order.close()
    late.close()


def expect_known_numbers(found: dict[str, list[tuple[object, ...]]]) -> None:
    daily = {(row[0], row[1]): row[4] for row in found["aggregates.site_daily"]}
    assert daily == {
        # Berlin is UTC+1 in March: 23:00 UTC begins the next day. Of 22:55's seven tracks all begin before 23:00.
        ("berlin", date(2026, 3, 10)): 6 + 3 + 7,
        ("berlin", date(2026, 3, 11)): 2 + 1,
        # 18:25 + 5 s x n: all eight begin before 18:30; the other clip's five are of the next day.
        ("kolkata", date(2026, 3, 10)): 8,
        ("kolkata", date(2026, 3, 11)): 5,
    }
    (track,) = [row for row in found["restricted.track_summary"] if row[3] == 77]
    assert track[2] == date(2026, 3, 10)
    assert track[7] == pytest.approx(7000 + 61)  # dwell over midnight and two clips
    assert track[8:] == (12, 2)
    hours = {(row[1], row[2].hour): row[5] for row in found["aggregates.camera_hourly"] if row[5]}
    assert hours["b1", 23] == 1  # the crossing track counts once, in the hour of its first sighting
    assert ("b1", 0) not in hours
    assert hours["k1", 18] == 13  # both local days
    # Analysts: the hour's two parts are each at least 5; camera b2's 3 and 2 are not there.
    published = {(row[1], row[2].hour): row[5] for row in found["marts.camera_hourly"]}
    assert published == {("b1", 8): 6, ("b1", 22): 7, ("k1", 18): 13}
    assert {row[:2]: row[4] for row in found["marts.site_daily"]} == {
        ("berlin", date(2026, 3, 10)): 13,
        ("kolkata", date(2026, 3, 10)): 8,
        ("kolkata", date(2026, 3, 11)): 5,
    }
    assert all(isinstance(row[3], int) and row[3] >= 5 for row in found["marts.pipeline_daily"])
    clips = sum(row[3] for row in found["aggregates.pipeline_daily"])  # type: ignore[misc]
    assert clips == 8
    assert {row[4] for row in found["aggregates.pipeline_daily"]} == {120.0}
