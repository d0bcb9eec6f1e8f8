"""Erasure: what was approved is taken out of every tier, in steps of which each may be repeated.

First tombstones, so that nothing comes back behind our back; then ledger, warehouse and keys, some clips a transaction;
then the objects, the hot tier and the cold files. From the moment that a clip's key is destroyed nobody can read its
objects, whatever copies of them there are. Killed anywhere, the next run goes on.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from psycopg.types.json import Jsonb

from cv_platform import faults
from cv_platform.governance import audit
from cv_platform.governance.erasure import requests
from cv_platform.governance.erasure.certificate import sign
from cv_platform.governance.erasure.requests import ErasureRequest
from cv_platform.pipeline import cold_rows
from cv_platform.pipeline.platform import Platform, sweep_scratch
from cv_platform.pipeline.stage import ClaimLost
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.hot_stream import LiveStream
from cv_platform.storage.ledger import erasures
from cv_platform.storage.ledger.clip_keys import destroy_keys
from cv_platform.storage.ledger.days import mark_dirty
from cv_platform.storage.ledger.erasures import ClipTrace, ErasureScope, OpenClip
from cv_platform.storage.ledger.held import is_held
from cv_platform.storage.ledger.model import Clip, published_key_for
from cv_platform.storage.ledger.registration import lock_registration
from cv_platform.storage.ledger.tombstones import (
    Tombstone,
    any_tombstone,
    bury,
    digest_of,
    is_erased_content,
    is_erased_interval,
)
from cv_platform.storage.ledger.withdrawal import discard_objects
from cv_platform.storage.objects import Purged

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_BATCH: Final = 50
"""Clips a transaction: their rows are locked meanwhile."""
_STORES: Final = ("restricted", "cold")


def preview(platform: Platform, request_id: uuid.UUID) -> dict[str, Any]:
    """Count exactly what an erasure would delete, per tier, and keep it with the request.

    Raises:
        WrongState: it is under way or done.
    """
    scope = requests.get(platform.database, request_id).scope
    bring_back(platform, scope)
    objects: Counter[str] = Counter()
    with platform.database.transaction() as connection:
        clips = erasures.clips_in_scope(connection, scope)
        held = erasures.held_in_scope(connection, scope, [clip_id for clip_id, _ in clips])
    days: set[date] = set()
    for clip_id, _ in clips:
        with platform.database.transaction() as connection:
            trace = erasures.trace_clip(connection, clip_id)
        if trace is None:
            continue
        days.update(trace.days)
        for store in _STORES:
            objects[store] += _store(platform, store).present(trace.keys[store])
    with platform.database.transaction() as connection:
        found = {
            "clips": len(clips),
            "held": held,
            "rows": erasures.count_rows(connection, scope, [clip_id for clip_id, _ in clips]),
            "objects": {store: objects[store] for store in _STORES},
            "rows of no clip": erasures.loose_rows(connection, scope),
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
    bring_back(platform, requests.get(platform.database, request_id).scope)
    request = _begin(platform, request_id, actor)
    if request.state != "executing":
        return request.state
    faults.point("erasure.begun")
    while True:
        with platform.database.transaction() as connection:
            batch = erasures.open_clips(connection, request_id, "listed", limit=_BATCH)
        if not batch:
            break
        if not _withdraw(platform, request_id, batch, actor):
            return "suspended"
        faults.point("erasure.withdrawn")
    if not _erase_interval(platform, request_id, actor):
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
    with platform.database.transaction() as connection:
        days = erasures.cold_days(connection, scope)
    for camera_id, of_camera in days.items():
        platform.cold.purge(cold_rows.bring_back(platform, camera_id, of_camera).keys)


def certify(platform: Platform, request_id: uuid.UUID, *, actor: str, key: Ed25519PrivateKey) -> dict[str, Any] | None:
    """Prove that what was erased is gone, and sign it.

    Returns:
        The certificate; None where the aggregates of a day have not been built anew yet.

    Raises:
        WrongState: it was not executed.
        ResidueFound: something is still there; nothing is certified, and the request is executed again.
    """
    request = requests.get(platform.database, request_id)
    if request.certificate is not None:
        return request.certificate
    requests.expect(request, "executed")
    with platform.database.transaction() as connection:
        if not _rebuilt(connection, request):
            return None
        clips = erasures.clips_of(connection, request_id)
    try:
        absence = _absence(platform, request, [(clip_id, day) for clip_id, _, day in clips])
    except ResidueFound:
        # Whoever wrote it began before the tombstones stood: the next run erases it too.
        with platform.database.transaction() as connection:
            connection.execute(
                "UPDATE cv.erasures SET state = 'executing' WHERE request_id = %s AND state = 'executed'", [request_id]
            )
        raise
    with platform.database.transaction() as connection:
        request = requests.lock(connection, request_id)
        if request.certificate is not None:
            return request.certificate
        head = audit.head(connection)
        now = datetime.now(UTC)
        document = sign(
            {
                "request": str(request_id),
                "reference": request.reference,
                "scope": request.scope.as_json(),
                "requested_by": request.requested_by,
                "requested_at": request.requested_at.isoformat(),
                "approved_by": request.decided_by,
                "approved_at": request.decided_at.isoformat() if request.decided_at else None,
                "executed_at": request.executed_at.isoformat() if request.executed_at else None,
                "certified_at": now.isoformat(),
                "erased": _erased(request, [(clip_id, tally) for clip_id, tally, _ in clips]),
                "absence": absence,
                "audit_head": {"seq": head.seq, "entry_hash": head.entry_hash},
            },
            key,
        )
        connection.execute(
            "UPDATE cv.erasures SET state = 'certified', certified_at = %s, certificate = %s WHERE request_id = %s",
            [now, Jsonb(document), request_id],
        )
        digest = hashlib.sha256(str(document["signature"]).encode()).hexdigest()
        audit.append(
            connection, actor=actor, action="erasure.certified", details={"request": request_id, "certificate": digest}
        )
    return document


def ready_requests(database: Database, *, limit: int) -> list[uuid.UUID]:
    """Requests that a run could do something for: approved, interrupted, or executed with their aggregates built."""
    open_ones = requests.list_requests(database, states=("approved", "executing", "executed"), limit=limit)
    with database.transaction() as connection:
        return [
            request.request_id for request in open_ones if request.state != "executed" or _rebuilt(connection, request)
        ]


class ResidueFound(Exception):
    """Something of what was erased is still there; the message says in which tier, and how much."""


def refuse_erased(platform: Platform, clip: Clip, *, sha256: str, duration_s: float) -> None:
    """Erase a clip that came back: its bytes were erased before, or it reaches into an interval that was.

    Args:
        sha256: of its plain bytes.
        duration_s: its length as far as it is known.

    Raises:
        ClaimLost: it was; nothing is left of it to work on.
    """
    end = clip.captured_at + timedelta(seconds=duration_s)

    def work(connection: Connection) -> str | None:
        if not any_tombstone(connection):
            return None
        erased = is_erased_content(connection, sha256) or is_erased_interval(
            connection, clip.site_id, clip.camera_id, clip.captured_at, end
        )
        if not erased or is_held(connection, clip.clip_id):
            return None
        trace = erasures.trace_clip(connection, clip.clip_id)
        if trace is None:
            return None
        destroy_keys(connection, [clip.clip_id])
        mark_dirty(connection, erasures.erase_clip(connection, clip.clip_id))
        # Where this process is killed before it deletes them, the collector does.
        discard_objects(connection, "restricted", [key for key in trace.keys["restricted"] if not key.endswith("/")])
        audit.append(connection, actor="raw_clips", action="erasure.kept_away", details={"clip": clip.clip_id})
        return trace.upload_key

    upload_key = platform.database.transact(work)
    if upload_key is None:
        return
    platform.restricted.purge([upload_key, *erasures.objects_of(clip.clip_id)["restricted"]])
    with platform.database.transaction() as connection:
        erasures.forget_upload(connection, upload_key)
    raise ClaimLost


def _begin(platform: Platform, request_id: uuid.UUID, actor: str) -> ErasureRequest:
    """Set the tombstones and note which clips must go; or suspend the request where a hold forbids it."""

    def work(connection: Connection) -> ErasureRequest:
        # Uploads register before this, and are in the list; or after it, and meet the tombstones.
        lock_registration(connection)
        request = requests.lock(connection, request_id)
        if request.state in ("executed", "certified"):
            return request
        requests.expect(request, "approved", "executing")
        clips = erasures.clips_in_scope(connection, request.scope)
        held = erasures.held_in_scope(connection, request.scope, [clip_id for clip_id, _ in clips])
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

    return platform.database.transact(work)


def _place(scope: ErasureScope) -> list[Tombstone]:
    if scope.starts_at is None or scope.ends_at is None:
        return []
    word = f"camera:{scope.camera_id}" if scope.kind == "camera" else f"site:{scope.site_id}"
    return [Tombstone("place", digest_of(word), scope.starts_at, scope.ends_at)]


def _withdraw(platform: Platform, request_id: uuid.UUID, batch: Sequence[OpenClip], actor: str) -> bool:
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
        held = erasures.held_in_scope(connection, request.scope, ids)
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

    return platform.database.transact(work)


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


def _erase_interval(platform: Platform, request_id: uuid.UUID, actor: str) -> bool:
    """Delete the interval's rows that no clip owns; False where a hold came in between."""

    def work(connection: Connection) -> bool:
        request = requests.lock(connection, request_id)
        if request.state != "executing":
            return request.state == "executed"
        held = erasures.held_in_scope(connection, request.scope, [])
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

    return platform.database.transact(work)


