"""The exported chain tells of what was done to the table, and the table of what was done to the export."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb

from cv_platform import faults
from cv_platform.governance import audit
from cv_platform.governance.audit_export import export_audit, exported_entries, verify_audit
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


def forged(database: Database, statement: str) -> None:
    """Change the table as somebody could who owns it."""
    with database.transaction() as connection:
        connection.execute("ALTER TABLE cv.audit_log DISABLE TRIGGER USER")
        connection.execute(statement)
        connection.execute("ALTER TABLE cv.audit_log ENABLE ALWAYS TRIGGER audit_log_rows")


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
    assert list(verify_audit(database, None)) == []  # in itself it is sound
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
