"""Cheaper storage for what is kept for years: lifecycle rules of S3, and whether S3 followed them.

Only classes change here. No rule of the platform's expires an object, and none of anybody else's may: S3 knows no hold.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cv_platform.storage.database import Database
from cv_platform.storage.ledger.class_walks import ClassWalk, class_walk, note_class_walk
from cv_platform.storage.lifecycle_rules import AT_REST, alike, harms
from cv_platform.storage.objects import ObjectStore

_OURS: Final = "cv-platform-"
# Prefix of the cold store, days, storage class. Parquet and published clips are read at once when they are asked for.
RULES: Final = (
    ("blurred", 30, "STANDARD_IA"),
    ("detections", 30, "STANDARD_IA"),
    ("warehouse", 30, "STANDARD_IA"),
    ("audit", 90, "STANDARD_IA"),
)
# All that the platform writes: each may be held.
COLD_PREFIXES: Final = ("staging", "blurred", "detections", "warehouse", "audit", "previews")
RESTRICTED_PREFIXES: Final = ("raw", "vault", "frames")
_A_RUN: Final = 10_000
"""Objects of a prefix that one run looks at."""
_GRACE: Final = timedelta(days=2)
"""S3 follows its rules once a day."""
_SMALLEST: Final = 128 * 1024
"""S3 leaves smaller objects where they are."""


@dataclass(frozen=True)
class StorageClasses:
    """What was put and found.

    Attributes:
        s3: whether the cold store is on S3; nothing is told of its classes where it is not.
        changed: whether rules had to be put.
        due: objects past their rule's day that the walks under way, or just through, have looked at.
        late: of these, still in the class in which they were written.
        elsewhere: of these, in a class that is neither that nor the rule's.
        at_rest: objects of any age in a class from which they cannot be read at once.
        through: whether every walk has come to its end.
        alarms: one line for each thing that a person must put right.
        unknown: why a bucket does not tell its rules or take ours; None where both do.
    """

    s3: bool
    changed: bool = False
    due: int = 0
    late: int = 0
    elsewhere: int = 0
    at_rest: int = 0
    through: bool = True
    alarms: list[str] = field(default_factory=list)
    unknown: str | None = None

    def told(self) -> dict[str, Any]:
        """For people."""
        told = {} if self.unknown is None else {"lifecycle rules": self.unknown}
        if not self.s3:
            return {"storage classes": "no S3: objects stay where they are", **told}
        moved = self.due - self.late - self.elsewhere
        said = f"S3 moved {moved} of {self.due} objects that are due"
        said += f", {self.elsewhere} lie in another class" if self.elsewhere else ""
        said += ", rules were put now" if self.changed else ""
        said += "" if self.through else "; the rest is looked at by the next runs"
        return {"storage classes": said, **told}


def keep_storage_classes(
    database: Database,
    cold: ObjectStore,
    restricted: ObjectStore,
    *,
    now: datetime | None = None,
    at_most: int = _A_RUN,
) -> StorageClasses:
    """Put the platform's rules where they are missing, beside those of others, and see whether S3 followed them.

    Others' rules are never changed; one that deletes what the platform keeps, in either store, is an alarm.

    Args:
        at_most: objects of a prefix that are looked at; the next call goes on behind them.
    """
    now = now or datetime.now(UTC)
    alarms, unknown = _dangers((cold, COLD_PREFIXES), (restricted, RESTRICTED_PREFIXES))
    if cold.folder is not None:
        return StorageClasses(s3=False, alarms=alarms, unknown=unknown)
    client, bucket, base = cold.bucket()
    try:
        changed = _put_rules(client, bucket, base)
    except client.exceptions.ClientError as error:
        changed, unknown = False, _refusal(error, bucket)
    walks = [
        _look(database, client, bucket, f"{base}{prefix}/", timedelta(days=days), wanted, changed, now, at_most)
        for prefix, days, wanted in RULES
    ]
    at_rest = sum(walk.at_rest for walk in walks)
    if at_rest:
        alarms.append(
            f"{at_rest} objects of bucket {bucket} lie in {' or '.join(sorted(AT_REST))}: neither a request for access"
            " nor an erasure can read them; restore them, and copy them to STANDARD_IA"
        )
    return StorageClasses(
        s3=True,
        changed=changed,
        due=sum(walk.due for walk in walks),
        late=sum(walk.late for walk in walks),
        elsewhere=sum(walk.elsewhere for walk in walks),
        at_rest=at_rest,
        through=not any(walk.after for walk in walks),
        alarms=alarms,
        unknown=unknown,
    )


def _put_rules(client: Any, bucket: str, base: str) -> bool:
    """Whether rules of ours were missing, too many, or not as they should be; then they are put."""
    wanted = [_rule(base, *rule) for rule in RULES]
    there, more = _rules(client, bucket)
    ours = [rule for rule in there if str(rule.get("ID", "")).startswith(_OURS)]
    if alike(ours, wanted):
        return False
    others = [rule for rule in there if rule not in ours]
    rules: Any = [*others, *wanted]
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules}, **more)
    return True


def _dangers(*stores: tuple[ObjectStore, tuple[str, ...]]) -> tuple[list[str], str | None]:
    """Rules of the stores' buckets that would delete what the platform keeps, and why a bucket does not tell its rules.

    Args:
        stores: each with the prefixes under which the platform writes there; they may share a bucket.
    """
    clients: dict[str, Any] = {}
    prefixes: dict[str, list[str]] = defaultdict(list)
    for store, written in stores:
        if store.folder is None:
            client, bucket, base = store.bucket()
            clients.setdefault(bucket, client)
            prefixes[bucket] += [f"{base}{prefix}/" for prefix in written]
    lines: list[str] = []
    unknown = None
    for bucket, client in clients.items():
        try:
            rules, _ = _rules(client, bucket)
        except client.exceptions.ClientError as error:
            unknown = _refusal(error, bucket)
        else:
            lines += harms(rules, bucket=bucket, prefixes=prefixes[bucket])
    return lines, unknown


def _look(
    database: Database,
    client: Any,
    bucket: str,
    prefix: str,
    age: timedelta,
    wanted: str,
    changed: bool,
    now: datetime,
    at_most: int,
) -> ClassWalk:
    """Look at the classes of the next objects under a prefix; the walk as far as it has come then."""
    with database.transaction() as connection:
        walk = class_walk(connection, f"{bucket}/{prefix}", now=now)
    walk = replace(walk, rules_since=now) if changed else walk
    if not walk.after:
        walk = ClassWalk(walk.place, walk.rules_since)
    # Objects that are due count only where S3 had time to follow the rules that stand there now.
    followed = walk.rules_since + _GRACE < now
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=prefix, StartAfter=walk.after, PaginationConfig={"MaxItems": at_most}
    )
    seen, last, found = 0, "", Counter[str]()
    for page in pages:
        for entry in page.get("Contents", []):
            seen, last = seen + 1, entry["Key"]
            lies_in = entry.get("StorageClass", "STANDARD")
            found["at_rest"] += lies_in in AT_REST
            if followed and entry["LastModified"] < now - age - _GRACE and entry["Size"] >= _SMALLEST:
                found["due"] += 1
                found["late"] += lies_in == "STANDARD"
                found["elsewhere"] += lies_in not in ("STANDARD", wanted)
    walk = replace(
        walk,
        after=last if seen == at_most else "",
        **{name: getattr(walk, name) + found[name] for name in ("due", "late", "elsewhere", "at_rest")},
    )
    with database.transaction() as connection:
        note_class_walk(connection, walk)
    return walk


def _rule(base: str, prefix: str, days: int, storage_class: str) -> dict[str, Any]:
    return {
        "ID": f"{_OURS}{prefix}",
        "Status": "Enabled",
        "Filter": {"Prefix": f"{base}{prefix}/"},
        "Transitions": [{"Days": days, "StorageClass": storage_class}],
    }


def _rules(client: Any, bucket: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A bucket's rules, and what stands beside them and must be put with them: else S3 forgets it."""
    try:
        found = client.get_bucket_lifecycle_configuration(Bucket=bucket)
    except client.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
        return [], {}
    name = "TransitionDefaultMinimumObjectSize"
    return list(found["Rules"]), {name: found[name]} if found.get(name) else {}


def _refusal(error: Any, bucket: str) -> str:
    """What a store says that will not do it however often it is asked. Raises the error where it is another."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if not (400 <= status < 500 or status == 501):
        raise error
    return (
        f"bucket {bucket} does not let the platform see and keep lifecycle rules: it says"
        f" {error.response['Error'].get('Code')};"
        " allow s3:GetLifecycleConfiguration and s3:PutLifecycleConfiguration, or look after them yourself"
    )
