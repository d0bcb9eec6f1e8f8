"""What the stable keys hold, previews, and objects that nothing points at."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.model import BLURRED_CLIPS, Scope
from cv_platform.storage.ledger.withdrawal import discard_objects, quarantine_clip


@dataclass(frozen=True)
class DueCopy:
    """A published clip whose stable key does not hold what the ledger says."""

    clip_id: uuid.UUID
    source_key: str
    stable_key: str
    sha256: str


def due_copies(database: Database, scope: Scope, *, limit: int) -> list[DueCopy]:
    """Copies to make, oldest first."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT clip_id, published_from, published_key, published_sha256 FROM cv.clips WHERE copy_due"
            " AND published_from IS NOT NULL"
            " AND (%(day)s::date IS NULL OR capture_date = %(day)s)"
            " AND (%(sites)s::text[] = '{}' OR site_id = ANY(%(sites)s))"
            " ORDER BY published_at, clip_id LIMIT %(limit)s",
            {"day": scope.capture_date, "sites": list(scope.sites), "limit": limit},
        ).fetchall()
    return [DueCopy(*row) for row in rows]


def older_sources(database: Database, copy: DueCopy) -> list[str]:
    """Objects that were published before under the same stable key and are still there.

    They are deleted before the copy is made: a worker that was stopped before its own copy of one then finds nothing.
    """
    prefix = f"staging/{copy.clip_id}/"
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT object_key FROM cv.garbage WHERE store = 'cold' AND object_key >= %s AND object_key < %s"
            " AND object_key <> %s AND not_before <= now() ORDER BY object_key",
            [prefix, prefix[:-1] + chr(ord("/") + 1), copy.source_key],
        ).fetchall()
    return [key for (key,) in rows]


def redo_publication(database: Database, copy: DueCopy) -> str:
    """The object to publish is gone: the clip is blurred again, or quarantined where its raw bytes are gone too.

    Returns:
        What was done: "again", "quarantined", or "nothing" where the ledger does not name that object any more.
    """

    def work(connection: Connection) -> str:
        row = connection.execute(
            "SELECT raw_deleted_at, cv.held(clip_id) FROM cv.clips WHERE clip_id = %s AND copy_due"
            " AND published_from = %s AND published_sha256 = %s FOR NO KEY UPDATE",
            [copy.clip_id, copy.source_key, copy.sha256],
        ).fetchone()
        if row is None:
            return "nothing"
        if row[0] is not None:
            quarantine_clip(
                connection,
                copy.clip_id,
                stage=BLURRED_CLIPS,
                code="published_object_lost",
                reason="its blurred clip is not in the store, and its raw clip is past its term",
            )
            return "quarantined"
        publish_again(connection, copy.clip_id, keep_object=row[1])
        return "again"

    return database.transact(work)


def publish_again(connection: Connection, clip_id: uuid.UUID, *, keep_object: bool = False) -> None:
    """Take a clip back from publication and have it blurred anew; the caller has locked it.

    Args:
        keep_object: leave the published object where it is, for a hold.
    """
    connection.execute(
        "UPDATE cv.stages SET state = 'pending', fence = fence + 1, input_generation = input_generation + 1,"
        " attempts = 0, next_attempt_at = '-infinity', lease_expires_at = NULL, output_key = NULL,"
        " output_sha256 = NULL, output_deleted_at = now() WHERE clip_id = %s AND stage = %s",
        [clip_id, BLURRED_CLIPS],
    )
    old = connection.execute(
        "UPDATE cv.clips c SET state = 'in_progress', published_from = NULL, published_sha256 = NULL,"
        " published_at = NULL, copied_sha256 = NULL, published_models = '{}'"
        " FROM (SELECT clip_id, published_from, published_key FROM cv.clips WHERE clip_id = %(id)s) old"
        " WHERE c.clip_id = old.clip_id RETURNING old.published_from, old.published_key",
        {"id": clip_id},
    ).fetchone()
    previews = connection.execute("DELETE FROM cv.previews WHERE clip_id = %s RETURNING preview_key", [clip_id])
    discard_objects(connection, "cold", [key for (key,) in previews.fetchall()])
    if old is not None and not keep_object:
        discard_objects(connection, "cold", old)


