"""reconcile: ledger and store compared both ways, side by side in order of key: memory grows with neither."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from cv_platform import faults
from cv_platform.governance.audit import record
from cv_platform.pipeline.keys import RAW_PREFIX
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.publishing import publish_due
from cv_platform.storage.ledger.expected import (
    FOLDERS,
    Expected,
    discard_orphan,
    discard_upload,
    expected_objects,
    redo_missing,
    spent_uploads,
)
from cv_platform.storage.ledger.model import Scope
from cv_platform.storage.objects import ObjectStore

ACTOR: Final = "reconcile"
GRACE_S: Final = 86_400.0
"""An object younger than a day may be in the hands of a worker that has not told the ledger yet."""
_CHUNK: Final = 1000


@dataclass
class ReconcileReport:
    """What one comparison found: counts only.

    Attributes:
        looked_at: objects.
        orphans: that nothing points at, left to the collector; by folder.
        missing: that the ledger points at and the store has not; by folder.
        again: missing objects that are made or copied again.
        quarantined: clips that cannot go on without what is missing.
        lost: missing objects that cannot be made again.
    """

    looked_at: int = 0
    orphans: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    again: int = 0
    quarantined: int = 0
    lost: int = 0

    def counts(self) -> dict[str, int]:
        """All that is counted."""
        return {
            "looked at": self.looked_at,
            **{f"orphans in {name}": count for name, count in self.orphans.items()},
            **{f"missing in {name}": count for name, count in self.missing.items()},
            "made again": self.again,
            "quarantined": self.quarantined,
            "lost": self.lost,
        }


def reconcile(platform: Platform, *, grace_s: float = GRACE_S) -> ReconcileReport:
    """Compare every folder of both stores with the ledger; repair what can be, report the rest.

    Args:
        grace_s: an object younger than this is no orphan, seconds.
    """
    report = ReconcileReport()
    before = datetime.now(UTC) - timedelta(seconds=grace_s)
    for folder in FOLDERS:
        _compare(platform, folder, before, report)
    _compare_uploads(platform, before, report)
    publish_due(platform, Scope())
    faults.point("reconcile.published")
    record(platform.database, actor=ACTOR, action="stores.compared", details={"counts": report.counts()})
    return report


def _compare(platform: Platform, folder: str, before: datetime, report: ReconcileReport) -> None:
    """Walk listing and ledger side by side: both are in order of key."""
    store = _store(platform, folder)
    with expected_objects(platform.database, folder) as expected:
        wanted = next(expected, None)
        for info in store.list(folder):
            report.looked_at += 1
            if report.looked_at % _CHUNK == 0:
                platform.progress(report.looked_at, 0)
            while wanted is not None and wanted.key.encode() < info.key.encode():
                _missing(platform, store, folder, wanted, report)
                wanted = next(expected, None)
            if wanted is not None and wanted.key == info.key:
                wanted = next(expected, None)
            elif info.modified_at < before and discard_orphan(platform.database, folder, info.key):
                faults.point("reconcile.found")
                report.orphans[folder] += 1
        while wanted is not None:
            _missing(platform, store, folder, wanted, report)
            wanted = next(expected, None)


def _missing(platform: Platform, store: ObjectStore, folder: str, wanted: Expected, report: ReconcileReport) -> None:
    # The listing is not of the ledger's moment: what was written, or let go, between the two is there, or not wanted.
    if not wanted.must or store.head(wanted.key) is not None:
        return
    fate = redo_missing(platform.database, folder, wanted)
    faults.point("reconcile.repaired")
    if fate == "nothing":
        return
    report.missing[folder] += 1
    report.again += fate == "again"
    report.quarantined += fate == "quarantined"
    report.lost += fate != "again"
    platform.log.error("an object of clip %s is missing in %s: %s", wanted.clip_id, folder, _TOLD[fate])


_TOLD: Final = {
    "again": "it is made again",
    "frozen": "it cannot be made again",
    "quarantined": "it cannot be made again, the clip is quarantined",
}


def _compare_uploads(platform: Platform, before: datetime, report: ReconcileReport) -> None:
    """Uploads whose content is past its term. Those that the ledger does not know are ingest's to find."""
    infos = (info for info in platform.restricted.list(RAW_PREFIX) if info.modified_at < before)
    while chunk := list(islice(infos, _CHUNK)):
        report.looked_at += len(chunk)
        for key, etag in spent_uploads(platform.database, [(info.key, info.etag) for info in chunk]):
            discard_upload(platform.database, key, etag)
            report.orphans[RAW_PREFIX] += 1


def _store(platform: Platform, folder: str) -> ObjectStore:
    return platform.restricted if FOLDERS[folder].store == "restricted" else platform.cold
