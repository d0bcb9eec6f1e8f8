"""Which objects the ledger points at, in order of key: what a listing of a store is compared with."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.expiry import starve
from cv_platform.storage.ledger.held import unblock
from cv_platform.storage.ledger.model import BLURRED_CLIPS, DECODED_FRAMES, DETECTIONS, RAW_CLIPS
from cv_platform.storage.ledger.withdrawal import quarantine_clip

Fate = Literal["again", "frozen", "quarantined", "nothing"]

_OUTPUT = (
    "SELECT output_key AS key, clip_id, true AS must FROM cv.stages WHERE stage = '{stage}' AND output_key IS NOT NULL"
    " AND output_key LIKE '{folder}/%%'"
)


@dataclass(frozen=True)
class Folder:
    """One folder of a store.

    Attributes:
        keys: SQL for the keys in it that the ledger points at, their clips, and whether each must be there by now.
        certificates: whether a certificate lies beside each.
    """

    store: Literal["restricted", "cold"]
    keys: str
    certificates: bool = False


FOLDERS: Final[dict[str, Folder]] = {
    "vault": Folder("restricted", _OUTPUT.format(stage=RAW_CLIPS, folder="vault")),
    "frames": Folder("restricted", _OUTPUT.format(stage=DECODED_FRAMES, folder="frames")),
    "detections": Folder("cold", _OUTPUT.format(stage=DETECTIONS, folder="detections")),
    "staging": Folder("cold", _OUTPUT.format(stage=BLURRED_CLIPS, folder="staging"), certificates=True),
    "blurred": Folder(
        "cold",
        "SELECT published_key AS key, clip_id, copied_sha256 = published_sha256 AS must FROM cv.clips"
        " WHERE published_sha256 IS NOT NULL",
        certificates=True,
    ),
    "warehouse": Folder(
        "cold",
        "SELECT object_key AS key, NULL::uuid AS clip_id, true AS must FROM cv.cold_files WHERE state <> 'expired'",
    ),
    "previews": Folder("cold", "SELECT preview_key AS key, clip_id, false AS must FROM cv.previews"),
}


@dataclass(frozen=True)
class Expected:
    """An object that the ledger points at.

    Attributes:
        clip_id: whose it is; None for a file of the warehouse, which holds a camera's day.
    """

    key: str
    clip_id: uuid.UUID | None
    must: bool


@contextmanager
def expected_objects(database: Database, folder: str) -> Iterator[Iterator[Expected]]:
    """The folder's keys in the order of their bytes, a page in memory at a time, as they stood at one moment."""
    with database.transaction() as connection, connection.cursor(name="expected") as cursor:
        cursor.itersize = 2000
        suffixes = "(''), ('.certificate.json')" if FOLDERS[folder].certificates else "('')"
        cursor.execute(
            f"SELECT key || suffix, clip_id, coalesce(must, false) FROM ({FOLDERS[folder].keys}) e,"
            f' (VALUES {suffixes}) s (suffix) ORDER BY (key || suffix) COLLATE "C"'
        )
        yield (Expected(*row) for row in cursor)


def is_expected(connection: Connection, folder: str, key: str) -> bool:
    """Whether the ledger points at the key now."""
    row = connection.execute(
        f"SELECT 1 FROM ({FOLDERS[folder].keys}) e WHERE key = %(key)s LIMIT 1", {"key": _owner(folder, key)}
    ).fetchone()
    return row is not None


def _owner(folder: str, key: str) -> str:
    return key.removesuffix(".certificate.json") if FOLDERS[folder].certificates else key


def redo_missing(database: Database, folder: str, missing: Expected) -> Fate:
    """An object that must be there is not: what it was made from makes it again, as far as that is there.

    Returns:
        "again": the ledger asks for it; "frozen": it is gone for good, and the clip is published without it;
        "quarantined": the clip cannot go on without it; "nothing": nobody points at it any more.
    """
    clip_id = missing.clip_id
    if clip_id is None:
        return database.transact(lambda connection: _redo_cold_file(connection, missing.key))

    def work(connection: Connection) -> Fate:
        connection.execute("SELECT 1 FROM cv.clips WHERE clip_id = %s FOR NO KEY UPDATE", [clip_id])
        row = connection.execute(
            f"SELECT c.state, c.raw_deleted_at IS NULL, must FROM ({FOLDERS[folder].keys}) e"
            " JOIN cv.clips c USING (clip_id) WHERE key = %(key)s AND c.clip_id = %(clip)s",
            {"key": _owner(folder, missing.key), "clip": clip_id},
        ).fetchone()
        if row is None or not row[2]:
            return "nothing"
        return _redo(connection, folder, clip_id, state=row[0], raw=row[1])

    return database.transact(work)


