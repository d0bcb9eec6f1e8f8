"""The policy in force: adopted into the ledger, where every version that ever was stays to be read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta

from psycopg.types.json import Jsonb

from cv_platform.governance.audit import append
from cv_platform.governance.policy import Policy
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.sites import set_site
from cv_platform.storage.ledger.tiers import DataClass, count_older

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
    places = sorted(set(before.all_rules()) | set(after.all_rules()))
    found = []
    for place in places:
        site, _, camera = place.partition("/")
        key = (None, None) if place == "*" else (site, camera or None)
        old, new = before.rules_for(*key).keep, after.rules_for(*key).keep
        for data_class in SCHEDULED:
            was, will = getattr(old, data_class), getattr(new, data_class)
            if will < was:
                named = [p for p in places if p not in ("*", place)] if place == "*" else []
                items, size = count_older(
                    database, data_class, older_than=will, site=key[0], camera=key[1], except_places=named
                )
                found.append(Consequence(place, data_class, was, will, items, size))
    return found