def note_copied(database: Database, copy: DueCopy) -> bool:
    """Say that the stable key holds the copy; False, and the copy is due again, where the ledger says otherwise."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT published_from = %s AND published_sha256 = %s AND state = 'published' FROM cv.clips"
            " WHERE clip_id = %s FOR NO KEY UPDATE",
            [copy.source_key, copy.sha256, copy.clip_id],
        ).fetchone()
        matches = bool(row and row[0])
        if matches:
            connection.execute("UPDATE cv.clips SET copied_sha256 = %s WHERE clip_id = %s", [copy.sha256, copy.clip_id])
            connection.execute(
                "UPDATE cv.stages SET output_key = %s WHERE clip_id = %s AND stage = 'blurred_clips'"
                " AND output_key = %s",
                [copy.stable_key, copy.clip_id, copy.source_key],
            )
            # Kept for a while: a worker that comes late with an older copy finds here what to put in its place. Older
            # sources go first, so that by the time this one is gone nothing older is left to copy.
            connection.execute(
                "INSERT INTO cv.garbage (store, object_key, not_before) VALUES ('cold', %s, now() + interval '1 hour')"
                " ON CONFLICT (store, object_key) DO UPDATE SET not_before = EXCLUDED.not_before",
                [copy.source_key],
            )
        else:
            # What was copied is not the ledger's: published anew, the copy is due again; withdrawn, it must go again.
            connection.execute(
                "UPDATE cv.clips SET copied_sha256 = NULL WHERE clip_id = %s AND state = 'published'", [copy.clip_id]
            )
            # The collector leaves it where it is published after all.
            discard_objects(connection, "cold", [copy.stable_key])
    return matches


def note_preview(database: Database, clip_id: uuid.UUID, key: str, *, expires_at: datetime) -> bool:
    """Remember a preview before it is written, so that none is forgotten; False where the clip is not published now."""
    with database.transaction() as connection:
        noted = connection.execute(
            "INSERT INTO cv.previews (preview_key, clip_id, expires_at)"
            " SELECT %s, clip_id, %s FROM cv.clips WHERE clip_id = %s AND state = 'published' FOR SHARE",
            [key, expires_at, clip_id],
        )
    return noted.rowcount == 1


def preview_stands(database: Database, key: str) -> bool:
    """Whether a preview is still noted: its clip may have been withdrawn while it was written."""
    with database.transaction() as connection:
        row = connection.execute("SELECT 1 FROM cv.previews WHERE preview_key = %s", [key]).fetchone()
    return row is not None


def expire_previews(database: Database) -> int:
    """Leave previews past their term to the collector, but those of held clips; returns how many."""
    with database.transaction() as connection:
        connection.execute(
            "SELECT 1 FROM cv.clips WHERE clip_id IN (SELECT clip_id FROM cv.previews WHERE expires_at < now())"
            " ORDER BY clip_id FOR NO KEY UPDATE"
        )
        rows = connection.execute(
            "DELETE FROM cv.previews WHERE expires_at < now() AND NOT cv.held(clip_id) RETURNING preview_key"
        ).fetchall()
        connection.execute(
            "INSERT INTO cv.garbage (store, object_key) SELECT 'cold', unnest(%s::text[]) ON CONFLICT DO NOTHING",
            [[key for (key,) in rows]],
        )
    return len(rows)


def garbage(database: Database, *, limit: int) -> list[tuple[str, str]]:
    """Objects left to the collector: store and key, oldest first."""
    with database.transaction() as connection:
        return connection.execute(
            "SELECT store, object_key FROM cv.garbage WHERE not_before <= now()"
            " ORDER BY not_before, object_key LIKE 'blurred/%%', object_key LIMIT %s",
            [limit],
        ).fetchall()


def remove_garbage(
    database: Database,
    store: str,
    key: str,
    delete: Callable[[Iterable[str]], None],
    *,
    etag_of: Callable[[str], str | None] | None = None,
) -> bool:
    """Delete one object, unless something points at it again; returns whether it was deleted.

    The clip that owns a stable key is locked meanwhile, so that it cannot be published between look and deletion; and
    the object's own row, so that a commit that is about to point at it waits, and finds it gone.

    Args:
        etag_of: what the store says of an upload key, under which newer content may lie; None: it is not asked.
    """
    owner = key.removesuffix(".certificate.json")
    with database.transaction() as connection:
        live = connection.execute(
            # A clip that was quarantined while it was held keeps what was published of it.
            "SELECT state = 'published' OR (published_sha256 IS NOT NULL AND cv.held(clip_id)) FROM cv.clips"
            " WHERE published_key = %s FOR NO KEY UPDATE",
            [owner],
        ).fetchone()
        entry = connection.execute(
            "SELECT again_at, only_etags FROM cv.garbage WHERE store = %s AND object_key = %s AND not_before <= now()"
            " FOR UPDATE",
            [store, key],
        ).fetchone()
        if entry is None:
            return False
        pointed_at = connection.execute(
            # No stage that was withdrawn points at anything: those that still do are held.
            "SELECT EXISTS (SELECT 1 FROM cv.stages WHERE output_key = %(key)s)"
            " OR EXISTS (SELECT 1 FROM cv.clips WHERE published_from = %(key)s"
            " AND (copy_due OR (copied_sha256 IS DISTINCT FROM published_sha256 AND cv.held(clip_id))))"
            " OR EXISTS (SELECT 1 FROM cv.previews WHERE preview_key = %(key)s)",
            {"key": owner},
        ).fetchone()
        newer = entry[1] is not None and _is_newer(connection, key, entry[1], etag_of)
        if (live and live[0]) or (pointed_at and pointed_at[0]) or newer:
            connection.execute("DELETE FROM cv.garbage WHERE store = %s AND object_key = %s", [store, key])
            return False
        delete([key, f"{key}.certificate.json"])
        connection.execute(
            "UPDATE cv.garbage SET not_before = again_at, again_at = NULL WHERE store = %s AND object_key = %s"
            " AND again_at IS NOT NULL",
            [store, key],
        )
        if entry[0] is None:
            connection.execute("DELETE FROM cv.garbage WHERE store = %s AND object_key = %s", [store, key])
    return True


def _is_newer(connection: Connection, key: str, etags: list[str], etag_of: Callable[[str], str | None] | None) -> bool:
    """Whether an upload key holds, or may hold, other content than that which is to go."""
    found = etag_of(key) if etag_of is not None else ""
    if found is None:
        return False
    stands = connection.execute(
        "SELECT 1 FROM cv.clips WHERE upload_key = %s AND raw_deleted_at IS NULL"
        " AND (etag = %s OR %s = ANY(other_etags))",
        [key, found, found],
    ).fetchone()
    return found not in etags or stands is not None


def put_off_garbage(database: Database, store: str, key: str, *, delay_s: float) -> None:
    """An object could not be deleted: it must not hold up the others."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE cv.garbage SET not_before = now() + %s WHERE store = %s AND object_key = %s",
            [timedelta(seconds=delay_s), store, key],
        )


@dataclass(frozen=True)
class PublishedClip:
    """A clip whose published bytes lie under its stable key; its certificate's digest, where that was noted."""

    clip_id: uuid.UUID
    stable_key: str
    sha256: str
    certificate_sha256: str | None


def published_clips(
    database: Database, day: date | None = None, *, sites: Iterable[str] = (), limit: int = 100_000
) -> list[PublishedClip]:
    """Clips whose stable key holds what the ledger says, newest first."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT clip_id, published_key, published_sha256, certificate_sha256 FROM cv.clips"
            " WHERE state = 'published' AND copied_sha256 = published_sha256"
            " AND (%(day)s::date IS NULL OR capture_date = %(day)s)"
            " AND (%(sites)s::text[] = '{}' OR site_id = ANY(%(sites)s))"
            " ORDER BY published_at DESC, clip_id LIMIT %(limit)s",
            {"day": day, "sites": list(sites), "limit": limit},
        ).fetchall()
    return [PublishedClip(*row) for row in rows]
