"""The loop that all clip stages share: claim, work, commit, one clip after another.

Clips that are quick are claimed a few at a time, since claiming would cost the ledger more than it need; each has its
own lease and fence, so that a worker that dies loses no more than one that holds a single clip.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Final, Literal, Protocol

import psycopg

from cv_platform import faults
from cv_platform.governance.keys import KeyDestroyed, KeyEncryptionKeyError
from cv_platform.pipeline.platform import Platform, sweep_scratch
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.claims import Leases, begin, claim_clips, kept_alive, postpone, release
from cv_platform.storage.ledger.commits import commit, reject
from cv_platform.storage.ledger.model import Claim, Scope, StaleClaim
from cv_platform.storage.objects import ObjectMissing
from cv_platform.vision.gpu.lost import DeviceLost

MOST_IN_HAND: Final = 4
"""Most clips that one worker holds: what the claims' benchmark measures. More would keep other workers waiting."""

_IN_HAND_S: Final = 60.0
"""Longest time for which clips are taken ahead: others may be idle, and who dies holds them for a lease."""


# A line a clip is for the process's log alone: in Dagster's event log it would be a row.
LINES: Final = logging.getLogger("cv_platform.clips")


class ClipRefused(Exception):
    """The clip cannot be processed, now or on any later attempt: it is quarantined.

    Attributes:
        code: short, stable, for filters.
        reason: one line that a person understands; names no key, no file and nothing personal.
    """

    def __init__(self, code: str, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(code, reason)


class ClaimLost(Exception):
    """The lease is gone: stop working on this clip."""


@dataclass(frozen=True)
class Finished:
    """What a stage made of a clip, to be committed.

    Attributes:
        output_key: the object that holds it, already uploaded under a key that only this claim writes to.
        store: which store that object is in.
        counts: what the UI shows, numbers only.
        write: the stage's own rows, in the commit's transaction.
        after_commit: what follows a commit that succeeded; may fail without harm.
    """

    output_key: str | None = None
    output_sha256: str | None = None
    store: Literal["restricted", "cold"] = "cold"
    counts: dict[str, Any] = field(default_factory=dict)
    write: Callable[[Connection], None] = lambda connection: None
    after_commit: Callable[[], None] = lambda: None


class ClipStage(Protocol):
    """One stage's work on a clip."""

    @property
    def stage(self) -> str:
        """Its name in the ledger."""

    @property
    def version(self) -> str:
        """Code, models and settings in one string."""

    def work(self, platform: Platform, claim: Claim, lost: Event) -> Finished:
        """Do it. Raises ClipRefused where the clip is at fault; anything else counts as a failure that may pass."""


@dataclass
class StageReport:
    """What one run of a stage did; holds nothing personal."""

    stage: str
    done: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    postponed: int = 0
    stale: int = 0
    seconds: float = 0.0
    clips: list[dict[str, Any]] = field(default_factory=list)
    """Counts and seconds of each clip done, in order."""

    def total(self, name: str) -> float:
        """One count summed over the clips."""
        return sum(float(clip.get(name, 0)) for clip in self.clips)


def run_stage(platform: Platform, work: ClipStage, scope: Scope) -> StageReport:
    """Work on every clip of the scope that waits at the stage, until none is left.

    A clip that cannot be processed is quarantined and the others go on. A failure that may pass is tried again later,
    `max_attempts` times. When the process is interrupted, the clips in hand are given back.
    """
    report = StageReport(work.stage)
    started = time.monotonic()
    settings = platform.settings
    pace = Pace(lease_s=settings.lease_s)
    sweep_scratch(settings)
    while not platform.should_stop():
        claims = claim_clips(
            platform.database,
            work.stage,
            version=work.version,
            scope=scope,
            run_id=platform.run_id,
            lease_s=settings.lease_s,
            limit=pace.how_many(),
        )
        if not claims:
            break
        _work_through(platform, work, claims, report, pace)
    report.seconds = time.monotonic() - started
    return report


class Pace:
    """How many clips a worker takes at once: what it does in a minute, at the pace of the slowest of the last ones.

    The first is taken alone: nothing is known yet.

    Args:
        lease_s: half of it is a bound as well.
    """

    def __init__(self, *, lease_s: float) -> None:
        self._bound_s = min(_IN_HAND_S, lease_s / 2)
        self._last: deque[float] = deque(maxlen=2 * MOST_IN_HAND)

    def took(self, seconds: float) -> None:
        """A clip took so long, whatever became of it."""
        self._last.append(seconds)

    def how_many(self) -> int:
        """Clips to claim next, 1 to `MOST_IN_HAND`."""
        if not self._last:
            return 1
        return max(1, min(MOST_IN_HAND, int(self._bound_s / max(0.001, *self._last))))


def retry_delay_s(platform: Platform, attempts: int) -> float:
    """Seconds to wait after the `attempts`-th failure."""
    return float(platform.settings.retry_base_s * 2 ** (attempts - 1))


def _work_through(platform: Platform, work: ClipStage, claims: list[Claim], report: StageReport, pace: Pace) -> None:
    """Work on claimed clips, one after the other; those that are not begun are given back, whatever happens."""
    waiting = deque(claims)
    if len(claims) > 1:
        faults.point(f"{work.stage}.several_claimed")
    with kept_alive(platform.database, claims, lease_s=platform.settings.lease_s) as leases:
        try:
            while waiting and not platform.should_stop():
                claim = waiting.popleft()
                started = time.monotonic()
                with platform.working_on(work.stage, claim.clip.clip_id, claim.clip.camera_id):
                    _work_on(platform, work, claim, leases, report)
                pace.took(time.monotonic() - started)
                platform.progress(report.done, 0)
        finally:
            if waiting:
                give_back(lambda: release(platform.database, list(waiting)))


def _work_on(platform: Platform, work: ClipStage, taken: Claim, leases: Leases, report: StageReport) -> None:
    database, settings, clip_id = platform.database, platform.settings, taken.clip.clip_id
    started = time.monotonic()
    claim = taken
    try:
        claim = begin(database, taken)
        if claim.attempts > settings.max_attempts:
            # Its workers ended without a word: killed by it, or with it.
            raise ClipRefused("worker_died", f"{claim.stage}: {claim.attempts - 1} workers died on it")
        if claim.attempts > 1:
            sweep_scratch(settings)  # whoever had it before may have died on this machine, with raw bytes in hand
        faults.point(f"{claim.stage}.claimed")
        lost = leases.lost(taken)
        finished = work.work(platform, claim, lost)
        if lost.is_set():
            raise ClaimLost
        seconds = time.monotonic() - started
        commit(
            database,
            claim,
            seconds=seconds,
            output_key=finished.output_key,
            output_sha256=finished.output_sha256,
            store=finished.store,
            counts=finished.counts,
            write=finished.write,
        )
        leases.let_go(taken)  # before what follows the commit
        report.done += 1
        report.clips.append({**finished.counts, "seconds": seconds})
        LINES.info("done in %.2f s", seconds)
    except ClipRefused as refused:
        _reject(platform, claim, refused, report)
    except KeyDestroyed:
        reason = "its key was destroyed: nothing that was sealed for it can be read any more"
        _reject(platform, claim, ClipRefused("key_destroyed", reason), report)
    except (StaleClaim, ClaimLost):
        report.stale += 1
        platform.log.info("%s: clip %s was taken over or its input changed; dropped", claim.stage, clip_id)
    except (psycopg.OperationalError, psycopg.InterfaceError, KeyEncryptionKeyError):
        # Not the clip's doing, and the next one would meet it too: nothing is counted against the clip.
        give_back(lambda: release(database, [taken]))
        raise
    except Exception as error:  # whatever a library raises on one clip must not stop the others
        if claim.attempts >= settings.max_attempts:
            _reject(platform, claim, _gave_up(claim.stage, claim.attempts, error), report)
        else:
            postpone(database, claim, delay_s=retry_delay_s(platform, claim.attempts), error=describe_error(error))
            report.postponed += 1
            platform.log.warning(
                "%s: clip %s failed, will be tried again: %s", claim.stage, clip_id, describe_error(error)
            )
        if isinstance(error, DeviceLost):
            raise  # the next clip would meet it too; this one counts as tried, for it may be what did it
    except BaseException:
        release(database, [taken])
        raise
    else:
        _follow_up(platform, claim, finished)
    finally:
        leases.let_go(taken)


def _follow_up(platform: Platform, claim: Claim, finished: Finished) -> None:
    """What comes after the commit may fail: the work is done, and what is due stays due."""
    try:
        finished.after_commit()
    except (psycopg.OperationalError, psycopg.InterfaceError, KeyEncryptionKeyError):
        raise
    except Exception as error:  # noqa: BLE001  # a store that stumbles must not stop the next clips
        platform.log.warning(
            "%s: clip %s is done; what follows failed: %s", claim.stage, claim.clip.clip_id, describe_error(error)
        )


def give_back(how: Callable[[], None]) -> None:
    """Try for a while to give back what is held, as when the database restarts; else its lease runs out."""
    for delay_s in (0.2, 0.5, 1.0, 2.0, 4.0):
        try:
            return how()
        except psycopg.Error:
            time.sleep(delay_s)


def describe_error(error: BaseException) -> str:
    """An error's type, and its text only where we wrote it: a library's may hold a path or a key."""
    if type(error).__module__.startswith("cv_platform.") or isinstance(error, faults.InjectedFault):
        return f"{type(error).__name__}: {error}"
    return type(error).__name__


def _gave_up(stage: str, attempts: int, error: Exception) -> ClipRefused:
    if isinstance(error, ObjectMissing):
        return ClipRefused("object_missing", "an object that it needs is not in the store")
    return ClipRefused("failed_repeatedly", f"{stage} failed {attempts} times, last with {describe_error(error)}")


def _reject(platform: Platform, claim: Claim, refused: ClipRefused, report: StageReport) -> None:
    try:
        reject(platform.database, claim, code=refused.code, reason=refused.reason)
    except StaleClaim:
        report.stale += 1
        return
    report.quarantined[refused.code] += 1
    platform.log.warning("%s: clip %s is quarantined: %s", claim.stage, claim.clip.clip_id, refused.reason)
