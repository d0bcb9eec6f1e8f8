"""The audit log: append-only, each entry chained to the one before it by its hash.

An entry names who did what, in counts and ids; never a key, a time of footage or a picture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from psycopg.types.json import Jsonb

from cv_platform.storage.database import Connection, Database

GENESIS: Final = "0" * 64
# Appends wait for each other: the chain has one end.
_CHAIN_LOCK: Final = 5_518_240_771


@dataclass(frozen=True)
class AuditEntry:
    """One entry of the chain."""

    seq: int
    at: datetime
    actor: str
    action: str
    details: dict[str, Any]
    previous: str
    entry_hash: str

    def expected_hash(self) -> str:
        """The hash that the entry must have for what it says."""
        return _hash(self.seq, self.at, self.actor, self.action, self.details, self.previous)

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        return json.dumps({**vars(self), "at": self.at.isoformat()}, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> AuditEntry:
        """The inverse of `to_json`. Raises ValueError."""
        try:
            values = json.loads(line)
            return cls(**{**values, "at": datetime.fromisoformat(values["at"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"no audit entry: {error}") from None


@dataclass(frozen=True)
class AuditHead:
    """The end of the chain: to be kept elsewhere, so that a chain cut short is seen."""

    seq: int
    entry_hash: str


def append(connection: Connection, *, actor: str, action: str, details: dict[str, Any]) -> AuditEntry:
    """Add an entry in the caller's transaction: what is done and that it was done stand or fall together."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_CHAIN_LOCK])
    head = _head(connection)
    seq, at = head.seq + 1, datetime.now(UTC)
    plain = json.loads(json.dumps(details, sort_keys=True, default=str))
    entry = AuditEntry(
        seq, at, actor, action, plain, head.entry_hash, _hash(seq, at, actor, action, plain, head.entry_hash)
    )
    connection.execute(
        "INSERT INTO cv.audit_log (seq, at, actor, action, details, previous, entry_hash)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        [entry.seq, entry.at, actor, action, Jsonb(plain), entry.previous, entry.entry_hash],
    )
    return entry


def record(database: Database, *, actor: str, action: str, details: dict[str, Any]) -> AuditEntry:
    """Add an entry in a transaction of its own."""
    with database.transaction() as connection:
        return append(connection, actor=actor, action=action, details=details)


def head(connection: Connection) -> AuditHead:
    """The end of the chain, as the caller's transaction sees it."""
    return _head(connection)


def head_of(database: Database) -> AuditHead:
    """The end of the chain as it is now."""
    with database.transaction() as connection:
        return _head(connection)


def entries(database: Database, *, after: int = 0, page: int = 10_000) -> Iterator[AuditEntry]:
    """The chain behind entry `after`, in order, a page in memory at a time."""
    while True:
        with database.transaction() as connection:
            rows = connection.execute(
                "SELECT seq, at, actor, action, details, previous, entry_hash FROM cv.audit_log WHERE seq > %s"
                " ORDER BY seq LIMIT %s",
                [after, page],
            ).fetchall()
        for row in rows:
            yield AuditEntry(*row)
        if len(rows) < page:
            return
        after = rows[-1][0]


def problems(chain: Iterable[AuditEntry], *, known: Iterable[AuditHead] = ()) -> Iterator[str]:
    """What is wrong with a chain: a change, a deletion, a reordering, an end that was cut off.

    Args:
        chain: from its first entry.
        known: heads seen earlier (exported, in certificates); each must stand in the chain as it stood then.
    """
    wanted: dict[int, set[str]] = {}
    for head in known:
        if head.seq > 0:
            wanted.setdefault(head.seq, set()).add(head.entry_hash)
    previous, expected_seq = GENESIS, 1
    for entry in chain:
        if entry.seq != expected_seq:
            yield f"entry {expected_seq}: missing; entry {entry.seq} stands in its place"
        if entry.previous != previous:
            yield f"entry {entry.seq}: does not follow the entry before it"
        if entry.expected_hash() != entry.entry_hash:
            yield f"entry {entry.seq}: changed; its hash is not that of what it says"
        if wanted.pop(entry.seq, {entry.entry_hash}) != {entry.entry_hash}:
            yield f"entry {entry.seq}: not the one that was seen earlier; the chain was written anew"
        previous, expected_seq = entry.entry_hash, entry.seq + 1
    for seq in sorted(wanted):
        yield f"entry {seq}: was seen earlier and is gone; the end was cut off"


def _head(connection: Connection) -> AuditHead:
    row = connection.execute("SELECT seq, entry_hash FROM cv.audit_log ORDER BY seq DESC LIMIT 1").fetchone()
    return AuditHead(0, GENESIS) if row is None else AuditHead(row[0], row[1])


def _hash(seq: int, at: datetime, actor: str, action: str, details: dict[str, Any], previous: str) -> str:
    content = [seq, at.astimezone(UTC).isoformat(), actor, action, details, previous]
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
