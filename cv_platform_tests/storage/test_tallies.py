"""The tallies are what a count of all rows would say, whatever happened."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cv_platform.storage.database import Database
from cv_platform.storage.ledger.claims import claim_clips, release
from cv_platform.storage.ledger.model import Scope
from cv_platform.storage.ledger.queries import balance, pending_by_site, stage_states
from cv_platform.storage.ledger.registration import Upload, register_uploads
from cv_platform.storage.ledger.tallies import (
    balance_now,
    clip_states_by_site,
    recount,
    stage_states_now,
    sum_tallies,
    waiting_by_site,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, max_size=4)
    yield opened
    opened.close()


def _upload(n: int, etag: str = "e") -> Upload:
    site = ("north", "south")[n % 2]
    return Upload(f"raw/{site}/{n}", etag, 1000, site, f"{site}-cam", NOON + timedelta(seconds=n))


def _same(database: Database) -> None:
    found, counted = balance_now(database), balance(database)
    assert (found.received, found.states) == (counted.received, counted.states)
    assert stage_states_now(database) == stage_states(database)
    assert waiting_by_site(database) == pending_by_site(database)


def _claim(database: Database, *sites: str, limit: int = 2) -> list[object]:
    scope = Scope(NOON.date(), sites)
    return list(claim_clips(database, "raw_clips", version="v1", scope=scope, run_id="r", lease_s=60.0, limit=limit))


_STEPS = st.lists(st.sampled_from(["new", "replace", "refused", "claim", "release", "delete", "sum"]), max_size=14)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_they_follow_everything(database: Database, steps: list[str]) -> None:
    with database.transaction() as connection:
        connection.execute("TRUNCATE cv.clips CASCADE")
        recount(connection)
    claims: list[object] = []
    for n, step in enumerate(steps):
        if step == "new":
            register_uploads(database, [_upload(2 * n), _upload(2 * n + 1)])
        elif step == "replace":
            register_uploads(database, [_upload(0, f"e{n}")])
        elif step == "refused":
            register_uploads(database, [Upload(f"raw/odd/{n}", "e", 1, problem=("bad_key", "its key says nothing"))])
        elif step == "claim":
            claims += _claim(database)
        elif step == "release" and claims:
            release(database, [claims.pop()])  # type: ignore[list-item]
        elif step == "delete":
            with database.transaction() as connection:
                connection.execute("DELETE FROM cv.stages WHERE stage = 'detections'")
        elif step == "sum":
            sum_tallies(database)
    _same(database)


def test_summing_up_leaves_a_row_a_state(database: Database) -> None:
    register_uploads(database, [_upload(n) for n in range(20)])
    for _ in range(10):
        _claim(database)
    with database.transaction() as connection:
        before = connection.execute("SELECT count(*) FROM cv.tallies").fetchone()
    sum_tallies(database)
    with database.transaction() as connection:
        after = connection.execute("SELECT count(*), min(n) FROM cv.tallies").fetchone()
    assert before is not None
    assert after is not None
    assert after[0] == 2 * (1 + 5) < before[0], "two sites; the clips, and five stages in one state each"
    assert after[1] > 0
    assert clip_states_by_site(database) == {("north", "in_progress"): 10, ("south", "in_progress"): 10}
    _same(database)


def test_a_contradiction_does_not_balance(database: Database) -> None:
    register_uploads(database, [_upload(n) for n in range(4)])
    assert balance_now(database).balances
    with database.transaction() as connection:
        connection.execute("UPDATE cv.stages SET state = 'done' WHERE captured_at = %s", [NOON])
    assert not balance_now(database).balances
    _same(database)


def test_a_balance_of_a_day_is_of_that_day(database: Database) -> None:
    later = _upload(100)
    register_uploads(
        database,
        [
            _upload(0),
            Upload(later.key, "e", 1, later.site_id, later.camera_id, NOON + timedelta(days=1)),
        ],
    )
    assert balance(database, day=NOON.date()).received == 1
    assert balance(database).received == 2
