"""Revoking a model: from that moment nothing that it hid stands published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cv_platform import faults
from cv_platform.governance.audit import append
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.revocation import note_revoked, published_with, take_back

_PAGE = 500


@dataclass(frozen=True)
class Revoked:
    """What a revocation did: clips that are blurred anew, and clips that cannot be and are quarantined."""

    again: int
    quarantined: int


def revoke_models(
    database: Database,
    models: Iterable[str],
    *,
    reason: str,
    by: str,
    progress: Callable[[int], None] = lambda done: None,
) -> Revoked:
    """Revoke models, and take back every clip that was published with one of them. Killed, it is run again.

    Args:
        models: as NAME@DIGEST, the first twelve digits of the file's sha256.
        progress: told how many clips were taken back.

    Raises:
        ValueError: reason or by is empty.
    """
    if not reason.strip() or not by.strip():
        raise ValueError("a revocation needs a reason and the name of who revokes")
    wanted = sorted(set(models))
    with database.transaction() as connection:
        # Publications under way end before this, and are found below; later ones meet it and are dropped.
        if new := note_revoked(connection, wanted, reason=reason, by=by):
            append(connection, actor=by, action="models.revoked", details={"models": new, "reason": reason})
    faults.point("revocation.noted")
    done: Counter[str] = Counter()
    while clips := published_with(database, wanted, limit=_PAGE):
        for clip_id in clips:
            done[take_back(database, clip_id, wanted)] += 1
            faults.point("revocation.taken_back")
            progress(done.total())
    return Revoked(done["again"], done["quarantined"])
