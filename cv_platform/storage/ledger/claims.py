"""Leases: who works on which clip, and until when."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import psycopg

from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.model import STILL_RUNNING, UPSTREAM, Claim, Clip, Scope, StaleClaim

_CLIP_COLUMNS = (
    "c.clip_id, c.site_id, c.camera_id, c.capture_date, c.captured_at, c.upload_key, c.published_key, c.size_bytes,"
    " c.duration_s, c.facts, c.content_sha256"
)


# A rolling deployment has workers of two versions for a while: only the newer may begin.
AT_CURRENT_VERSION = (
    "NOT EXISTS (SELECT 1 FROM cv.stage_versions v WHERE v.stage = %(stage)s AND v.version <> %(version)s)"
)


def claim_clips(
    database: Database, stage: str, *, version: str, scope: Scope, run_id: str, lease_s: float, limit: int
) -> list[Claim]:
    """Claim clips whose lease has run out, then clips that wait at a stage: by day and site, oldest first.

    Each claimed row's fence goes up, so that whoever held it before can no longer commit. A worker at a version that
    the deployment has left gets nothing. An attempt is counted where work begins, by `begin`.
    """
    query = f"""
        WITH given_up AS (
            SELECT clip_id FROM cv.stages
            WHERE stage = %(stage)s AND {_in_scope(scope)} AND state = 'running' AND lease_expires_at < now()
              AND {AT_CURRENT_VERSION}
            ORDER BY lease_expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
        ), waiting AS (
            SELECT clip_id FROM cv.stages
            WHERE stage = %(stage)s AND {_in_scope(scope)} AND state = 'pending' AND next_attempt_at <= now()
              AND {AT_CURRENT_VERSION}
            ORDER BY capture_date, site_id, captured_at, clip_id
            LIMIT %(limit)s - (SELECT count(*) FROM given_up) FOR UPDATE SKIP LOCKED
        ), wanted AS (
            SELECT clip_id FROM given_up UNION ALL SELECT clip_id FROM waiting
        ), taken AS (
            UPDATE cv.stages s
            SET state = 'running', fence = s.fence + 1, version = %(version)s, run_id = %(run_id)s,
                lease_expires_at = now() + %(lease)s
            FROM wanted WHERE s.clip_id = wanted.clip_id AND s.stage = %(stage)s
            RETURNING s.clip_id, s.fence, s.input_generation, s.attempts
        )
        SELECT {_CLIP_COLUMNS}, t.fence, t.input_generation, t.attempts,
               (SELECT jsonb_object_agg(u.stage, jsonb_build_array(u.output_key, u.output_sha256))
                FROM cv.stages u WHERE u.clip_id = t.clip_id AND u.stage = ANY(%(inputs)s))
        FROM taken t JOIN cv.clips c USING (clip_id) ORDER BY c.captured_at, c.clip_id
        """
    rows = database.at_once(
        # Planned once for a connection: the plan never differs, and planning took as long as the claim.
        ("SET LOCAL plan_cache_mode = force_generic_plan", None),
        # Leases that ran out come in order from the index of what runs. Any other has to be sorted, and reads every
        # clip that workers have in hand there, which old statistics say is none.
        ("SET LOCAL enable_sort = off", None),
        (
            query,
            {
                "stage": stage,
                "version": version,
                "run_id": run_id,
                "lease": timedelta(seconds=lease_s),
                "limit": limit,
                # The first stage reads what it kept itself, in the vault, where it has been here before.
                "inputs": list(UPSTREAM[stage]) or [stage],
                **_scope_values(scope),
            },
        ),
        prepare=True,
    ).fetchall()
    return [
        Claim(
            clip=Clip(*row[:11]),
            stage=stage,
            version=version,
            fence=row[11],
            input_generation=row[12],
            attempts=row[13],
            inputs={name: (key, sha256) for name, (key, sha256) in (row[14] or {}).items()},
        )
        for row in rows
    ]


def begin(database: Database, claim: Claim) -> Claim:
    """Count an attempt, where work on a claimed clip begins; returns the claim with it.

    Apart from the claim itself: a worker that is killed with several clips in hand counts against the one that it was
    at, not against those that it had not looked at yet.

    Raises:
        StaleClaim: the claim is lost; do not begin.
    """
    row = database.at_once(
        (
            f"UPDATE cv.stages SET attempts = attempts + 1 WHERE clip_id = %s AND stage = %s AND {STILL_RUNNING}"
            " AND fence = %s AND input_generation = %s RETURNING attempts",
            [claim.clip.clip_id, claim.stage, claim.fence, claim.input_generation],
        )
    ).fetchone()
    if row is None:
        raise StaleClaim(f"{claim.stage}: the claim was taken over or its input changed")
    return replace(claim, attempts=row[0])


def release(database: Database, claims: Sequence[Claim]) -> None:
    """Give claims back as they were taken, as when a run is asked to stop: another may take them at once.

    Args:
        claims: as `claim_clips` gave them: the attempts that they name are what is left counted.
    """
    for claim in claims:  # a transaction each: several rows locked in whatever order could wait for another's
        with database.transaction() as connection:
            connection.execute(
                "UPDATE cv.stages SET state = 'pending', lease_expires_at = NULL, attempts = %s"
                f" WHERE clip_id = %s AND stage = %s AND {STILL_RUNNING} AND fence = %s",
                [claim.attempts, claim.clip.clip_id, claim.stage, claim.fence],
            )


def postpone(database: Database, claim: Claim, *, delay_s: float, error: str) -> None:
    """Give a claim back after a failure that may pass: it may be claimed again after `delay_s`."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE cv.stages SET state = 'pending', lease_expires_at = NULL, error = %s,"
            f" next_attempt_at = now() + %s WHERE clip_id = %s AND stage = %s AND {STILL_RUNNING} AND fence = %s",
            [error, timedelta(seconds=delay_s), claim.clip.clip_id, claim.stage, claim.fence],
        )


