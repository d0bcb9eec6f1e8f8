"""What only S3 has: versions, and what Object Lock keeps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cv_platform.storage.object_info import Purged
from cv_platform.storage.objects import ObjectStore
from cv_platform_tests.conftest import S3Server


def test_a_purge_takes_every_version_and_says_what_a_lock_keeps(s3_server: S3Server) -> None:
    client = s3_server.client()
    bucket = f"{s3_server.bucket}-locked"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)  # versions come with it
    store = ObjectStore(f"s3://{bucket}", endpoint_url=s3_server.endpoint_url)
    for n in range(3):
        store.put_bytes("raw/x", b"%d" % n)
    store.delete(["raw/x"])
    store.put_bytes("raw/xy", b"stays")
    assert store.head("raw/x") is None
    assert store.present(["raw/x"]) == 3
    client.put_object_retention(
        Bucket=bucket,
        Key="raw/xy",
        VersionId=client.list_object_versions(Bucket=bucket, Prefix="raw/xy")["Versions"][0]["VersionId"],
        Retention={"Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(days=1)},
    )
    assert store.purge(["raw/x"]) == Purged(1, 3, 0)
    assert store.present(["raw/x"]) == 0
    assert store.purge(["raw/xy"]) == Purged(0, 0, 1)
    assert store.get_bytes("raw/xy") == b"stays"


def test_where_versions_are_kept_that_content_goes_with_all_of_them(s3_server: S3Server) -> None:
    s3 = s3_server.client()
    s3.put_bucket_versioning(Bucket=s3_server.bucket, VersioningConfiguration={"Status": "Enabled"})
    store = ObjectStore(f"s3://{s3_server.bucket}", endpoint_url=s3_server.endpoint_url)
    for data in (b"other", b"faces", b"faces"):
        store.put_bytes("raw/x", data)
    store.put_bytes("raw/xy", b"faces")
    head = store.head("raw/x")
    assert head is not None
    assert store.delete_unchanged("raw/x", head.etag)
    left = s3.list_object_versions(Bucket=s3_server.bucket)["Versions"]
    assert sorted((entry["Key"], entry["Size"]) for entry in left) == [("raw/x", 5), ("raw/xy", 5)]
    assert store.get_bytes("raw/x") == b"other"
