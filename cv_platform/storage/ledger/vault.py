"""The vault: raw clips' bytes, sealed, in place of what was uploaded; and the plain uploads that then go.

The vault's object is the output of the stage `raw_clips`. It outlives the clip's withdrawal: a quarantined clip is
replayed from it, and it goes by the term of raw clips.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.commits import keep_object
from cv_platform.storage.ledger.model import RAW_CLIPS, Claim
from cv_platform.storage.ledger.withdrawal import discard_objects, lock_claim, lock_clip


@dataclass(frozen=True)
class StoredObject:
    """An output as it lies in the store, sealed."""

    bytes: int
    sha256: str


def keep_in_vault(database: Database, claim: Claim, *, key: str, sha256: str, stored: StoredObject, etag: str) -> None:
    """Point the ledger at the sealed raw clip, while the claim goes on.

    Args:
        key: was told to `note_object` before it was uploaded.
        sha256: of the plain bytes.
        etag: of the uploaded object that was read.

    Raises:
        StaleClaim: the claim is lost; nothing was written, and the object is left to the collector.
    """
    clip_id = claim.clip.clip_id

    def work(connection: Connection) -> None:
        lock_clip(connection, clip_id)
        lock_claim(connection, claim)
        keep_object(connection, claim, "restricted", key)
        before = connection.execute(
            "SELECT output_key FROM cv.stages WHERE clip_id = %s AND stage = %s", [clip_id, RAW_CLIPS]
        ).fetchone()
        discard_objects(connection, "restricted", [before[0] if before else None])
        connection.execute(
            "UPDATE cv.stages SET output_key = %s, output_sha256 = %s, output_deleted_at = NULL"
            " WHERE clip_id = %s AND stage = %s",
            [key, sha256, clip_id, RAW_CLIPS],
        )
        note_stored(connection, claim, stored)
        connection.execute(
            "UPDATE cv.clips SET content_sha256 = %s, sealed_etag = %s, upload_removed_at = NULL WHERE clip_id = %s",
            [sha256, etag, clip_id],
        )

    database.transact(work)


def note_stored(connection: Connection, claim: Claim, stored: StoredObject) -> None:
    """Say what the stage's output is as it lies in the store."""
    connection.execute(
        "UPDATE cv.stages SET stored_bytes = %s, stored_sha256 = %s WHERE clip_id = %s AND stage = %s",
        [stored.bytes, stored.sha256, claim.clip.clip_id, claim.stage],
    )


def uploads_to_remove(database: Database, *, limit: int) -> list[uuid.UUID]:
    """Clips whose bytes are sealed and whose plain upload was not yet found gone."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT clip_id FROM cv.clips WHERE sealed_etag IS NOT NULL AND upload_removed_at IS NULL"
            " AND (state = 'superseded' OR sealed_etag = etag OR sealed_etag = ANY(other_etags))"
            " ORDER BY clip_id LIMIT %s",
            [limit],
        ).fetchall()
    return [clip_id for (clip_id,) in rows]


def remove_upload(
    database: Database, clip_id: uuid.UUID, delete_unchanged: Callable[[str, str], bool], *, etag: str | None = None
) -> bool:
    """Remove the clip's plain upload, whose bytes the vault holds; returns whether one was looked for.

    The clip is locked meanwhile. Once another content has superseded it, what lies under its key is no longer its own,
    even where it is the same bytes again: they are another clip's, and not sealed yet.

    Args:
        delete_unchanged: deletes what lies under a key if it still has an etag; see `ObjectStore.delete_unchanged`.
        etag: of the same content uploaded again; None: the one that was sealed, where ingest knows it by that etag.
    """
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT upload_key, sealed_etag, state = 'superseded',"
            " sealed_etag = etag OR sealed_etag = ANY(other_etags),"
            " raw_deleted_at IS NOT NULL OR state IN ('expired', 'erased')"
            " OR EXISTS (SELECT 1 FROM cv.stages s WHERE s.clip_id = clips.clip_id AND s.stage = 'raw_clips'"
            " AND s.output_key IS NOT NULL)"
            " FROM cv.clips WHERE clip_id = %s FOR NO KEY UPDATE",
            [clip_id],
        ).fetchone()
        if row is None:
            return False
        upload_key, sealed_etag, superseded, etag_is_known, needless = row
        looked = False
        if needless and not superseded and (etag is not None or etag_is_known):
            delete_unchanged(upload_key, etag or sealed_etag)
            looked = True
        if etag in (None, sealed_etag) and (looked or superseded):
            connection.execute("UPDATE cv.clips SET upload_removed_at = now() WHERE clip_id = %s", [clip_id])
    return looked


def sealed_or_gone(database: Database, clip_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    """Those clips whose plain upload nobody needs: its bytes are in the vault, or past their term."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT clip_id FROM cv.clips c WHERE clip_id = ANY(%s) AND state <> 'superseded'"
            " AND (raw_deleted_at IS NOT NULL OR state IN ('expired', 'erased') OR EXISTS (SELECT 1 FROM cv.stages s"
            " WHERE s.clip_id = c.clip_id AND s.stage = 'raw_clips' AND s.output_key IS NOT NULL))",
            [list(clip_ids)],
        ).fetchall()
    return {clip_id for (clip_id,) in rows}
