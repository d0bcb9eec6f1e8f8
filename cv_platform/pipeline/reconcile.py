"""reconcile: ledger and store compared both ways, side by side in order of key: memory grows with neither."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from cv_platform import faults
from cv_platform.governance.audit import record
from cv_platform.governance.audit_export import FOLDER, export_gaps
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
        lost: missing objects that cannot be made again, and entries missing in the exported audit log.
        unknown: objects beside the exported audit log that are no part of it; nobody deletes there.
    """

    looked_at: int = 0
    orphans: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    again: int = 0
    quarantined: int = 0
    lost: int = 0
    unknown: int = 0

    def counts(self) -> dict[str, int]:
        """All that is counted."""
        return {
            "looked at": self.looked_at,
            **{f"orphans in {name}": count for name, count in self.orphans.items()},
            **{f"missing in {name}": count for name, count in self.missing.items()},
            "made again": self.again,
            "quarantined": self.quarantined,
            "lost": self.lost,
            "unknown": self.unknown,
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
    _compare_audit(platform, report)
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
    if wanted.clip_id is None:
        platform.log.error("a file of the warehouse is missing, %s: %s", wanted.key, _TOLD[fate])
    else:
        platform.log.error("an object of clip %s is missing in %s: %s", wanted.clip_id, folder, _TOLD[fate])


_TOLD: Final = {
    "again": "it is made again",
    "frozen": "it cannot be made again; restore it from a backup",
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


def _compare_audit(platform: Platform, report: ReconcileReport) -> None:
    """The exported chain: told, never mended. What is missing there may be evidence, and so may what is too much."""
    gaps = export_gaps(platform.database, platform.cold)
    report.looked_at += gaps.files
    report.lost += gaps.missing
    if gaps.missing:
        report.missing[FOLDER] += gaps.missing
        platform.log.error("%d entries of the audit log are missing in its export", gaps.missing)
    if gaps.strange:
        report.unknown += gaps.strange
        platform.log.error("%d objects beside the exported audit log are no part of it", gaps.strange)


def _store(platform: Platform, folder: str) -> ObjectStore:
    return platform.restricted if FOLDERS[folder].store == "restricted" else platform.cold
