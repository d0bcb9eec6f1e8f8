"""Erasure: what was approved is taken out of every tier, in steps of which each may be repeated.

First tombstones, so that nothing comes back behind our back; then ledger, warehouse and keys, some clips a transaction;
then the objects, the hot tier and the cold files. From the moment that a clip's key is destroyed nobody can read its
objects, whatever copies of them there are. Killed anywhere, the next run goes on.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from typing import Any, Final, TypeVar

from psycopg.types.json import Jsonb

from cv_platform import faults
from cv_platform.governance import audit
from cv_platform.governance.erasure import requests
from cv_platform.governance.erasure.requests import ErasureRequest
from cv_platform.pipeline import cold_rows
from cv_platform.pipeline.platform import Platform, sweep_scratch
from cv_platform.storage.database import Connection
from cv_platform.storage.hot_stream import LiveStream
from cv_platform.storage.ledger import erasure_scope, erasures
from cv_platform.storage.ledger.clip_keys import destroy_keys
from cv_platform.storage.ledger.cold_days import DayIsCold
from cv_platform.storage.ledger.days import mark_dirty
from cv_platform.storage.ledger.erasure_scope import ErasureScope
from cv_platform.storage.ledger.erasures import ClipTrace, OpenClip
from cv_platform.storage.ledger.model import published_key_for
from cv_platform.storage.ledger.registration import lock_registration
from cv_platform.storage.ledger.tombstones import Tombstone, bury, digest_of
from cv_platform.storage.objects import ObjectStore

T = TypeVar("T")

_BATCH: Final = 50
"""Clips a transaction: their rows are locked meanwhile."""
_WARM_ATTEMPTS: Final = 5
"""How often a scope's days may go cold again, which they do once a night, while one step is tried."""
STORES: Final = ("restricted", "cold")


def preview(platform: Platform, request_id: uuid.UUID) -> dict[str, Any]:
    """Count exactly what an erasure would delete, per tier, and keep it with the request.

    Raises:
        WrongState: it is under way or done.
    """
    scope = requests.get(platform.database, request_id).scope
    objects: Counter[str] = Counter()
    with warm_scope(platform, scope) as connection:
        clips = erasure_scope.clips_in_scope(connection, scope)
        held = erasure_scope.held_in_scope(connection, scope, [clip_id for clip_id, _ in clips])
    days: set[date] = set()
    for clip_id, _ in clips:
        with platform.database.transaction() as connection:
            trace = erasures.trace_clip(connection, clip_id)
        if trace is None:
            continue
        days.update(trace.days)
        for store in STORES:
            objects[store] += store_of(platform, store).present(trace.keys[store])
    with warm_scope(platform, scope) as connection:
        found = {
            "clips": len(clips),
            "held": held,
            "rows": erasure_scope.count_rows(connection, scope, [clip_id for clip_id, _ in clips]),
            "objects": {store: objects[store] for store in STORES},
            "rows of no clip": erasure_scope.loose_rows(connection, scope),
            "days": len(days),
        }
        request = requests.lock(connection, request_id)
        requests.expect(request, "received", "previewed", "approved", "suspended")
        requests.note_preview(connection, request, found)
    return found


def execute(platform: Platform, request_id: uuid.UUID, *, actor: str) -> str:
    """Erase what was approved; goes on where an earlier run was killed.

    Returns:
        The request's state then: executed; suspended, where a legal hold covers part of it; or what it was, where
        there was nothing to do.

    Raises:
        WrongState: it is not approved.
    """
    scope = requests.get(platform.database, request_id).scope
    request = _begin(platform, request_id, scope, actor)
    if request.state != "executing":
        return request.state
    faults.point("erasure.begun")
    while True:
        with platform.database.transaction() as connection:
            batch = erasures.open_clips(connection, request_id, "listed", limit=_BATCH)
        if not batch:
            break
        if not _withdraw(platform, request_id, scope, batch, actor):
            return "suspended"
        faults.point("erasure.withdrawn")
    if not _erase_interval(platform, request_id, scope, actor):
        return "suspended"
    faults.point("erasure.interval")
    while True:
        with platform.database.transaction() as connection:
            batch = erasures.open_clips(connection, request_id, "withdrawn", limit=_BATCH)
        if not batch:
            break
        for clip in batch:
            _purge(platform, request, clip)
            faults.point("erasure.purged")
    _erase_cold(platform, request)
    faults.point("erasure.cold")
    _erase_hot(platform, request.scope)
    faults.point("erasure.hot")
    sweep_scratch(platform.settings)
    _end(platform, request_id, actor)
    return "executed"


