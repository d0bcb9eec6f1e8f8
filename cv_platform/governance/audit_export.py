"""The audit chain outside the database: a file a day in the store, under Object Lock where the bucket has one.

Whoever can rewrite the table cannot rewrite what lies there; `cv-platform audit verify` compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final

from cv_platform import faults
from cv_platform.governance.audit import AuditEntry, AuditHead, append, entries, head_of, problems
from cv_platform.storage.database import Database
from cv_platform.storage.objects import ObjectMissing, ObjectStore

FOLDER: Final = "audit"
_MOST_LINES: Final = 100_000
_NAME: Final = re.compile(rf"{FOLDER}/(\d{{4}}-\d\d-\d\d)/(\d{{10}})-(\d{{10}})\.jsonl")


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes:
        files, entries: written.
        locked: whether the store keeps them from deletion.
        missing: entries that an earlier export had written and that were gone from the end; they are written again.
    """

    files: int
    entries: int
    locked: bool
    missing: int = 0


def export_audit(database: Database, store: ObjectStore, *, keep: timedelta) -> Exported:
    """Write what the store does not have yet, as JSON lines, one file a UTC day and piece.

    Names sort like the chain: `audit/YYYY-MM-DD/FIRST-LAST.jsonl`, ten digits each. A file is written once; an export
    that was killed, or that ran twice at once, leaves files that say the same.

    Args:
        keep: how long Object Lock keeps a file, where the bucket has Object Lock.
    """
    # The note first: an export that runs at the same time writes its files before its note.
    noted = max((head.seq for head in _noted_heads(database)), default=0)
    chain_ends = head_of(database).seq
    # A name behind the chain's end is none of ours: it must not keep us from writing what comes.
    last = max((end for _, end in _ranges(store) if end <= chain_ends), default=0)
    missing = max(0, noted - last)
    if missing:
        with database.transaction() as connection:
            append(connection, actor="export_audit", action="audit.export_missing", details={"entries": missing})
    files = written = 0
    locked = False
    for day, group in groupby(entries(database, after=last), key=lambda entry: entry.at.astimezone(UTC).date()):
        for piece in _pieces(group, _MOST_LINES):
            name = f"{FOLDER}/{day.isoformat()}/{piece[0].seq:010}-{piece[-1].seq:010}.jsonl"
            data = "".join(f"{entry.to_json()}\n" for entry in piece).encode()
            locked = store.put_locked(name, data, until=datetime.now(UTC) + keep)
            faults.point("audit.exported")
            files, written, last = files + 1, written + len(piece), piece[-1].seq
    _note(database, last)
    return Exported(files, written, locked, missing)


def exported_entries(store: ObjectStore) -> Iterator[AuditEntry]:
    """What was exported, in the order of the chain. Raises ValueError for a line that is no entry."""
    return _in_order(found for _, found in _exported_files(store))


def _in_order(files: Iterable[list[AuditEntry]]) -> Iterator[AuditEntry]:
    next_seq = 1
    for found in files:
        for entry in found:
            if entry.seq >= next_seq:  # two exports at once may have written some entries twice
                yield entry
                next_seq = entry.seq + 1


def _exported_files(store: ObjectStore, failed: list[str] | None = None) -> Iterator[tuple[str, list[AuditEntry]]]:
    """Key and entries of each file, in the order of the chain.

    Args:
        failed: takes a line a file that cannot be read; None raises ValueError.
    """
    named = (info.key for info in store.list(FOLDER) if _range(info.key) is not None)
    for key in sorted(named, key=lambda key: key.rsplit("/", 1)[1]):
        try:
            found = [AuditEntry.from_json(line) for line in store.get_bytes(key).decode().splitlines()]
        except (ValueError, ObjectMissing) as error:
            if failed is None:
                raise
            failed.append(f"exported file {key}: {error}")
        else:
            yield key, found


@dataclass(frozen=True)
class ExportGaps:
    """What the names of the exported files tell.

    Attributes:
        files: objects in the folder.
        missing: entries up to the last one that was ever exported that no file names.
        strange: objects that are not named like a piece of the chain.
    """

    files: int
    missing: int
    strange: int


def export_gaps(database: Database, store: ObjectStore) -> ExportGaps:
    """Look for what is missing in the export, or does not belong there, by its files' names alone."""
    noted = max((head.seq for head in _noted_heads(database)), default=0)
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
    return ExportGaps(files, missing + max(0, noted - end), strange)


def verify_audit(database: Database, store: ObjectStore | None, *, known: Iterable[AuditHead] = ()) -> Iterator[str]:
    """What is wrong with the chain in the database, with the exported one, and between the two.

    Args:
        store: where it was exported to; None checks the database's chain alone.
        known: heads that stand in certificates elsewhere; those that the ledger keeps are looked at anyway.
    """
    noted = _noted_heads(database)  # before the store is looked at: an export may be under way
    heads = [*known, *_certified_heads(database), *noted]
    if store is not None:
        found: list[str] = []

        def files() -> Iterator[list[AuditEntry]]:
            for key, content in _exported_files(store, found):
                found.extend(_file_problems(key, content))
                heads.extend(AuditHead(entry.seq, entry.entry_hash) for entry in content)
                yield content

        for problem in problems(_in_order(files()), known=noted):
            yield f"exported {problem}"
        yield from found
        for info in store.list(FOLDER):
            if _range(info.key) is None:
                yield f"exported file {info.key}: its name is none that an export gives; nothing else belongs there"
    yield from problems(entries(database), known=heads)


def _file_problems(key: str, found: list[AuditEntry]) -> Iterator[str]:
    """What the chain does not tell: a file cut short at its end, one that was moved, a change beside a good copy."""
    named = _range(key)
    seqs = [entry.seq for entry in found]
    # A name may promise anything: a list is made only of what is there.
    if named is not None and (len(seqs) != named[1] - named[0] + 1 or seqs != [*range(named[0], named[0] + len(seqs))]):
        yield f"exported file of entries {named[0]} to {named[1]}: holds others than its name says, or not all of them"
    folder = key.split("/")[1]
    if any(entry.at.astimezone(UTC).date().isoformat() != folder for entry in found):
        yield f"exported file {key}: holds entries of another day than its folder says"
    for entry in found:
        if entry.expected_hash() != entry.entry_hash:
            yield f"exported entry {entry.seq}: changed; its hash is not that of what it says"


def _note(database: Database, last: int) -> None:
    """Keep in the ledger up to where the chain is in the store."""
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO cv.audit_exports (seq, entry_hash) SELECT seq, entry_hash FROM cv.audit_log WHERE seq = %s"
            " ON CONFLICT DO NOTHING",
            [last],
        )


def _noted_heads(database: Database) -> list[AuditHead]:
    """The last entry of each export that came to its end."""
    with database.transaction() as connection:
        rows = connection.execute("SELECT seq, entry_hash FROM cv.audit_exports ORDER BY seq").fetchall()
    return [AuditHead(seq, entry_hash) for seq, entry_hash in rows]


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
    """First and last entry of a file, by its name; None for a name that no export gives."""
    found = _NAME.fullmatch(key)
    return None if found is None else (int(found[2]), int(found[3]))


def _pieces(group: Iterable[AuditEntry], size: int) -> Iterator[list[AuditEntry]]:
    piece: list[AuditEntry] = []
    for entry in group:
        piece.append(entry)
        if len(piece) == size:
            yield piece
            piece = []
    if piece:
        yield piece
