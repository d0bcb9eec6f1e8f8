"""The index of closed days: built once, whole, beside readers and writers, and right whatever is written later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from cv_platform.pipeline.closed_days import Indexed, index_closed_days
from cv_platform.pipeline.warm_to_cold import warm_to_cold
from cv_platform.storage.page_index import PAGE_COLUMNS, page_index
from cv_platform_tests.pipeline.warm_rows import DAY, LATER, fill, warm, write_clip
from cv_platform_tests.pipeline.world import World

CLOSED = datetime(2026, 3, 3, tzinfo=UTC)
NAME = page_index(DAY)
PAGE = (
    f'SELECT class_id, "timestamp", {", ".join(PAGE_COLUMNS)} FROM warehouse.detections WHERE class_id = 7'
    ' AND "timestamp" >= \'2026-03-01\' AND "timestamp" < \'2026-03-02\' ORDER BY "timestamp" DESC LIMIT 100'
)


def whole(world: World) -> list[tuple[str, bool]]:
    """The indexes for pages, and whether each is whole."""
    return world.rows(
        "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
        " WHERE relname LIKE '%class_page' ORDER BY 1"
    )


def plan(world: World) -> str:
    with world.database.transaction() as connection:
        # With so few rows the planner would rather read them all.
        connection.execute(
            "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off"
        )
        return "\n".join(line for (line,) in connection.execute(f"EXPLAIN (COSTS OFF) {PAGE}"))


def until(met: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    for _ in range(1000):
        if met():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come about")


def builders(world: World) -> int:
    """Sessions that build an index and wait for a transaction that began before."""
    return world.rows(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%%'"
        " AND wait_event = 'virtualxid' AND datname = current_database()"
    )[0][0]


@pytest.fixture
def writer(world: World) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A transaction that has written to the day and goes on: who builds the index waits for it."""
    fill(world)
    with psycopg.connect(world.database.url) as connection:
        write_clip(connection, DAY, "cam1", 7)
        yield connection


def test_a_closed_day_answers_a_page_of_a_class_from_the_index_alone(world: World) -> None:
    fill(world, rows=400)
    before = world.rows(PAGE)
    assert len(before) > 10
    assert index_closed_days(world.platform, CLOSED - timedelta(seconds=1)) == Indexed()
    assert f"{NAME} " not in plan(world)
    world.execute("CHECKPOINT")  # the tests' server commits ahead of its log: what all can see is known behind it
    assert index_closed_days(world.platform, CLOSED) == Indexed(days=1)
    assert whole(world) == [(NAME, True)]
    assert f"Index Only Scan using {NAME} " in plan(world)
    assert world.rows(PAGE) == before
    # of how many pages that made all rows visible to all depends on who else reads just then
    [(vacuumed,)] = world.rows("SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'detections_20260301'")
    assert vacuumed == 1
    assert index_closed_days(world.platform, CLOSED) == Indexed()


def test_late_clips_and_days_that_go_cold_know_nothing_of_it(world: World) -> None:
    fill(world)
    index_closed_days(world.platform, CLOSED)
    with world.database.transaction() as connection:
        write_clip(connection, DAY, "cam2", 9, rows=400)
        connection.execute("DELETE FROM warehouse.detections WHERE camera_id = 'cam1' AND class_id = 7")
    found = world.rows(PAGE)
    expected = [row for row in warm(world)["detections"] if row[3] == 7]
    assert {row[2] for row in found} == {row[0] for row in expected}
    assert f"Index Only Scan using {NAME} " in plan(world)
    assert warm_to_cold(world.platform, LATER).cold == [DAY]
    assert whole(world) == []


def test_what_a_killed_builder_left_is_built_anew(world: World, writer: psycopg.Connection[tuple[object, ...]]) -> None:
    failed: list[BaseException] = []

    def build() -> None:
        try:
            index_closed_days(world.platform, CLOSED)
        except psycopg.OperationalError as error:
            failed.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    until(lambda: builders(world) == 1)
    world.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%%'"
        " AND datname = current_database()"
    )
    thread.join(60)
    assert len(failed) == 1
    assert whole(world) == [(NAME, False)]
    writer.commit()
    assert index_closed_days(world.platform, CLOSED) == Indexed(days=1)
    assert whole(world) == [(NAME, True)]


def test_two_at_once_build_one(world: World, writer: psycopg.Connection[tuple[object, ...]]) -> None:
    reports: list[Indexed] = []
    first = threading.Thread(target=lambda: reports.append(index_closed_days(world.platform, CLOSED)))
    first.start()
    until(lambda: builders(world) == 1)
    assert index_closed_days(world.platform, CLOSED) == Indexed(busy=1)
    writer.commit()
    first.join(60)
    assert reports == [Indexed(days=1)]
    assert whole(world) == [(NAME, True)]
    assert len(world.rows("SELECT FROM warehouse.detections WHERE clip_s3_key LIKE 'blurred/07/%%'")) == 50


def test_a_builder_that_waits_too_long_leaves_nothing_behind(
    world: World, writer: psycopg.Connection[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cv_platform.storage.page_index._PATIENCE_S", 1)
    assert index_closed_days(world.platform, CLOSED) == Indexed(busy=1)
    assert whole(world) == [(NAME, False)]  # the writer holds the day: it cannot be dropped yet
    writer.commit()
    assert index_closed_days(world.platform, CLOSED) == Indexed(days=1)