def bring_back(platform: Platform, scope: ErasureScope) -> None:
    """Bring a scope's cold days back to the warm tier: there they are found, counted and erased row by row.

    What is left of them goes cold again by itself. Raises ColdFileDamaged.
    """
    done: set[tuple[str, date]] = set()
    while True:
        with platform.database.transaction() as connection:
            days = erasure_scope.cold_days(connection, scope)
        new = {(camera_id, day) for camera_id, of_camera in days.items() for day in of_camera} - done
        if not new:
            return
        for camera_id, of_camera in days.items():
            platform.cold.purge(cold_rows.bring_back(platform, camera_id, of_camera).keys)
        done |= new


@contextmanager
def warm_scope(platform: Platform, scope: ErasureScope) -> Iterator[Connection]:
    """A transaction in which every row of a scope is warm, and stays so until its end. Raises ColdFileDamaged."""
    for _ in range(_WARM_ATTEMPTS):
        bring_back(platform, scope)
        with platform.database.transaction() as connection:
            if not erasure_scope.cold_days_locked(connection, scope):
                yield connection
                return
    raise _gone_cold_again()


def _while_warm(platform: Platform, scope: ErasureScope, work: Callable[[Connection], T]) -> T:
    """`work` in a transaction, done again where it finds that a day of the scope has gone cold meanwhile."""
    for _ in range(_WARM_ATTEMPTS):
        bring_back(platform, scope)
        with suppress(DayIsCold):
            return platform.database.transact(work)
    raise _gone_cold_again()


def _require_warm(connection: Connection, scope: ErasureScope) -> None:
    """Asked inside `_while_warm`: which clips and rows are the scope's, only warm rows say. Raises DayIsCold."""
    if erasure_scope.cold_days_locked(connection, scope):
        raise _gone_cold_again()


def _gone_cold_again() -> DayIsCold:
    return DayIsCold("a day of the scope went cold again while it was worked on; run it again")


def _begin(platform: Platform, request_id: uuid.UUID, scope: ErasureScope, actor: str) -> ErasureRequest:
    """Set the tombstones and note which clips must go; or suspend the request where a hold forbids it."""

    def work(connection: Connection) -> ErasureRequest:
        # Uploads register before this, and are in the list; or after it, and meet the tombstones.
        lock_registration(connection)
        request = requests.lock(connection, request_id)
        if request.state in ("executed", "certified"):
            return request
        requests.expect(request, "approved", "executing")
        _require_warm(connection, scope)
        clips = erasure_scope.clips_in_scope(connection, request.scope)
        held = erasure_scope.held_in_scope(connection, request.scope, [clip_id for clip_id, _ in clips])
        if held:
            requests.suspend(connection, request, held=held, actor=actor)
            return requests.lock(connection, request_id)
        stones = [*_place(request.scope)]
        for clip_id, _ in clips:
            trace = erasures.trace_clip(connection, clip_id)
            if trace is not None:
                stones.append(Tombstone("key", digest_of(trace.upload_key)))
                if trace.content_sha256 is not None:
                    stones.append(Tombstone("content", trace.content_sha256))
        bury(connection, request_id, stones)
        erasures.list_clips(connection, request_id, clips)
        if request.state == "approved":
            connection.execute("UPDATE cv.erasures SET state = 'executing' WHERE request_id = %s", [request_id])
            audit.append(
                connection, actor=actor, action="erasure.begun", details={"request": request_id, "clips": len(clips)}
            )
        return requests.lock(connection, request_id)

    return _while_warm(platform, scope, work)


