"""Cheaper storage for what is kept for years: lifecycle rules of S3, and whether S3 followed them.

Only classes change here. No rule expires an object: S3 knows no hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

from cv_platform.storage.objects import ObjectStore

_OURS: Final = "cv-platform-"
# Prefix of the cold store, days, storage class. Parquet and published clips are read at once when they are asked for.
RULES: Final = (("blurred", 30, "STANDARD_IA"), ("detections", 30, "STANDARD_IA"), ("audit", 90, "STANDARD_IA"))
_SAMPLE: Final = 10_000
_GRACE: Final = timedelta(days=2)
"""S3 follows its rules once a day."""


@dataclass(frozen=True)
class StorageClasses:
    """What was put and found.

    Attributes:
        s3: whether the cold store is on S3; nothing else is told where it is not.
        changed: whether rules had to be put.
        looked_at: objects past their rule's day, of at most a sample.
        late: of these, still in the class in which they were written.
    """

    s3: bool
    changed: bool = False
    looked_at: int = 0
    late: int = 0

    def told(self) -> dict[str, Any]:
        """For people."""
        if not self.s3:
            return {"storage classes": "no S3: objects stay where they are"}
        moved = self.looked_at - self.late
        put = ", rules were put now" if self.changed else ""
        return {"storage classes": f"S3 moved {moved} of {self.looked_at} objects that are due{put}"}


def keep_storage_classes(store: ObjectStore, *, now: datetime | None = None) -> StorageClasses:
    """Put the platform's rules where they are missing, beside those of others, and see whether S3 followed them."""
    if store.folder is not None:
        return StorageClasses(s3=False)
    client, bucket, base = store.bucket()
    wanted = [_rule(base, *rule) for rule in RULES]
    there = _rules(client, bucket)
    others = [rule for rule in there if not str(rule.get("ID", "")).startswith(_OURS)]
    ours = [rule for rule in there if str(rule.get("ID", "")).startswith(_OURS)]
    changed = sorted(map(_essence, ours)) != sorted(map(_essence, wanted))
    if changed:
        rules: Any = [*others, *wanted]
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
    looked_at = late = 0
    for prefix, days, _ in RULES:
        due = (now or datetime.now(UTC)) - timedelta(days=days) - _GRACE
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{base}{prefix}/")
        for entry in islice((entry for page in pages for entry in page.get("Contents", [])), _SAMPLE):
            # S3 leaves objects under 128 KiB where they are.
            if entry["LastModified"] < due and entry["Size"] >= 128 * 1024:
                looked_at += 1
                late += entry.get("StorageClass", "STANDARD") == "STANDARD"
    return StorageClasses(True, changed, looked_at, late)


def _rule(base: str, prefix: str, days: int, storage_class: str) -> dict[str, Any]:
    return {
        "ID": f"{_OURS}{prefix}",
        "Status": "Enabled",
        "Filter": {"Prefix": f"{base}{prefix}/"},
        "Transitions": [{"Days": days, "StorageClass": storage_class}],
    }


def _rules(client: Any, bucket: str) -> list[dict[str, Any]]:
    try:
        return list(client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"])
    except client.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
        return []


def _essence(rule: dict[str, Any]) -> str:
    transitions = [(t.get("Days"), t.get("StorageClass")) for t in rule.get("Transitions", [])]
    return repr((rule.get("ID"), rule.get("Status"), rule.get("Filter", {}).get("Prefix"), transitions))
