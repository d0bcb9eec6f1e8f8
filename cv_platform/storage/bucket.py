"""What is S3's own, by boto3: versions, Object Lock, deletion on a condition, unfinished uploads, keys of any form."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cv_platform.storage.object_info import ObjectInfo, Purged, etag_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Bucket:
    """A bucket, or what lies under a prefix of it; keys are told without that prefix.

    Args:
        name: of the bucket.
        prefix: what stands before every key, without slashes at its ends; may be empty.
        options: for boto3's client, which is made at first use.
    """

    def __init__(self, name: str, prefix: str, options: dict[str, Any]) -> None:
        self.name = name
        self.base = f"{prefix}/" if prefix else ""
        self._options = options
        self._boto3: S3Client | None = None

    def client(self) -> S3Client:
        """boto3's client."""
        if self._boto3 is None:
            import boto3

            self._boto3 = boto3.client("s3", **self._options)
        return self._boto3

    def whole(self, key: str) -> str:
        """The key as the bucket has it."""
        return f"{self.base}{key}"

    def put_locked(self, key: str, data: bytes, *, until: datetime) -> bool:
        """Store bytes under Object Lock (COMPLIANCE); False, and nothing is stored, where the bucket has none."""
        if not self._has_object_lock():
            return False
        self.client().put_object(
            Bucket=self.name,
            Key=self.whole(key),
            Body=data,
            ChecksumAlgorithm="SHA256",
            ObjectLockMode="COMPLIANCE",
            ObjectLockRetainUntilDate=until,
        )
        return True

    def _has_object_lock(self) -> bool:
        try:
            found = self.client().get_object_lock_configuration(Bucket=self.name)
        except Exception as error:
            if _error_code(error) in ("ObjectLockConfigurationNotFoundError", "AccessDenied", "NoSuchBucket"):
                return False
            raise
        return found["ObjectLockConfiguration"].get("ObjectLockEnabled") == "Enabled"

    def delete(self, key: str) -> None:
        """Delete an object, whatever its key looks like."""
        self.client().delete_object(Bucket=self.name, Key=self.whole(key))

    def delete_unchanged(self, key: str, etag: str) -> bool:
        """Delete the content with that etag; returns whether it is gone. See `ObjectStore.delete_unchanged`."""
        client, key = self.client(), self.whole(key)
        versions = self._versions_of(key, etag)
        for version in versions:
            client.delete_object(Bucket=self.name, Key=key, VersionId=version)
        if versions:
            return True
        try:
            client.delete_object(Bucket=self.name, Key=key, IfMatch=f'"{etag}"')
        except Exception as error:
            if _error_code(error) == "PreconditionFailed":
                return False
            if _error_code(error) != "NotImplemented":
                raise
            client.delete_object(Bucket=self.name, Key=key)
        return True

    def _versions_of(self, key: str, etag: str) -> list[str]:
        """Ids of the versions of one content; none where the bucket keeps no versions, or does not let us see them."""
        found = []
        try:
            pages = self.client().get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=key)
            for page in pages:
                for entry in page.get("Versions", []):
                    if entry["Key"] == key and etag_of(entry["ETag"]) == etag and entry["VersionId"] != "null":
                        found.append(entry["VersionId"])
        except Exception as error:
            if _error_code(error) not in ("AccessDenied", "NotImplemented"):
                raise
        return found

    def purge(self, key: str) -> Purged:
        """Delete every version and marker under a key, or a prefix that ends in `/`; counts what a lock keeps."""
        names, versions, locked = set(), 0, 0
        for name, version, marker in list(self.versions(key)):
            try:
                self.client().delete_object(Bucket=self.name, Key=name, VersionId=version)
            except Exception as error:
                if _error_code(error) not in ("AccessDenied", "InvalidRequest"):
                    raise
                locked += 1
                continue
            if not marker:
                names.add(name)
                versions += 1
        return Purged(len(names), versions, locked)

    def versions(self, key: str) -> Iterator[tuple[str, str, bool]]:
        """Every version in the bucket: whole key, version id, whether it is a delete marker."""
        whole = self.whole(key)
        pages = self.client().get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=whole)
        for page in pages:
            entries = [(entry, False) for entry in page.get("Versions", [])]
            entries += [(entry, True) for entry in page.get("DeleteMarkers", [])]  # type: ignore[misc]
            for entry, marker in entries:
                if key.endswith("/") or entry["Key"] == whole:
                    yield entry["Key"], entry["VersionId"], marker

    def sweep(self, prefix: str, before: datetime) -> int:
        """End uploads under the folder `prefix` that began before a moment; returns how many."""
        pages = self.client().get_paginator("list_multipart_uploads")
        swept = 0
        for page in pages.paginate(Bucket=self.name, Prefix=f"{self.base}{prefix.strip('/')}/"):
            for upload in page.get("Uploads", []):
                if upload["Initiated"] < before:
                    self.client().abort_multipart_upload(
                        Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    swept += 1
        return swept

    def list(self, prefix: str, *, after: str | None, chunk_size: int) -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`."""
        pages = (
            self.client()
            .get_paginator("list_objects_v2")
            .paginate(
                Bucket=self.name,
                Prefix=f"{self.base}{prefix.strip('/')}/",
                StartAfter="" if after is None else self.base + after,
                PaginationConfig={"PageSize": chunk_size},
            )
        )
        for page in pages:
            for entry in page.get("Contents", []):
                yield ObjectInfo(
                    entry["Key"].removeprefix(self.base), entry["Size"], etag_of(entry["ETag"]), entry["LastModified"]
                )


def _error_code(error: Exception) -> str | None:
    """What S3 calls an error; None for one that is not S3's."""
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None
