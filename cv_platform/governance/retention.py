"""What the policy's terms mean for the ledger: which clips' data of a class goes when, place by place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from cv_platform.governance.policy import Policy
from cv_platform.storage.ledger.tiers import DataClass, Places

EVERYWHERE = "*"


@dataclass(frozen=True)
class Term:
    """How long one place keeps one class of data.

    Attributes:
        place: `site`, `site/camera`, or `*` for what has no rules of its own.
        early: raw clips and frames go as soon as nothing reads them: the camera films passers-by.
    """

    place: str
    data_class: DataClass
    older_than: timedelta
    places: Places
    early: bool


def terms(policy: Policy, data_class: DataClass) -> Iterator[Term]:
    """Each place's term; no clip is in two of them."""
    rules = policy.all_rules()
    for place, where in divide(rules).items():
        early = rules[place].public_area and data_class in ("raw", "frames")
        yield Term(place, data_class, getattr(rules[place].keep, data_class), where, early)


def divide(places: Iterable[str]) -> dict[str, Places]:
    """The clips that belong to each place: the most exact one that names them."""
    named = sorted(set(places) - {EVERYWHERE})
    found = {EVERYWHERE: Places(without=tuple(named))}
    for place in named:
        site, _, camera = place.partition("/")
        inner = tuple(other for other in named if other.startswith(f"{site}/")) if not camera else ()
        found[place] = Places(site=site, camera=camera or None, without=inner)
    return found
