"""The proof of an erasure: everything is looked for again, and what was counted and what is absent is signed."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from cv_platform.governance import audit
from cv_platform.governance.erasure import requests
from cv_platform.governance.erasure.certificate import sign
from cv_platform.governance.erasure.requests import ErasureRequest
from cv_platform.pipeline.erasure import STORES, store_of
from cv_platform.pipeline.platform import Platform
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger import erasure_scope, erasures
from cv_platform.storage.object_info import Purged

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


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
    objects = dict.fromkeys(STORES, 0)
    for clip_id, _ in clips:
        for store, keys in erasures.objects_of(clip_id).items():
            purged = store_of(platform, store).purge(keys)
            objects[store] += max(0, store_of(platform, store).present(keys) - purged.locked)
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
        store: vars(sum((Purged(**tally[store]) for _, tally in clips if store in tally), Purged())) for store in STORES
    }
    rows: dict[str, Any] = {}
    for table in erasure_scope.TABLES:
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