def _purge(platform: Platform, request: ErasureRequest, clip: OpenClip) -> None:
    """Delete a clip's objects, with every version, and what the hot tier says of its camera."""
    tally: dict[str, Any] = {}
    camera_id = clip.keys.get("camera")
    if camera_id and request.scope.kind != "track":
        # A day may have gone cold again since it was brought back.
        days = [date.fromisoformat(day) for day in clip.keys.get("days", ())]
        _remove_cold(platform, request, camera_id, days, clips=frozenset({published_key_for(clip.clip_id)}))
        faults.point("erasure.purged_rows")
    for store in _STORES:
        purged = _store(platform, store).purge(clip.keys.get(store, ()))
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
        days = erasures.cold_days(connection, scope)
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
        cameras = erasures.cameras_in(connection, scope)
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


def _rebuilt(connection: Connection, request: ErasureRequest) -> bool:
    """Whether the aggregates of every day that changed have been built since."""
    built: dict[str, int] = dict(
        connection.execute(
            "SELECT day::text, built_seq FROM cv.mart_days WHERE day = ANY(%s::date[])", [list(request.days)]
        ).fetchall()
    )
    return all(built.get(day, 0) >= seq for day, seq in request.days.items())


def _absence(
    platform: Platform, request: ErasureRequest, clips: Sequence[tuple[uuid.UUID, date | None]]
) -> dict[str, Any]:
    """Look everywhere again. A worker that came late may have written an object: it is deleted, then looked for."""
    objects = dict.fromkeys(_STORES, 0)
    for clip_id, _ in clips:
        for store, keys in erasures.objects_of(clip_id).items():
            purged = _store(platform, store).purge(keys)
            objects[store] += max(0, _store(platform, store).present(keys) - purged.locked)
    with platform.database.transaction() as connection:
        days = sorted({day for _, day in clips if day is not None})
        rows = erasures.rows_left(connection, request.scope, [clip_id for clip_id, _ in clips], days)
    found = {**objects, **rows}
    if any(found.values()):
        left = ", ".join(f"{count} in {tier}" for tier, count in found.items() if count)
        raise ResidueFound(f"something of what was erased is still there: {left}; run the erasure again")
    return {"checked_at": datetime.now(UTC).isoformat(), "objects": objects, "rows": rows}


def _erased(request: ErasureRequest, clips: Sequence[tuple[uuid.UUID, dict[str, Any]]]) -> dict[str, Any]:
    """Counts and digests per tier over all clips."""
    stores = {
        store: vars(sum((Purged(**tally[store]) for _, tally in clips if store in tally), Purged()))
        for store in _STORES
    }
    rows: dict[str, Any] = {}
    for table in erasures.TABLES:
        found = [tally.get(table, {"rows": 0, "digest": ""}) for _, tally in clips]
        digest = hashlib.sha256("".join(entry["digest"] for entry in found).encode()).hexdigest()
        rows[table] = {"rows": sum(entry["rows"] for entry in found), "digest": digest}
    return {
        "clips": len(clips),
        "clip_ids": [str(clip_id) for clip_id, _ in clips],
        "keys destroyed": sum(tally.get("keys", 0) for _, tally in clips),
        "tracker states": sum(tally.get("tracker states", 0) for _, tally in clips),
        "objects": stores,
        "rows": rows,
        **request.tally,
        "days built anew": sorted(request.days),
    }


def _store(platform: Platform, name: str) -> Any:
    return platform.restricted if name == "restricted" else platform.cold