def _place(scope: ErasureScope) -> list[Tombstone]:
    if scope.starts_at is None or scope.ends_at is None:
        return []
    word = f"camera:{scope.camera_id}" if scope.kind == "camera" else f"site:{scope.site_id}"
    return [Tombstone("place", digest_of(word), scope.starts_at, scope.ends_at)]


def _withdraw(
    platform: Platform, request_id: uuid.UUID, scope: ErasureScope, batch: Sequence[OpenClip], actor: str
) -> bool:
    """Take clips out of ledger and warehouse, and destroy their keys; False where a hold came in between."""

    def work(connection: Connection) -> bool:
        request = requests.lock(connection, request_id)
        if request.state != "executing":
            return request.state == "executed"
        ids = [clip.clip_id for clip in batch]
        cameras = connection.execute(
            "SELECT DISTINCT camera_id FROM cv.clips WHERE clip_id = ANY(%s) AND camera_id IS NOT NULL ORDER BY 1",
            [ids],
        ).fetchall()
        for (camera_id,) in cameras:
            erasures.fence_camera(connection, camera_id)
        connection.execute("SELECT 1 FROM cv.clips WHERE clip_id = ANY(%s) ORDER BY clip_id FOR UPDATE", [ids])
        _require_warm(connection, scope)
        held = erasure_scope.held_in_scope(connection, request.scope, ids)
        if held:
            requests.suspend(connection, request, held=held, actor=actor)
            return False
        days: set[date] = set()
        summaries: set[tuple[str, date]] = set()
        for clip in batch:
            trace = erasures.trace_clip(connection, clip.clip_id)
            if trace is None:
                continue
            days |= _withdraw_one(platform, connection, request, trace)
            summaries |= {(trace.camera_id, day) for day in trace.days if trace.camera_id is not None}
        for camera_id in sorted({camera for camera, _ in summaries}):
            erasures.erase_summaries(connection, [camera_id], sorted({d for c, d in summaries if c == camera_id}))
        _note_days(connection, request_id, days)
        return True

    return _while_warm(platform, scope, work)


def _withdraw_one(platform: Platform, connection: Connection, request: ErasureRequest, trace: ClipTrace) -> set[date]:
    stones = [Tombstone("key", digest_of(trace.upload_key))]
    if trace.content_sha256 is not None:
        stones.append(Tombstone("content", trace.content_sha256))
    bury(connection, request.request_id, stones)
    keys = destroy_keys(connection, [trace.clip_id])
    states = erasures.forget_tracker(connection, trace.clip_id, gap_s=platform.settings.track_gap_s)
    if request.scope.kind == "track":
        days = erasures.erase_track(connection, trace.clip_id, request.scope)
    else:
        days = erasures.erase_clip(connection, trace.clip_id)
    erasures.forget_upload(connection, trace.upload_key)
    erasures.note_withdrawn(connection, request.request_id, trace, tally={"keys": keys, "tracker states": states + 1})
    return days


def _note_days(connection: Connection, request_id: uuid.UUID, days: set[date]) -> None:
    """Mark days dirty, and remember from which number on their aggregates are right."""
    if not days:
        return
    mark_dirty(connection, days)
    rows = connection.execute("SELECT day, dirty_seq FROM cv.mart_days WHERE day = ANY(%s)", [sorted(days)]).fetchall()
    connection.execute(
        "UPDATE cv.erasures SET days = days || %s WHERE request_id = %s",
        [Jsonb({day.isoformat(): seq for day, seq in rows}), request_id],
    )