class Leases:
    """Claims at one stage that one thread renews, each with an event that is set once it is lost."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self._lost = {claim.clip.clip_id: threading.Event() for claim in claims}
        self._kept = {claim.clip.clip_id: claim for claim in claims}

    def lost(self, claim: Claim) -> threading.Event:
        """Set once the claim is another's, or may be by now."""
        return self._lost[claim.clip.clip_id]

    def let_go(self, claim: Claim) -> None:
        """The claim was ended: it is renewed no longer."""
        self._kept.pop(claim.clip.clip_id, None)

    def renew(self, database: Database, *, lease_s: float) -> None:
        """Renew what is kept, a transaction each: none waits for another's row. Raises psycopg.Error."""
        for claim in list(self._kept.values()):
            with database.transaction() as connection:
                updated = connection.execute(
                    "UPDATE cv.stages SET lease_expires_at = now() + %s WHERE clip_id = %s AND stage = %s"
                    f" AND {STILL_RUNNING} AND fence = %s AND input_generation = %s",
                    [timedelta(seconds=lease_s), claim.clip.clip_id, claim.stage, claim.fence, claim.input_generation],
                )
            if updated.rowcount != 1:
                self.let_go(claim)
                self.lost(claim).set()

    def lose_all(self) -> None:
        """None could be renewed for as long as a lease lasts."""
        for claim in list(self._kept.values()):
            self.lost(claim).set()


@contextmanager
def kept_alive(database: Database, claims: Sequence[Claim], *, lease_s: float) -> Iterator[Leases]:
    """Renew claims at a third of their time while the block runs, all of them in one thread.

    Renewals that fail for any reason past the leases' end count as lost, since another may have the clips by then.
    """
    leases = Leases(claims)

    def renew() -> bool:
        leases.renew(database, lease_s=lease_s)
        return True

    with _every_third(renew, leases.lose_all, lease_s=lease_s):
        yield leases


@contextmanager
def lease_kept(database: Database, renew: Callable[[Connection], bool], *, lease_s: float) -> Iterator[threading.Event]:
    """Call `renew` in a thread at a third of the lease; the event is set once it returns False or can't be called."""
    lost = threading.Event()

    def renew_it() -> bool:
        with database.transaction() as connection:
            alive = renew(connection)
        if not alive:
            lost.set()
        return alive

    with _every_third(renew_it, lost.set, lease_s=lease_s):
        yield lost


@contextmanager
def _every_third(renew: Callable[[], bool], lose: Callable[[], None], *, lease_s: float) -> Iterator[None]:
    """Call `renew` in a thread until it returns False; `lose`, where the database refused it for a whole lease."""
    done = threading.Event()

    def keep() -> None:
        failures, alive = 0, True
        while alive and not done.wait(lease_s / 3):
            try:
                alive = renew()
                failures = 0
            except psycopg.Error:
                failures += 1
                if failures == 3:
                    return lose()
        return None

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def clip_of(connection: Connection, clip_id: uuid.UUID) -> Clip:
    """One clip by its id. Raises LookupError."""
    row = connection.execute(f"SELECT {_CLIP_COLUMNS} FROM cv.clips c WHERE clip_id = %s", [clip_id]).fetchone()
    if row is None:
        raise LookupError(f"no clip {clip_id}")
    return Clip(*row)


def _in_scope(scope: Scope) -> str:
    parts = ["true"]
    if scope.capture_date is not None:
        parts.append("capture_date = %(capture_date)s")
    if len(scope.sites) == 1:
        parts.append("site_id = %(site)s")  # lets the index give them in order
    elif scope.sites:
        parts.append("site_id = ANY(%(sites)s)")
    if scope.cameras:
        parts.append("camera_id = ANY(%(cameras)s)")
    return " AND ".join(parts)


def _scope_values(scope: Scope) -> dict[str, object]:
    return {
        "capture_date": scope.capture_date,
        "site": next(iter(scope.sites), None),
        "sites": list(scope.sites),
        "cameras": list(scope.cameras),
    }
