"""expire: what the policy no longer keeps goes, what makes a prefix too large goes, what a hold covers stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cv_platform import faults
from cv_platform.governance.adoption import adopt_policy
from cv_platform.governance.audit import record
from cv_platform.governance.quotas import quotas
from cv_platform.governance.retention import terms
from cv_platform.pipeline.cold_rows import expire_cold
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.publishing import collect_garbage
from cv_platform.storage.ledger.after_holds import resume_after_holds
from cv_platform.storage.ledger.expiry import BATCH, EXPIRING, Expired, expire_older, expire_these
from cv_platform.storage.ledger.published import expire_previews
from cv_platform.storage.ledger.usage import oldest, used_bytes

ACTOR = "expire"
_AT_ONCE = 5000
"""Clips let go for a quota before its use is read again: that reads every clip that counts."""


@dataclass
class ExpiryReport:
    """What one run let go: counts only.

    Attributes:
        clips: clips whose data went, by class; `expired` counts those of which nothing is kept.
        resumed: clips whose hold ended, and that go on now.
        objects: deleted from the stores.
        alarms: one line a quota that cannot be kept, since only held data is left.
    """

    clips: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    objects: int = 0
    alarms: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """All that is counted, zeros left out."""
        counts = {**self.clips, "resumed after a hold": self.resumed, "objects": self.objects}
        return {name: count for name, count in counts.items() if count}


def expire(platform: Platform) -> ExpiryReport:
    """Let go what is past its term, then what is over a quota; collect the objects; write an audit entry.

    Safe to run again, twice at once and to kill: each batch is one transaction, and what it leaves to the collector is
    collected by the next run.

    Raises:
        PolicyError, FileNotFoundError: the policy cannot be read; nothing was deleted.
    """
    database, policy = platform.database, platform.policy
    report = ExpiryReport()
    # What is deleted is deleted under a policy that the ledger knows.
    adopt_policy(database, policy, actor=ACTOR)
    faults.point("expire.adopted")
    while not platform.should_stop() and (resumed := resume_after_holds(database)):
        report.resumed += resumed
    faults.point("expire.resumed")
    for data_class in EXPIRING:
        for term in terms(policy, data_class):
            _all(
                platform,
                report,
                data_class,
                lambda term=term: expire_older(  # type: ignore[misc]
                    database, term.data_class, older_than=term.older_than, places=term.places, early=term.early
                ),
            )
    report.clips["previews"] += expire_previews(database)
    faults.point("expire.previews")
    _keep_quotas(platform, report)
    report.clips["Parquet files"] += expire_cold(platform)
    faults.point("expire.before_collecting")
    report.objects = collect_garbage(platform)
    faults.point("expire.before_audit")
    record(
        database,
        actor=ACTOR,
        action="data.expired",
        details={"counts": report.counts(), "quotas not kept": len(report.alarms), "policy": policy.digest},
    )
    return report


def _all(platform: Platform, report: ExpiryReport, name: str, batch: Callable[[], Expired]) -> int:
    """Batch after batch until one finds nothing; returns how many clips it was."""
    total = 0
    while not platform.should_stop():
        done = batch()
        if not done.clips:
            break
        total += done.clips
        report.clips[name] += done.clips
        report.clips["expired"] += done.whole
        platform.progress(sum(report.clips.values()), 0)
    return total


def _keep_quotas(platform: Platform, report: ExpiryReport) -> None:
    """Oldest first, until what is left fits or is held."""
    database = platform.database
    for quota in quotas(platform.policy):
        while not platform.should_stop():
            used = used_bytes(database, quota.store, site=quota.site)
            faults.point("expire.quota_read")
            over = used - quota.bytes
            if over <= 0:
                break
            candidates = oldest(database, quota.store, site=quota.site, at_least_bytes=over, limit=_AT_ONCE)
            gone = Expired()
            for data_class, clips in candidates.items():
                for start in range(0, len(clips), BATCH):
                    gone += expire_these(database, data_class, clips[start : start + BATCH])
            report.clips[f"over quota ({quota.store})"] += gone.clips
            report.clips["expired"] += gone.whole
            if not gone.clips:
                report.alarms.append(
                    f"{quota.place}: {used:,} bytes are in the {quota.store} store, {quota.bytes:,} are allowed, and"
                    " all that is left is held: release holds or raise the quota"
                )
                platform.log.warning("%s", report.alarms[-1])
                break
