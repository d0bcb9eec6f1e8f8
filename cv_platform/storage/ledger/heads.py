"""Tracking is claimed per camera: its clips go in order of capture, one worker a camera."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event

from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.claims import AT_CURRENT_VERSION, lease_kept
from cv_platform.storage.ledger.held import is_held, keep_outputs
from cv_platform.storage.ledger.model import TRACKS, Scope, StaleClaim
from cv_platform.storage.ledger.withdrawal import lock_clip

# A camera's first clip that tracking has not passed; ready where its detections are there.
_FIRST_OPEN = """
    SELECT s.clip_id, s.capture_date, s.captured_at, s.input_generation, s.attempts,
           s.state = 'pending' AND s.next_attempt_at <= now() AS ready,
           s.finished_at IS NOT NULL AS tracked
    FROM cv.stages s
    WHERE s.stage = 'tracks' AND s.state IN ('blocked', 'pending') AND s.camera_id = {camera} AND s.site_id = {site}
    ORDER BY s.captured_at, s.clip_id LIMIT 1
"""


@dataclass(frozen=True)
class CameraClaim:
    """A lease on one camera's tracking."""

    camera_id: str
    site_id: str
    version: str
    fence: int


@dataclass(frozen=True)
class OpenClip:
    """The camera's next clip to track."""

    clip_id: uuid.UUID
    captured_at: datetime
    input_generation: int
    attempts: int


@dataclass(frozen=True)
class TrackState:
    """A tracker's state after a clip, as bytes, with the digests that decide how far a change reaches."""

    clip_id: uuid.UUID
    captured_at: datetime
    ends_at: datetime
    version: str
    before_sha256: str
    after_sha256: str
    state: bytes


def claim_camera(
    database: Database, *, version: str, scope: Scope, run_id: str, lease_s: float, skip: frozenset[str] = frozenset()
) -> CameraClaim | None:
    """Claim one camera of the scope whose next clip is ready; None where there is none.

    Args:
        skip: cameras that this run has given up on.
    """
    with database.transaction() as connection:
        row = connection.execute(
            f"""
            WITH wanted AS (
                SELECT h.camera_id FROM cv.camera_heads h
                CROSS JOIN LATERAL ({_FIRST_OPEN.format(camera="h.camera_id", site="h.site_id")}) first
                WHERE first.ready AND (h.state = 'idle' OR h.lease_expires_at < now())
                  AND (%(sites)s::text[] = '{{}}' OR h.site_id = ANY(%(sites)s))
                  AND (%(cameras)s::text[] = '{{}}' OR h.camera_id = ANY(%(cameras)s))
                  AND (%(day)s::date IS NULL OR first.capture_date = %(day)s::date)
                  AND h.camera_id <> ALL(%(skip)s)
                  AND {AT_CURRENT_VERSION}
                ORDER BY first.captured_at, h.camera_id LIMIT 1 FOR UPDATE OF h SKIP LOCKED
            )
            UPDATE cv.camera_heads h SET state = 'running', fence = h.fence + 1, version = %(version)s,
                run_id = %(run_id)s, lease_expires_at = now() + %(lease)s
            FROM wanted WHERE h.camera_id = wanted.camera_id RETURNING h.camera_id, h.site_id, h.fence
            """,
            {
                "sites": list(scope.sites),
                "cameras": list(scope.cameras),
                "day": scope.capture_date,
                "skip": sorted(skip),
                "version": version,
                "run_id": run_id,
                "stage": TRACKS,
                "lease": timedelta(seconds=lease_s),
            },
        ).fetchone()
    return None if row is None else CameraClaim(row[0], row[1], version, row[2])


@contextmanager
def camera_kept(database: Database, claim: CameraClaim, *, lease_s: float) -> Iterator[Event]:
    """Renew the camera's lease while the block runs; the event is set once it is lost."""

    def renew(connection: Connection) -> bool:
        updated = connection.execute(
            "UPDATE cv.camera_heads SET lease_expires_at = now() + %s WHERE camera_id = %s AND fence = %s"
            " AND state = 'running'",
            [timedelta(seconds=lease_s), claim.camera_id, claim.fence],
        )
        return updated.rowcount == 1

    with lease_kept(database, renew, lease_s=lease_s) as lost:
        yield lost


def release_camera(database: Database, claim: CameraClaim) -> None:
    """End the lease; nothing happens where it is lost already."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE cv.camera_heads SET state = 'idle', lease_expires_at = NULL, next_clip = NULL"
            " WHERE camera_id = %s AND fence = %s AND state = 'running'",
            [claim.camera_id, claim.fence],
        )


def open_clip(database: Database, claim: CameraClaim) -> OpenClip | None:
    """The camera's next clip, where it is ready; notes it as the clip in hand. Raises StaleClaim.

    A held clip that was tracked before keeps its tracks, and is passed over.
    """

    def work(connection: Connection) -> OpenClip | None:
        lock_camera(connection, claim)
        while True:
            row = connection.execute(
                _FIRST_OPEN.format(camera="%(camera)s", site="%(site)s"),
                {"camera": claim.camera_id, "site": claim.site_id},
            ).fetchone()
            if row is None or not row[5]:
                return None
            if not row[6] or not is_held(connection, row[0]):
                break
            keep_outputs(connection, [row[0]])
        connection.execute("UPDATE cv.camera_heads SET next_clip = %s WHERE camera_id = %s", [row[0], claim.camera_id])
        # Counted before the work: a clip that kills its worker must not do so for ever.
        connection.execute(
            "UPDATE cv.stages SET attempts = attempts + 1 WHERE clip_id = %s AND stage = 'tracks'", [row[0]]
        )
        return OpenClip(row[0], row[2], row[3], row[4] + 1)

    return database.transact(work)


def lock_camera(connection: Connection, claim: CameraClaim) -> None:
    """Lock the camera's head. Raises StaleClaim unless it is still the claim's."""
    found = connection.execute(
        "SELECT 1 FROM cv.camera_heads WHERE camera_id = %s AND fence = %s AND version = %s AND state = 'running'"
        " AND NOT EXISTS (SELECT 1 FROM cv.stage_versions v WHERE v.stage = 'tracks' AND v.version <> %s)"
        " FOR UPDATE",
        [claim.camera_id, claim.fence, claim.version, claim.version],
    ).fetchone()
    if found is None:
        raise StaleClaim("tracks: the camera was taken over or the tracker's version changed")


def state_before(connection: Connection, camera_id: str, clip: OpenClip) -> TrackState | None:
    """The state that the camera's last tracked clip before this one left."""
    return _state(
        connection,
        "camera_id = %s AND (captured_at, clip_id) < (%s, %s) ORDER BY captured_at DESC, clip_id DESC LIMIT 1",
        [camera_id, clip.captured_at, clip.clip_id],
    )


