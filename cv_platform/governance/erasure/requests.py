"""Requests: received → previewed → approved → executing → executed → certified; or suspended, or refused.

Whoever asks cannot approve. An approval stands for the scope: what comes into it before the end is erased too.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.types.json import Jsonb

from cv_platform.governance.audit import append
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.erasure_scope import ErasureScope

STATES: Final = (
    "received",
    "previewed",
    "approved",
    "executing",
    "executed",
    "certified",
    "suspended",
    "refused",
)
_COLUMNS: Final = (
    "request_id, kind, clip_id, camera_id, site_id, track_day, track_id, starts_at, ends_at, reference, requested_by,"
    " requested_at, state, preview, decided_by, decided_at, detail, tally, days, executed_at, certified_at, certificate"
)


class WrongState(Exception):
    """The request is not in a state in which that can be done; the message says which it is in."""


@dataclass(frozen=True)
class ErasureRequest:
    """A request as the ledger has it."""

    request_id: uuid.UUID
    scope: ErasureScope
    reference: str
    requested_by: str
    requested_at: datetime
    state: str
    preview: dict[str, Any] | None
    decided_by: str | None
    decided_at: datetime | None
    detail: str | None
    tally: dict[str, Any]
    days: dict[str, int]
    executed_at: datetime | None
    certified_at: datetime | None
    certificate: dict[str, Any] | None

    def summary(self) -> dict[str, Any]:
        """What a list of requests shows."""
        return {
            "request_id": str(self.request_id),
            "state": self.state,
            "scope": self.scope.as_json(),
            "reference": self.reference,
            "requested_by": self.requested_by,
            "requested_at": self.requested_at,
            "decided_by": self.decided_by,
            "detail": self.detail,
        }


def receive(database: Database, scope: ErasureScope, *, reference: str, by: str) -> uuid.UUID:
    """Take in a request; nothing is erased by it.

    Args:
        reference: a case number, such as the ticket's; never a person's name: it stands in the certificate.
        by: who asks.

    Raises:
        ValueError: reference or by is empty.
    """
    if not reference.strip() or not by.strip():
        raise ValueError("an erasure needs a reference, such as a case number, and the name of who asks")
    request_id = uuid.uuid4()
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO cv.erasures (request_id, kind, clip_id, camera_id, site_id, track_day, track_id, starts_at,"
            " ends_at, reference, requested_by) VALUES (%(request_id)s, %(kind)s, %(clip_id)s, %(camera_id)s,"
            " %(site_id)s, %(track_day)s, %(track_id)s, %(starts_at)s, %(ends_at)s, %(reference)s, %(by)s)",
            {**scope.values(), "request_id": request_id, "reference": reference, "by": by},
        )
        append(connection, actor=by, action="erasure.received", details={"request": request_id, "kind": scope.kind})
    return request_id


def approve(database: Database, request_id: uuid.UUID, *, by: str) -> None:
    """Approve what was previewed, or what a hold suspended once it has ended.

    Raises:
        WrongState: it was not previewed, or is decided already.
        PermissionError: who approves is who asked.
    """
    if not by.strip():
        raise ValueError("an approval needs the name of who approves")
    with database.transaction() as connection:
        request = lock(connection, request_id)
        if by == request.requested_by:
            raise PermissionError("whoever asks for an erasure cannot approve it; another identity must")
        expect(request, "previewed", "suspended")
        if request.preview is None:
            raise WrongState("the request was never previewed; preview it, so that its approval stands for something")
        connection.execute(
            "UPDATE cv.erasures SET state = 'approved', decided_by = %s, decided_at = now(), detail = NULL"
            " WHERE request_id = %s",
            [by, request_id],
        )
        append(
            connection,
            actor=by,
            action="erasure.approved",
            details={"request": request_id, "clips": request.preview.get("clips")},
        )


def refuse(database: Database, request_id: uuid.UUID, *, by: str, reason: str) -> None:
    """Refuse a request. Raises WrongState where it is under way already."""
    if not by.strip() or not reason.strip():
        raise ValueError("a refusal needs the name of who refuses, and why")
    with database.transaction() as connection:
        expect(lock(connection, request_id), "received", "previewed", "approved", "suspended")
        connection.execute(
            "UPDATE cv.erasures SET state = 'refused', decided_by = %s, decided_at = now(), detail = %s"
            " WHERE request_id = %s",
            [by, reason, request_id],
        )
        append(connection, actor=by, action="erasure.refused", details={"request": request_id})


def note_preview(connection: Connection, request: ErasureRequest, preview: dict[str, Any]) -> None:
    """Keep what an erasure would delete; the caller holds the request's row."""
    connection.execute(
        "UPDATE cv.erasures SET preview = %s, state = CASE state WHEN 'received' THEN 'previewed' ELSE state END"
        " WHERE request_id = %s",
        [Jsonb(preview), request.request_id],
    )


def suspend(connection: Connection, request: ErasureRequest, *, held: int, actor: str) -> None:
    """A legal hold covers part of it: it waits, and the officer is shown why; the caller holds its row."""
    connection.execute(
        "UPDATE cv.erasures SET state = 'suspended', detail = %s WHERE request_id = %s",
        [
            f"a legal hold covers {held} of what it would erase; approve it again when the hold has ended",
            request.request_id,
        ],
    )
    append(connection, actor=actor, action="erasure.suspended", details={"request": request.request_id, "held": held})


def lock(connection: Connection, request_id: uuid.UUID) -> ErasureRequest:
    """The request, its row locked. Raises LookupError."""
    return _read(connection, request_id, "FOR UPDATE")


def get(database: Database, request_id: uuid.UUID) -> ErasureRequest:
    """The request. Raises LookupError."""
    with database.transaction() as connection:
        return _read(connection, request_id, "")


def list_requests(database: Database, *, states: tuple[str, ...] = STATES, limit: int = 1000) -> list[ErasureRequest]:
    """Requests in some states, oldest first."""
    with database.transaction() as connection:
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM cv.erasures WHERE state = ANY(%s) ORDER BY requested_at, request_id LIMIT %s",
            [list(states), limit],
        ).fetchall()
    return [_request(row) for row in rows]


def expect(request: ErasureRequest, *states: str) -> None:
    """Raises WrongState unless the request is in one of the states."""
    if request.state not in states:
        raise WrongState(f"the request is {request.state}; allowed is: {', '.join(states)}")


def _read(connection: Connection, request_id: uuid.UUID, locking: str) -> ErasureRequest:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM cv.erasures WHERE request_id = %s {locking}", [request_id]
    ).fetchone()
    if row is None:
        raise LookupError(f"there is no erasure request {request_id}")
    return _request(row)


def _request(row: tuple[Any, ...]) -> ErasureRequest:
    return ErasureRequest(row[0], ErasureScope(*row[1:9]), *row[9:])
