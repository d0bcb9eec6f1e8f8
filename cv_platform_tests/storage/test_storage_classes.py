"""Lifecycle rules: put beside others', put once, and S3 asked whether it followed them. No rule deletes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cv_platform.storage.objects import ObjectStore
from cv_platform.storage.storage_classes import RULES, keep_storage_classes
from cv_platform_tests.conftest import S3Server

MONTHS = datetime.now(UTC) + timedelta(days=120)


def test_rules_are_put_beside_others_and_s3_is_asked(s3_server: S3Server) -> None:
    client = s3_server.client()
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 9}}
    client.put_bucket_lifecycle_configuration(Bucket=s3_server.bucket, LifecycleConfiguration={"Rules": [theirs]})
    store = ObjectStore(f"s3://{s3_server.bucket}/cold", endpoint_url=s3_server.endpoint_url)
    assert keep_storage_classes(store).changed
    assert not keep_storage_classes(store).changed
    rules = client.get_bucket_lifecycle_configuration(Bucket=s3_server.bucket)["Rules"]
    assert {rule["ID"] for rule in rules} == {"theirs", *(f"cv-platform-{prefix}" for prefix, _, _ in RULES)}
    assert not any("Expiration" in rule for rule in rules if rule["ID"] != "theirs")
    body = bytes(200_000)
    client.put_object(Bucket=s3_server.bucket, Key="cold/blurred/a", Body=body)
    client.put_object(Bucket=s3_server.bucket, Key="cold/blurred/b", Body=body, StorageClass="STANDARD_IA")
    client.put_object(Bucket=s3_server.bucket, Key="cold/blurred/small", Body=b"x")
    assert keep_storage_classes(store).looked_at == 0  # nothing is due yet
    found = keep_storage_classes(store, now=MONTHS)
    assert (found.looked_at, found.late) == (2, 1)
    assert found.told() == {"storage classes": "S3 moved 1 of 2 objects that are due"}


def test_a_folder_has_none(tmp_path: Path) -> None:
    assert not keep_storage_classes(ObjectStore(tmp_path.as_uri())).s3