def _redo_cold_file(connection: Connection, key: str) -> Fate:
    """A file of the warehouse: while its rows are in PostgreSQL they are exported again, else a backup must bring it.

    What the ledger knows of it stays: a restored file counts again, and no query takes its day for an empty one.
    """
    row = connection.execute(
        "SELECT state, day FROM cv.cold_files WHERE object_key = %s AND state <> 'expired'", [key]
    ).fetchone()
    if row is None:
        return "nothing"
    if row[0] == "live":
        return "frozen"
    connection.execute(
        "UPDATE cv.cold_days SET state = 'warm', changed_at = now()"
        " WHERE day = %s AND state IN ('exporting', 'exported')",
        [row[1]],
    )
    return "again"


def _redo(connection: Connection, folder: str, clip_id: uuid.UUID, *, state: str, raw: bool) -> Fate:
    if folder in ("blurred", "staging"):
        # Publishing sees that the copy is due, copies again, and makes the clip anew where its source is gone too.
        connection.execute("UPDATE cv.clips SET copied_sha256 = NULL WHERE clip_id = %s", [clip_id])
        return "again" if state == "published" else "frozen"
    stage = {"vault": RAW_CLIPS, "frames": DECODED_FRAMES, "detections": DETECTIONS}[folder]
    connection.execute(
        "UPDATE cv.stages SET output_key = NULL, output_sha256 = NULL, output_deleted_at = now()"
        " WHERE clip_id = %s AND stage = %s",
        [clip_id, stage],
    )
    if stage == RAW_CLIPS:
        connection.execute("UPDATE cv.clips SET raw_deleted_at = now() WHERE clip_id = %s", [clip_id])
        if state == "in_progress":
            quarantine_clip(
                connection, clip_id, stage=RAW_CLIPS, code="object_lost", reason="its raw clip is not in the store"
            )
            return "quarantined"
        starve(connection, [clip_id])
        return "frozen"
    source = raw if stage == DECODED_FRAMES else raw or _has_frames(connection, clip_id)
    if not source or state not in ("in_progress", "published"):
        starve(connection, [clip_id])
        return "frozen"
    _again(connection, clip_id, stage)
    if stage == DETECTIONS and not _has_frames(connection, clip_id):
        _again(connection, clip_id, DECODED_FRAMES)
    unblock(connection, [clip_id])
    return "again"


def _has_frames(connection: Connection, clip_id: uuid.UUID) -> bool:
    row = connection.execute(
        "SELECT 1 FROM cv.stages WHERE clip_id = %s AND stage = %s AND output_key IS NOT NULL",
        [clip_id, DECODED_FRAMES],
    ).fetchone()
    return row is not None


def _again(connection: Connection, clip_id: uuid.UUID, stage: str) -> None:
    connection.execute(
        "UPDATE cv.stages SET state = 'blocked', fence = fence + 1, input_generation = input_generation + 1,"
        " attempts = 0, next_attempt_at = '-infinity', lease_expires_at = NULL WHERE clip_id = %s AND stage = %s"
        " AND state IN ('done', 'frozen')",
        [clip_id, stage],
    )


def discard_orphan(database: Database, folder: str, key: str) -> bool:
    """Leave an object to the collector that nothing points at; False where something does, or it is there already."""
    store = FOLDERS[folder].store
    with database.transaction() as connection:
        if is_expected(connection, folder, key):
            return False
        done = connection.execute(
            # A certificate goes with the object beside which it lies.
            "INSERT INTO cv.garbage (store, object_key) SELECT %(store)s, %(key)s WHERE NOT EXISTS"
            " (SELECT 1 FROM cv.garbage WHERE store = %(store)s AND object_key = %(owner)s) ON CONFLICT DO NOTHING",
            {"store": store, "key": key, "owner": _owner(folder, key)},
        )
    return done.rowcount == 1


def spent_uploads(database: Database, keys: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of (upload key, etag) whose content the ledger knows and nobody needs: sealed, expired or erased."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT u.key, u.etag FROM unnest(%s::text[], %s::text[]) u (key, etag)"
            " WHERE EXISTS (SELECT 1 FROM cv.clips c WHERE c.upload_key = u.key"
            " AND (u.etag = c.etag OR u.etag = ANY(c.other_etags)))"
            " AND NOT EXISTS (SELECT 1 FROM cv.clips c WHERE c.upload_key = u.key AND c.raw_deleted_at IS NULL"
            " AND (u.etag = c.etag OR u.etag = ANY(c.other_etags)))",
            [[key for key, _ in keys], [etag for _, etag in keys]],
        ).fetchall()
    return rows


def discard_upload(database: Database, key: str, etag: str) -> None:
    """Leave a spent upload to the collector, which deletes it only while it is that content."""
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO cv.garbage (store, object_key, only_etags) VALUES ('restricted', %s, %s)"
            " ON CONFLICT (store, object_key) DO UPDATE SET only_etags = garbage.only_etags || EXCLUDED.only_etags",
            [key, [etag]],
        )
