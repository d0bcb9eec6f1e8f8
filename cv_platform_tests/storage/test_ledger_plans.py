"""A row that is found by its key is read by its key, whatever old statistics say of the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import psycopg
import pytest

from benchmarks._synthetic_ledger import fill
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.claims import Leases, begin, claim_clips, postpone, release
from cv_platform.storage.ledger.commits import commit
from cv_platform.storage.ledger.model import Claim, Scope
from cv_platform.storage.ledger.withdrawal import lock_claim
from cv_platform_tests.servers import TestServers


@pytest.fixture(scope="module")
def ledger(servers: TestServers) -> Iterator[Database]:
    """A ledger whose statistics are from before any of its clips was in hand."""
    server, name = servers.postgres(), f"plans_{uuid4().hex[:10]}"
    database = Database(server.ensure_database(name, template=servers.platform_template()))
    fill(database, clips=2000, cameras=16, days=4, open_clips=1000)
    with database.transaction() as connection:
        connection.execute("ALTER TABLE cv.stages SET (autovacuum_enabled = false)")
    yield database
    database.close()
    server.drop_database(name)


def claims(ledger: Database, limit: int) -> list[Claim]:
    return claim_clips(ledger, "raw_clips", version="v1", scope=Scope(), run_id="r", lease_s=600, limit=limit)


def _lock(ledger: Database, claim: Claim) -> None:
    with ledger.transaction() as connection:
        lock_claim(connection, claim)


def _commit(ledger: Database, claim: Claim) -> None:
    commit(ledger, claim, seconds=1.0, output_key=None, write=lambda connection: None)


@pytest.mark.parametrize(
    "act",
    [
        begin,
        lambda ledger, claim: Leases([claim]).renew(ledger, lease_s=600),
        _lock,
        lambda ledger, claim: postpone(ledger, claim, delay_s=600, error="e"),
        _commit,
        lambda ledger, claim: release(ledger, [claim]),
    ],
    ids=["begin", "renew", "lock", "postpone", "commit", "release"],
)
def test_a_claimed_row_is_found_by_its_key(ledger: Database, act: Callable[[Database, Claim], object]) -> None:
    """By the index of running rows each would read them all: 7 ms for 12,000, by every worker for every clip."""
    *_, claim = claims(ledger, 100)
    before = read(ledger, "stages_running")
    act(ledger, claim)
    assert read(ledger, "stages_running") == before


def read(ledger: Database, index: str) -> int:
    """Entries of an index that were read up to now."""
    ledger.close()  # its sessions tell what they read when they end
    time.sleep(0.1)
    with psycopg.connect(ledger.url) as probe:
        row = probe.execute("SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = %s", [index]).fetchone()
    assert row is not None
    return int(row[0])
