"""The audit log takes entries and nothing else, and its chain tells of every change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from cv_platform.governance import audit
from cv_platform.governance.audit import AuditEntry, AuditHead
from cv_platform.storage.database import Database


@pytest.fixture
def database(database_url: str) -> Database:
    return Database(database_url)


def chain_of(database: Database, count: int) -> list[AuditEntry]:
    for n in range(count):
        audit.record(database, actor="officer", action="test", details={"n": n})
    return list(audit.entries(database, page=2))


def test_an_untouched_chain_has_no_problem_and_survives_being_written_down(database: Database) -> None:
    chain = chain_of(database, 5)
    assert [entry.details["n"] for entry in chain] == list(range(5))
    assert not list(audit.problems(chain))
    assert [AuditEntry.from_json(entry.to_json()) for entry in chain] == chain
    assert audit.head_of(database) == AuditHead(5, chain[-1].entry_hash)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("details changed", lambda c: [*c[:2], dataclasses.replace(c[2], details={"n": 9}), *c[3:]]),
        ("actor changed", lambda c: [*c[:2], dataclasses.replace(c[2], actor="nobody"), *c[3:]]),
        ("an entry deleted", lambda c: [*c[:2], *c[3:]]),
        ("the first deleted", lambda c: c[1:]),
        ("two swapped", lambda c: [c[0], c[2], c[1], *c[3:]]),
        ("the end cut off", lambda c: c[:-1]),
        (
            "an entry changed and hashed anew",
            lambda c: [
                *c[:2],
                dataclasses.replace(
                    (new := dataclasses.replace(c[2], details={"n": 9})), entry_hash=new.expected_hash()
                ),
                *c[3:],
            ],
        ),
    ],
)
def test_any_change_is_found(
    database: Database, what: str, change: Callable[[list[AuditEntry]], list[AuditEntry]]
) -> None:
    chain = chain_of(database, 5)
    assert list(audit.problems(change(chain), known=[audit.head_of(database)])), what


def test_a_chain_written_anew_from_the_start_is_found_by_a_head_seen_earlier(database: Database) -> None:
    chain = chain_of(database, 3)
    forged, previous = [], audit.GENESIS
    for entry in chain:
        new = dataclasses.replace(entry, details={"forged": True}, previous=previous)
        new = dataclasses.replace(new, entry_hash=new.expected_hash())
        forged.append(new)
        previous = new.entry_hash
    assert not list(audit.problems(forged))
    assert list(audit.problems(forged, known=[AuditHead(2, chain[1].entry_hash)]))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE cv.audit_log SET actor = 'nobody'",
        "DELETE FROM cv.audit_log",
        "TRUNCATE cv.audit_log",
        "SET session_replication_role = replica; DELETE FROM cv.audit_log",
    ],
)
def test_no_role_of_the_platform_changes_it(database: Database, statement: str) -> None:
    chain_of(database, 1)
    with pytest.raises(psycopg.errors.InsufficientPrivilege), database.transaction() as connection:
        connection.execute(statement)
    assert len(list(audit.entries(database))) == 1


def test_entries_of_many_at_once_make_one_chain(database: Database) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: audit.record(database, actor="a", action="b", details={"n": n}), range(20)))
    chain = list(audit.entries(database))
    assert len(chain) == 20
    assert not list(audit.problems(chain))


def test_what_is_rolled_back_leaves_no_entry(database: Database) -> None:
    def work() -> None:
        with database.transaction() as connection:
            audit.append(connection, actor="a", action="b", details={})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert audit.head_of(database).seq == 0
