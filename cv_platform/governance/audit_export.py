"""The audit chain outside the database: a file a day in the store, under Object Lock where the bucket has one.

Whoever can rewrite the table cannot rewrite what lies there; `cv-platform audit verify` compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final

from cv_platform import faults
from cv_platform.governance.audit import AuditEntry, AuditHead, entries, problems
from cv_platform.storage.database import Database
from cv_platform.storage.objects import ObjectStore

FOLDER: Final = "audit"
_MOST_LINES: Final = 100_000


@dataclass(frozen=True)
class Exported:
    """What an export did: files and entries written, and whether the store keeps them from deletion."""

    files: int
    entries: int
    locked: bool


def export_audit(database: Database, store: ObjectStore, *, keep: timedelta) -> Exported:
    """Write what the store does not have yet, as JSON lines, one file a UTC day and piece.

    Names sort like the chain: `audit/YYYY-MM-DD/FIRST-LAST.jsonl`, ten digits each. A file is written once; an export
    that was killed, or that ran twice at once, leaves files that say the same.

    Args:
        keep: how long Object Lock keeps a file, where the bucket has Object Lock.
    """
    last = max((found for _, found in _ranges(store)), default=0)
    files = written = 0
    locked = False
    for day, group in groupby(entries(database, after=last), key=lambda entry: entry.at.astimezone(UTC).date()):
        for piece in _pieces(group, _MOST_LINES):
            name = f"{FOLDER}/{day.isoformat()}/{piece[0].seq:010}-{piece[-1].seq:010}.jsonl"
            data = "".join(f"{entry.to_json()}\n" for entry in piece).encode()
            locked = store.put_locked(name, data, until=datetime.now(UTC) + keep)
            faults.point("audit.exported")
            files, written = files + 1, written + len(piece)
    return Exported(files, written, locked)


def exported_entries(store: ObjectStore) -> Iterator[AuditEntry]:
    """What was exported, in the order of the chain. Raises ValueError for a line that is no entry."""
    next_seq = 1
    for _, found in _exported_files(store):
        for entry in found:
            if entry.seq >= next_seq:  # two exports at once may have written some entries twice
                yield entry
                next_seq = entry.seq + 1


def _exported_files(store: ObjectStore) -> Iterator[tuple[str, list[AuditEntry]]]:
    """Key and entries of each file, in the order of the chain."""
    for info in sorted(store.list(FOLDER), key=lambda info: info.key.rsplit("/", 1)[1]):
        yield info.key, [AuditEntry.from_json(line) for line in store.get_bytes(info.key).decode().splitlines()]


@dataclass(frozen=True)
class ExportGaps:
    """What the names of the exported files tell.

    Attributes:
        files: objects in the folder.
        missing: entries before the last exported one that no file names.
        strange: objects that are not named like a piece of the chain.
    """

    files: int
    missing: int
    strange: int


def export_gaps(store: ObjectStore) -> ExportGaps:
    """Look for what is missing in the export, or does not belong there, by its files' names alone."""
    files = strange = missing = end = 0
    ranges = []
    for info in store.list(FOLDER):
        files += 1
        found = _range(info.key)
        if found is None:
            strange += 1
        else:
            ranges.append(found)
    for first, last in sorted(ranges):
        missing += max(0, first - end - 1)
        end = max(end, last)
    return ExportGaps(files, missing, strange)


def verify_audit(database: Database, store: ObjectStore | None, *, known: Iterable[AuditHead] = ()) -> Iterator[str]:
    """What is wrong with the chain in the database, with the exported one, and between the two.

    Args:
        store: where it was exported to; None checks the database's chain alone.
        known: heads that stand in certificates elsewhere; those that the ledger keeps are looked at anyway.
    """
    heads = [*known, *_certified_heads(database)]
    if store is not None:
        try:
            for problem in problems(exported_entries(store)):
                yield f"exported {problem}"
            for key, found in _exported_files(store):
                yield from _file_problems(key, found)
                heads += {AuditHead(entry.seq, entry.entry_hash) for entry in found}
        except (ValueError, json.JSONDecodeError) as error:
            yield f"exported file: {error}"
    yield from problems(entries(database), known=heads)


def _file_problems(key: str, found: list[AuditEntry]) -> Iterator[str]:
    """What the chain does not tell: a file cut short at its end, and a change in what another file says too."""
    named = _range(key)
    if named is not None and [entry.seq for entry in found] != list(range(named[0], named[1] + 1)):
        yield f"exported file of entries {named[0]} to {named[1]}: holds others than its name says, or not all of them"
    for entry in found:
        if entry.expected_hash() != entry.entry_hash:
            yield f"exported entry {entry.seq}: changed; its hash is not that of what it says"


def _certified_heads(database: Database) -> list[AuditHead]:
    """The heads in the certificates that the ledger keeps: an end that was cut off behind the last export shows."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT (certificate #>> '{audit_head,seq}')::bigint, certificate #>> '{audit_head,entry_hash}'"
            " FROM cv.erasures WHERE certificate ? 'audit_head'"
        ).fetchall()
    return [AuditHead(seq, entry_hash) for seq, entry_hash in rows]


def _ranges(store: ObjectStore) -> Iterator[tuple[int, int]]:
    return (found for info in store.list(FOLDER) if (found := _range(info.key)) is not None)


def _range(key: str) -> tuple[int, int] | None:
    """First and last entry of a file, by its name."""
    name = key.rsplit("/", 1)[1]
    first, _, last = name.removesuffix(".jsonl").partition("-")
    return (int(first), int(last)) if name.endswith(".jsonl") and first.isdigit() and last.isdigit() else None


def _pieces(group: Iterable[AuditEntry], size: int) -> Iterator[list[AuditEntry]]:
    piece: list[AuditEntry] = []
    for entry in group:
        piece.append(entry)
        if len(piece) == size:
            yield piece
            piece = []
    if piece:
        yield piece
