"""Quotas: the most bytes that the deployment, or one site, may hold in a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cv_platform.governance.policy import Policy
from cv_platform.storage.ledger.usage import StoreName


@dataclass(frozen=True)
class StoreQuota:
    """One limit.

    Attributes:
        place: what it is told by: a site, or `the deployment`.
        site: None: all sites together.
    """

    place: str
    site: str | None
    store: StoreName
    bytes: int


def quotas(policy: Policy) -> Iterator[StoreQuota]:
    """The policy's limits, the sites' before the deployment's."""
    stores: tuple[StoreName, ...] = ("restricted", "cold")
    for name, site in sorted(policy.sites.items()):
        for store in stores:
            if (limit := getattr(site.quota, store)) is not None:
                yield StoreQuota(name, name, store, limit)
    for store in stores:
        if (limit := getattr(policy.quota, store)) is not None:
            yield StoreQuota("the deployment", None, store, limit)