def state_after(connection: Connection, camera_id: str, clip: OpenClip) -> TrackState | None:
    """The state of the camera's next tracked clip."""
    return _state(
        connection,
        "camera_id = %s AND (captured_at, clip_id) > (%s, %s) ORDER BY captured_at, clip_id LIMIT 1",
        [camera_id, clip.captured_at, clip.clip_id],
    )


def store_state(connection: Connection, camera_id: str, state: TrackState) -> None:
    """Keep the state that a clip left."""
    connection.execute(
        "INSERT INTO cv.track_states (clip_id, camera_id, captured_at, ends_at, version, before_sha256, after_sha256,"
        " state) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (clip_id) DO UPDATE SET"
        " ends_at = EXCLUDED.ends_at, version = EXCLUDED.version, before_sha256 = EXCLUDED.before_sha256,"
        " after_sha256 = EXCLUDED.after_sha256,"
        " state = EXCLUDED.state",
        [
            state.clip_id,
            camera_id,
            state.captured_at,
            state.ends_at,
            state.version,
            state.before_sha256,
            state.after_sha256,
            state.state,
        ],
    )


def retrack(connection: Connection, clip_id: uuid.UUID) -> None:
    """Send a tracked clip back to tracking."""
    connection.execute(
        "UPDATE cv.stages SET state = 'pending', fence = fence + 1, input_generation = input_generation + 1,"
        " attempts = 0, next_attempt_at = '-infinity' WHERE clip_id = %s AND stage = 'tracks' AND state = 'done'",
        [clip_id],
    )


def lock_open_clip(connection: Connection, clip: OpenClip) -> None:
    """Lock the clip in hand and its stage. Raises StaleClaim where its detections changed, or it left the graph."""
    lock_clip(connection, clip.clip_id)
    found = connection.execute(
        "SELECT 1 FROM cv.stages WHERE clip_id = %s AND stage = 'tracks' AND state = 'pending'"
        " AND input_generation = %s FOR UPDATE",
        [clip.clip_id, clip.input_generation],
    ).fetchone()
    if found is None:
        raise StaleClaim("tracks: the clip's detections changed while it was tracked")


def uncount_attempt(database: Database, clip: OpenClip) -> None:
    """The attempt failed for a reason that has nothing to do with the clip."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE cv.stages SET attempts = greatest(attempts - 1, 0) WHERE clip_id = %s AND stage = 'tracks'"
            " AND state = 'pending' AND input_generation = %s",
            [clip.clip_id, clip.input_generation],
        )


def finish_tracks(connection: Connection, claim: CameraClaim, clip: OpenClip, *, seconds: float, counts: str) -> None:
    """Set the clip's `tracks` stage to done. Raises StaleClaim where its detections changed meanwhile."""
    lock_open_clip(connection, clip)
    if connection.execute(
        "SELECT 1 FROM cv.stages WHERE clip_id = %s AND stage = 'tracks' AND finished_at IS NOT NULL"
        " AND cv.held(clip_id)",
        [clip.clip_id],
    ).fetchone():
        raise StaleClaim("tracks: a hold keeps the clip's tracks")
    updated = connection.execute(
        "UPDATE cv.stages SET state = 'done', version = %s, run_id = NULL, finished_at = now(), seconds = %s,"
        " attempts = 0, error = NULL, fence = fence + 1, counts = %s::jsonb"
        " WHERE clip_id = %s AND stage = 'tracks' AND state = 'pending' AND input_generation = %s",
        [claim.version, seconds, counts, clip.clip_id, clip.input_generation],
    )
    if updated.rowcount != 1:
        raise StaleClaim("tracks: the clip's detections changed while it was tracked")


def postpone_clip(database: Database, clip: OpenClip, *, delay_s: float, error: str) -> None:
    """Let a clip wait after a failure that may pass; the camera's later clips wait with it."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE cv.stages SET next_attempt_at = now() + %s, error = %s WHERE clip_id = %s AND stage = 'tracks'"
            " AND state = 'pending' AND input_generation = %s",
            [timedelta(seconds=delay_s), error, clip.clip_id, clip.input_generation],
        )


def _state(connection: Connection, where: str, values: list[object]) -> TrackState | None:
    row = connection.execute(
        "SELECT clip_id, captured_at, ends_at, version, before_sha256, after_sha256, state FROM cv.track_states"
        f" WHERE {where}",
        values,
    ).fetchone()
    return None if row is None else TrackState(row[0], row[1], row[2], row[3], row[4], row[5], bytes(row[6]))