def _erase_interval(platform: Platform, request_id: uuid.UUID, scope: ErasureScope, actor: str) -> bool:
    """Delete the interval's rows that no clip owns; False where a hold came in between."""

    def work(connection: Connection) -> bool:
        request = requests.lock(connection, request_id)
        if request.state != "executing":
            return request.state == "executed"
        _require_warm(connection, scope)
        held = erasure_scope.held_in_scope(connection, request.scope, [])
        if held:
            requests.suspend(connection, request, held=held, actor=actor)
            return False
        gone, days = erasures.erase_interval(connection, request.scope)
        _note_days(connection, request_id, days)
        loose = Counter(request.tally.get("rows of no clip", {}))
        loose.update(gone)
        connection.execute(
            "UPDATE cv.erasures SET tally = tally || %s WHERE request_id = %s",
            [Jsonb({"rows of no clip": dict(loose)}), request_id],
        )
        return True

    return _while_warm(platform, scope, work)


def _purge(platform: Platform, request: ErasureRequest, clip: OpenClip) -> None:
    """Delete a clip's objects, with every version, and what the hot tier says of its camera."""
    tally: dict[str, Any] = {}
    camera_id = clip.keys.get("camera")
    if camera_id and request.scope.kind != "track":
        # A day may have gone cold again since it was brought back.
        days = [date.fromisoformat(day) for day in clip.keys.get("days", ())]
        _remove_cold(platform, request, camera_id, days, clips=frozenset({published_key_for(clip.clip_id)}))
        faults.point("erasure.purged_rows")
    for store in STORES:
        purged = store_of(platform, store).purge(clip.keys.get(store, ()))
        tally[store] = vars(purged)
        faults.point(f"erasure.purged_{store}")
    if platform.hot is not None and camera_id:
        platform.hot.forget(camera_id)
    with platform.database.transaction() as connection:
        erasures.note_purged(connection, request.request_id, clip.clip_id, tally)


def _erase_cold(platform: Platform, request: ErasureRequest) -> None:
    """Rows of no clip, and of a track, on days that have gone cold since they were brought back."""
    scope = request.scope
    with platform.database.transaction() as connection:
        days = erasure_scope.cold_days(connection, scope)
    for camera_id, of_camera in days.items():
        if scope.kind == "track" and scope.track_day is not None and scope.track_id is not None:
            tracks = frozenset({(scope.track_day, scope.track_id)})
            _remove_cold(platform, request, camera_id, of_camera, tracks=tracks)
        elif scope.starts_at is not None:
            _remove_cold(platform, request, camera_id, of_camera, start=scope.starts_at, end=scope.ends_at)


def _remove_cold(
    platform: Platform, request: ErasureRequest, camera_id: str, days: Sequence[date], **unwanted: Any
) -> None:
    if "clips" in unwanted:
        done = cold_rows.remove_clips(platform, camera_id, days, unwanted["clips"])
    else:
        done = cold_rows.remove_rows(platform, camera_id, days, cold_rows.Unwanted(**unwanted))
    if done.keys:
        platform.cold.purge(done.keys)
        platform.database.transact(lambda connection: _note_days(connection, request.request_id, set(days)))


def _erase_hot(platform: Platform, scope: ErasureScope) -> None:
    """Current state of the scope's cameras, and live detections under way. Raises redis.RedisError."""
    if platform.hot is None or scope.kind == "clip":
        return
    with platform.database.transaction() as connection:
        cameras = erasure_scope.cameras_in(connection, scope)
    stream = LiveStream(str(platform.settings.redis_url))
    for camera_id in cameras:
        platform.hot.forget(camera_id)
        if scope.starts_at is not None and scope.ends_at is not None:
            stream.forget(camera_id, scope.starts_at, scope.ends_at)


def _end(platform: Platform, request_id: uuid.UUID, actor: str) -> None:
    def work(connection: Connection) -> None:
        request = requests.lock(connection, request_id)
        if request.state != "executing":
            return
        connection.execute(
            "UPDATE cv.erasures SET state = 'executed', executed_at = now() WHERE request_id = %s", [request_id]
        )
        clips = len(erasures.clips_of(connection, request_id))
        audit.append(
            connection, actor=actor, action="erasure.executed", details={"request": request_id, "clips": clips}
        )

    platform.database.transact(work)


def store_of(platform: Platform, name: str) -> ObjectStore:
    """One of `STORES`."""
    return platform.restricted if name == "restricted" else platform.cold
