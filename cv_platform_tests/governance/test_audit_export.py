"""The exported chain tells of what was done to the table, and the table of what was done to the export."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cv_platform import faults
from cv_platform.governance import audit
from cv_platform.governance.audit_export import export_audit, export_gaps, exported_entries, verify_audit
from cv_platform.governance.erasure import requests
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.erasure_scope import ErasureScope
from cv_platform.storage.objects import ObjectStore
from cv_platform_tests.conftest import S3Server

KEEP = timedelta(days=1)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path.as_uri())


def record(database: Database, count: int) -> None:
    for n in range(count):
        audit.record(database, actor="officer", action="test", details={"n": n})


def forged(database: Database, statement: str, table: str = "audit_log") -> None:
    """Change a table as somebody could who owns it."""
    with database.transaction() as connection:
        connection.execute(f"ALTER TABLE cv.{table} DISABLE TRIGGER USER")
        connection.execute(statement)
        connection.execute(f"ALTER TABLE cv.{table} ENABLE ALWAYS TRIGGER {table}_rows")


def rewrite(database: Database) -> None:
    """Write the whole chain anew with one entry left out: consistent in itself."""
    kept = [entry for entry in audit.entries(database) if entry.details["n"] != 1]
    forged(database, "DELETE FROM cv.audit_log")
    for entry in kept:
        audit.record(database, actor=entry.actor, action=entry.action, details=entry.details)


def test_exports_add_up_to_the_chain(database: Database, store: ObjectStore) -> None:
    for count, files in ((3, 1), (0, 0), (2, 1)):
        record(database, count)
        done = export_audit(database, store, keep=KEEP)
        assert (done.entries, done.files, done.locked) == (count, files, False)
    assert list(exported_entries(store)) == list(audit.entries(database))
    assert list(verify_audit(database, store)) == []


def test_a_chain_written_anew_is_seen_by_what_was_exported(database: Database, store: ObjectStore) -> None:
    record(database, 4)
    export_audit(database, store, keep=KEEP)
    rewrite(database)
    assert list(audit.problems(audit.entries(database))) == []  # in itself it is sound
    assert any("gone" in problem for problem in verify_audit(database, None))  # the note of the export tells
    forged(database, "DELETE FROM cv.audit_exports", "audit_exports")
    assert list(verify_audit(database, None)) == []
    assert any("written anew" in problem for problem in verify_audit(database, store))
    assert any("gone" in problem for problem in verify_audit(database, store))


def test_a_changed_file_is_seen(database: Database, store: ObjectStore) -> None:
    record(database, 4)
    export_audit(database, store, keep=KEEP)
    [info] = store.list("audit")
    lines = store.get_bytes(info.key).decode().splitlines(keepends=True)
    for changed in (
        [*lines[:2], lines[2].replace('"n": 2', '"n": 7'), lines[3]],
        [*lines[:1], *lines[2:]],
        [lines[0], lines[2], lines[1], lines[3]],
        [*lines[:3], "no entry\n"],
        lines[:3],
        [],
    ):
        store.put_bytes(info.key, "".join(changed).encode())
        assert list(verify_audit(database, store)), changed


def test_a_changed_copy_of_what_another_file_says_is_seen(database: Database, store: ObjectStore) -> None:
    record(database, 2)
    export_audit(database, store, keep=KEEP)
    [info] = store.list("audit")
    lines = store.get_bytes(info.key).decode().splitlines(keepends=True)
    store.put_bytes(info.key.replace("-0000000002.", "-0000000001."), lines[0].encode())
    assert list(verify_audit(database, store)) == []  # as two exports at once leave it
    [_, entry] = audit.entries(database)
    other = dataclasses.replace(entry, details={"n": 7})
    for changed in (other, dataclasses.replace(other, entry_hash=other.expected_hash())):
        store.put_bytes(info.key.replace("0000000001-", "0000000002-"), f"{changed.to_json()}\n".encode())
        assert list(verify_audit(database, store)), changed


def files_of(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list("audit")]


def delete_last(store: ObjectStore) -> None:
    store.delete(files_of(store)[-1:])


def delete_middle(store: ObjectStore) -> None:
    store.delete(files_of(store)[1:2])


def delete_all(store: ObjectStore) -> None:
    store.delete(files_of(store))


def rename(store: ObjectStore, old: str, new: str) -> None:
    store.copy(old, new)
    store.delete([old])


def rename_to_other_entries(store: ObjectStore) -> None:
    last = files_of(store)[-1]
    rename(store, last, last.replace("-0000000006.", "-0000000008."))


def rename_to_another_day(store: ObjectStore) -> None:
    rename(store, files_of(store)[1], "audit/2020-02-02/" + files_of(store)[1].rsplit("/", 1)[1])


def rename_beyond_recognition(store: ObjectStore) -> None:
    rename(store, files_of(store)[-1], "audit/old.jsonl")


def swap(store: ObjectStore) -> None:
    first, second = files_of(store)[:2]
    contents = store.get_bytes(first), store.get_bytes(second)
    store.put_bytes(first, contents[1])
    store.put_bytes(second, contents[0])


def put_a_stale_copy_back(store: ObjectStore) -> None:
    last = files_of(store)[-1]
    store.put_bytes(last, b"".join(store.get_bytes(last).splitlines(keepends=True)[:1]))


def put_another_chain_there(store: ObjectStore) -> None:
    last = files_of(store)[-1]
    entries = [audit.AuditEntry.from_json(line) for line in store.get_bytes(last).decode().splitlines()]
    previous, lines = entries[0].previous, []
    for entry in entries:
        other = dataclasses.replace(entry, actor="nobody", previous=previous)
        lines.append(dataclasses.replace(other, entry_hash=other.expected_hash()).to_json())
        previous = other.expected_hash()
    store.put_bytes(last, "".join(f"{line}\n" for line in lines).encode())


@pytest.mark.parametrize(
    "done",
    [
        delete_last,
        delete_middle,
        delete_all,
        rename_to_other_entries,
        rename_to_another_day,
        rename_beyond_recognition,
        swap,
        put_a_stale_copy_back,
        put_another_chain_there,
    ],
)
def test_whatever_is_done_to_the_files_is_seen(
    database: Database, store: ObjectStore, done: Callable[[ObjectStore], None]
) -> None:
    for _ in range(3):
        record(database, 2)
        export_audit(database, store, keep=KEEP)
    assert len(files_of(store)) == 3
    assert list(verify_audit(database, store)) == []
    done(store)
    assert list(verify_audit(database, store))


def test_an_export_tells_of_a_deleted_end_before_it_writes_it_again(database: Database, store: ObjectStore) -> None:
    for _ in range(2):
        record(database, 2)
        assert export_audit(database, store, keep=KEEP).missing == 0
    before = {key: store.get_bytes(key) for key in files_of(store)}
    delete_last(store)
    gaps = export_gaps(database, store)
    assert (gaps.files, gaps.missing) == (1, 2)
    assert export_audit(database, store, keep=KEEP).missing == 2
    assert list(verify_audit(database, store)) == []
    assert [entry.details for entry in audit.entries(database) if entry.action == "audit.export_missing"] == [
        {"entries": 2}
    ]
    assert set(files_of(store)) > {files_of(store)[0]} <= set(before)
    assert export_audit(database, store, keep=KEEP).missing == 0


def test_a_name_behind_the_end_does_not_stop_the_export(database: Database, store: ObjectStore) -> None:
    store.put_bytes("audit/2026-03-01/0000000001-9999999999.jsonl", b"")
    record(database, 2)
    assert export_audit(database, store, keep=KEEP).entries == 2
    assert any("9999999999" in problem for problem in verify_audit(database, store))


def test_one_bad_file_hides_no_other_s_fault(database: Database, store: ObjectStore) -> None:
    for _ in range(3):
        record(database, 1)
        export_audit(database, store, keep=KEEP)
    first, _, last = files_of(store)
    store.put_bytes(first, b"no entry\n")
    store.put_bytes(last, store.get_bytes(last).replace(b'"n": 0', b'"n": 7'))
    found = list(verify_audit(database, store))
    assert any(first in problem for problem in found)
    assert "exported entry 3: changed; its hash is not that of what it says" in found


def test_how_far_it_was_exported_nobody_may_change(database: Database, store: ObjectStore) -> None:
    record(database, 1)
    export_audit(database, store, keep=KEEP)
    for statement in ("UPDATE cv.audit_exports SET seq = 0", "DELETE FROM cv.audit_exports"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"cv\.audit_exports is append-only"):
            database.at_once((statement, None))


def test_an_end_cut_off_is_seen_by_a_certificate_in_the_ledger(database: Database) -> None:
    record(database, 3)
    request = requests.receive(database, ErasureScope("clip", clip_id=uuid.uuid4()), reference="case 1", by="clerk")
    head = audit.head_of(database)
    document = Jsonb({"audit_head": {"seq": head.seq, "entry_hash": head.entry_hash}})
    with database.transaction() as connection:
        connection.execute(
            "UPDATE cv.erasures SET state = 'certified', decided_by = 'officer', certificate = %s"
            " WHERE request_id = %s",
            [document, request],
        )
    assert list(verify_audit(database, None)) == []
    forged(database, f"DELETE FROM cv.audit_log WHERE seq >= {head.seq}")
    assert any("cut off" in problem for problem in verify_audit(database, None))


def test_a_killed_export_is_gone_on_with(database: Database, store: ObjectStore) -> None:
    record(database, 3)
    with faults.plan(audit__exported="raise"), pytest.raises(faults.InjectedFault):
        export_audit(database, store, keep=KEEP)
    record(database, 1)
    assert export_audit(database, store, keep=KEEP).entries == 1
    assert list(verify_audit(database, store)) == []


def test_object_lock_keeps_what_was_exported(database: Database, s3_server: S3Server) -> None:
    bucket = f"{s3_server.bucket}-locked"
    client = s3_server.client()
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    store = ObjectStore(f"s3://{bucket}/cold", endpoint_url=s3_server.endpoint_url)
    record(database, 2)
    assert export_audit(database, store, keep=KEEP).locked
    [info] = store.list("audit")
    assert store.purge([info.key]).locked == 1
    assert list(verify_audit(database, store)) == []
