"""The policy in force: adopted into the ledger, where every version that ever was stays to be read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta

from psycopg.types.json import Jsonb

from cv_platform.governance.audit import append
from cv_platform.governance.policy import Policy
from cv_platform.governance.quotas import quotas
from cv_platform.governance.retention import EVERYWHERE, divide
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.sites import set_site
from cv_platform.storage.ledger.tiers import DataClass, count_older
from cv_platform.storage.ledger.usage import count_oldest, used_bytes

SCHEDULED: tuple[DataClass, ...] = ("raw", "frames", "quarantine", "warm", "cold")


@dataclass(frozen=True)
class Consequence:
    """What a change of policy would delete that the policy in force still keeps."""

    place: str
    data_class: str
    before: timedelta
    after: timedelta
    items: int
    bytes: int | None


@dataclass(frozen=True)
class QuotaConsequence:
    """What a quota that is new or lower would delete, over what terms do.

    Attributes:
        before, after: bytes that are allowed; `before` is None where there was no quota.
        items, bytes: the oldest that no hold covers, as much as the place is over.
        held_bytes: by which it would stay over, since the rest is held.
    """

    place: str
    store: str
    before: int | None
    after: int
    items: int
    bytes: int
    held_bytes: int


def adopted_digest(database: Database) -> str | None:
    """Digest of the policy in force, or None before the first."""
    with database.transaction() as connection:
        row = connection.execute("SELECT digest FROM cv.policies ORDER BY adopted_at DESC LIMIT 1").fetchone()
    return None if row is None else str(row[0])


def adopt_policy(database: Database, policy: Policy, *, actor: str) -> bool:
    """Put a policy into force; False where it is already. Sites' time zones and controllers follow it."""
    if adopted_digest(database) == policy.digest:
        return False
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO cv.policies (digest, rules) VALUES (%s, %s)"
            " ON CONFLICT (digest) DO UPDATE SET adopted_at = clock_timestamp()",
            [policy.digest, Jsonb(json.loads(policy.canonical()))],
        )
        for name, site in sorted(policy.sites.items()):
            set_site(connection, name, time_zone=site.time_zone, controller=site.controller)
        append(connection, actor=actor, action="policy.adopted", details={"digest": policy.digest})
    return True


def consequences(database: Database, before: Policy, after: Policy) -> list[Consequence]:
    """What would be deleted at once if `after` followed `before`: shown before it is."""
    found = []
    for place, where in sorted(divide([*before.all_rules(), *after.all_rules()]).items()):
        site, _, camera = place.partition("/")
        key = (None, None) if place == EVERYWHERE else (site, camera or None)
        was_ruled, will_rule = before.rules_for(*key), after.rules_for(*key)
        for data_class in SCHEDULED:
            was, will = getattr(was_ruled.keep, data_class), getattr(will_rule.keep, data_class)
            early = will_rule.public_area and data_class in ("raw", "frames")
            if will < was or (early and not was_ruled.public_area):
                items, size = count_older(database, data_class, older_than=will, places=where, early=early)
                found.append(Consequence(place, data_class, was, will, items, size))
    return found


def quota_consequences(database: Database, before: Policy, after: Policy) -> list[QuotaConsequence]:
    """What would be deleted at once for a quota's sake if `after` followed `before`."""
    was = {(quota.site, quota.store): quota.bytes for quota in quotas(before)}
    found = []
    for quota in quotas(after):
        allowed = was.get((quota.site, quota.store))
        if allowed is not None and quota.bytes >= allowed:
            continue
        over = used_bytes(database, quota.store, site=quota.site) - quota.bytes
        if over > 0:
            items, size = count_oldest(database, quota.store, site=quota.site, at_least_bytes=over)
            found.append(
                QuotaConsequence(quota.place, quota.store, allowed, quota.bytes, items, size, max(0, over - size))
            )
    return found
