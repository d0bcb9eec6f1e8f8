"""Lifecycle rules: put beside others', put once, and S3 asked whether it followed them. None may delete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cv_platform.storage.database import Database
from cv_platform.storage.objects import ObjectStore
from cv_platform.storage.storage_classes import RULES, StorageClasses, keep_storage_classes
from cv_platform_tests.conftest import S3Server

MONTHS = datetime.now(UTC) + timedelta(days=120)
LARGE = bytes(200_000)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def keep(database: Database, s3_server: S3Server) -> Callable[..., StorageClasses]:
    """Rules kept in this test's buckets."""
    cold = ObjectStore(f"s3://{s3_server.bucket}/cold", endpoint_url=s3_server.endpoint_url)
    restricted = ObjectStore(f"s3://{s3_server.restricted_bucket}", endpoint_url=s3_server.endpoint_url)
    return lambda **more: keep_storage_classes(database, cold, restricted, **more)


def put(server: S3Server, key: str, storage_class: str = "STANDARD", body: bytes = LARGE) -> None:
    server.client().put_object(Bucket=server.bucket, Key=key, Body=body, StorageClass=storage_class)


def put_rules(server: S3Server, bucket: str, *rules: dict[str, Any], **more: Any) -> None:
    server.client().put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [{"ID": f"theirs {n}", "Status": "Enabled", **rule} for n, rule in enumerate(rules)]
        },
        **more,
    )


def rules_of(server: S3Server) -> dict[str, Any]:
    found = server.client().get_bucket_lifecycle_configuration(Bucket=server.bucket)["Rules"]
    return {rule["ID"]: rule for rule in found}


def test_rules_are_put_beside_others(s3_server: S3Server, keep: Callable[..., StorageClasses]) -> None:
    put_rules(s3_server, s3_server.bucket, {"Filter": {"Prefix": "x/"}, "Expiration": {"Days": 9}})
    found = keep()
    assert (found.changed, found.alarms) == (True, [])
    assert not keep().changed
    assert set(rules_of(s3_server)) == {"theirs 0", *(f"cv-platform-{prefix}" for prefix, _, _ in RULES)}
    assert {rule["Filter"]["Prefix"] for rule in rules_of(s3_server).values()} == {
        "x/",
        "cold/blurred/",
        "cold/detections/",
        "cold/warehouse/",
        "cold/audit/",
    }
    assert not any("Expiration" in rule for name, rule in rules_of(s3_server).items() if name != "theirs 0")


def test_a_rule_of_ours_that_somebody_made_expire_is_put_right(
    s3_server: S3Server, keep: Callable[..., StorageClasses]
) -> None:
    keep()
    rules = list(rules_of(s3_server).values())
    rules[0]["Expiration"] = {"Days": 1}
    s3_server.client().put_bucket_lifecycle_configuration(
        Bucket=s3_server.bucket, LifecycleConfiguration={"Rules": rules}
    )
    assert keep().changed
    assert not any("Expiration" in rule for rule in rules_of(s3_server).values())


def test_s3_is_asked_whether_it_followed(s3_server: S3Server, keep: Callable[..., StorageClasses]) -> None:
    keep()
    for prefix in ("blurred", "warehouse/detections"):
        put(s3_server, f"cold/{prefix}/late")
        put(s3_server, f"cold/{prefix}/moved", "STANDARD_IA")
        put(s3_server, f"cold/{prefix}/other", "ONEZONE_IA")
        put(s3_server, f"cold/{prefix}/small", body=b"x")
    assert keep().due == 0  # nothing is due yet
    found = keep(now=MONTHS)
    assert (found.due, found.late, found.elsewhere, found.alarms) == (6, 2, 2, [])
    assert found.told() == {"storage classes": "S3 moved 2 of 6 objects that are due, 2 lie in another class"}


def test_rules_that_were_just_put_have_two_days(s3_server: S3Server, keep: Callable[..., StorageClasses]) -> None:
    put(s3_server, "cold/blurred/late")
    assert keep(now=MONTHS).due == 0
    assert keep(now=MONTHS + timedelta(days=1)).due == 0
    assert keep(now=MONTHS + timedelta(days=3)).late == 1


def test_the_look_goes_on_where_the_last_run_stopped(s3_server: S3Server, keep: Callable[..., StorageClasses]) -> None:
    keep()
    for n in range(5):
        put(s3_server, f"cold/blurred/{n}", "STANDARD" if n == 4 else "STANDARD_IA")
    found = [keep(now=MONTHS, at_most=2) for _ in range(5)]
    assert [(one.due, one.late, one.through) for one in found] == [
        (2, 0, False),
        (4, 0, False),
        (5, 1, True),
        (2, 0, False),  # from the beginning again
        (4, 0, False),
    ]
    assert "the rest" in found[0].told()["storage classes"]


def test_objects_that_cannot_be_read_at_once_are_an_alarm(
    s3_server: S3Server, keep: Callable[..., StorageClasses]
) -> None:
    put(s3_server, "cold/audit/x", "GLACIER")
    [alarm] = keep().alarms
    assert "1 objects" in alarm
    assert "restore" in alarm


@pytest.mark.parametrize("given", [{"Filter": {}}, {"Filter": {"Prefix": "cold/ware"}}, {"Prefix": ""}])
def test_a_rule_of_others_that_deletes_what_may_be_held_is_an_alarm(
    s3_server: S3Server, keep: Callable[..., StorageClasses], given: dict[str, Any]
) -> None:
    put_rules(s3_server, s3_server.bucket, {**given, "Expiration": {"Days": 9}})
    [alarm] = keep().alarms
    assert "'theirs 0'" in alarm
    assert "cold/warehouse/" in alarm
    assert "theirs 0" in rules_of(s3_server)  # it is not ours to change


def test_rules_of_the_restricted_bucket_are_looked_at_too(
    s3_server: S3Server, keep: Callable[..., StorageClasses]
) -> None:
    expiring = {"Filter": {"Prefix": "raw/"}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}
    put_rules(s3_server, s3_server.restricted_bucket, expiring)
    [alarm] = keep().alarms
    assert s3_server.restricted_bucket in alarm


def test_a_store_without_lifecycle_rules_is_said_and_stops_nothing(
    database: Database, s3_server: S3Server, tmp_path: Path
) -> None:
    refused = ObjectStore("s3://no-such-bucket", endpoint_url=s3_server.endpoint_url)
    found = keep_storage_classes(database, ObjectStore(tmp_path.as_uri()), refused)
    assert not found.s3
    assert "NoSuchBucket" in found.told()["lifecycle rules"]


def test_a_folder_has_none(database: Database, tmp_path: Path) -> None:
    store = ObjectStore(tmp_path.as_uri())
    assert keep_storage_classes(database, store, store) == StorageClasses(s3=False)
