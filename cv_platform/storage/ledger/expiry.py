"""Clips whose term is over: what goes, in batches, each in one transaction that locks the clips and asks the hold.

What goes is left to the collector in that transaction; the ledger says at once that it is gone. A clip that was never
published has no use without its raw bytes: it expires as a whole.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from cv_platform import faults
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.clip_keys import destroy_keys
from cv_platform.storage.ledger.days import mark_dirty
from cv_platform.storage.ledger.held import unblock
from cv_platform.storage.ledger.model import DECODED_FRAMES, DETECTIONS, RAW_CLIPS, STAGES
from cv_platform.storage.ledger.tiers import EVERYWHERE, DataClass, Places, lock_free, lock_older
from cv_platform.storage.ledger.withdrawal import discard_objects, withdraw_clip

EXPIRING: Final[tuple[DataClass, ...]] = ("raw", "frames", "quarantine", "cold")
BATCH: Final = 200


@dataclass(frozen=True)
class Expired:
    """What one batch let go.

    Attributes:
        clips: whose data of the class went.
        whole: of these, clips that are expired now.
    """

    clips: int = 0
    whole: int = 0

    def __add__(self, other: Expired) -> Expired:
        return Expired(self.clips + other.clips, self.whole + other.whole)


def expire_older(
    database: Database,
    data_class: DataClass,
    *,
    older_than: timedelta,
    places: Places = EVERYWHERE,
    early: bool = False,
    limit: int = BATCH,
) -> Expired:
    """Let the oldest clips' data of a class go, as far as its term is over and no hold covers it.

    Args:
        early: also what may go before its term.

    Returns:
        What went; call again until nothing does.
    """

    def choose(connection: Connection) -> list[uuid.UUID]:
        return lock_older(connection, data_class, older_than=older_than, places=places, early=early, limit=limit)

    return _expire(database, data_class, choose)


def expire_these(database: Database, data_class: DataClass, clip_ids: Sequence[uuid.UUID]) -> Expired:
    """As `expire_older`, whatever their age: to make room. Those that are held now are left."""
    return _expire(database, data_class, lambda connection: lock_free(connection, clip_ids))


def _expire(database: Database, data_class: DataClass, choose: Callable[[Connection], list[uuid.UUID]]) -> Expired:
    def work(connection: Connection) -> Expired:
        chosen = choose(connection)
        if not chosen:
            return Expired()
        days: set[date] = set()
        done = _ACTIONS[data_class](connection, chosen, days)
        mark_dirty(connection, days)
        faults.point("expire.before_commit")
        return done

    done = database.transact(work)
    faults.point("expire.after_commit")
    return done


def _expire_raw(connection: Connection, clip_ids: list[uuid.UUID], days: set[date]) -> Expired:
    _drop_raw(connection, clip_ids)
    rows = connection.execute(
        "SELECT clip_id FROM cv.clips WHERE clip_id = ANY(%s) AND state = 'in_progress' ORDER BY clip_id", [clip_ids]
    ).fetchall()
    unpublished = [clip_id for (clip_id,) in rows]
    for clip_id in unpublished:
        days |= withdraw_clip(connection, clip_id)
    _end(connection, unpublished)
    starve(connection, clip_ids)
    return Expired(len(clip_ids), len(unpublished))


def _expire_frames(connection: Connection, clip_ids: list[uuid.UUID], days: set[date]) -> Expired:
    _drop_outputs(connection, clip_ids, DECODED_FRAMES, "restricted")
    starve(connection, clip_ids)
    return Expired(len(clip_ids))


def _expire_quarantined(connection: Connection, clip_ids: list[uuid.UUID], days: set[date]) -> Expired:
    _drop_raw(connection, clip_ids)
    for clip_id in clip_ids:
        # Nothing is left of most; what a hold kept goes now.
        days |= withdraw_clip(connection, clip_id)
    _end(connection, clip_ids)
    return Expired(len(clip_ids), len(clip_ids))


def _expire_published(connection: Connection, clip_ids: list[uuid.UUID], days: set[date]) -> Expired:
    """Aggregates of these days stand: they are no personal data, and no day is built again for this."""
    for clip_id in clip_ids:
        withdraw_clip(connection, clip_id)
    _end(connection, clip_ids)
    return Expired(len(clip_ids), len(clip_ids))


_ACTIONS: Final[dict[DataClass, Callable[[Connection, list[uuid.UUID], set[date]], Expired]]] = {
    "raw": _expire_raw,
    "frames": _expire_frames,
    "quarantine": _expire_quarantined,
    "cold": _expire_published,
}


def _end(connection: Connection, clip_ids: Sequence[uuid.UUID]) -> None:
    """The clips are expired; where no object of theirs is left, their keys go too."""
    connection.execute(
        "UPDATE cv.clips SET state = 'expired', quarantine_stage = NULL, quarantine_code = NULL,"
        " quarantine_reason = NULL, quarantined_at = NULL, withdrawal_due = false WHERE clip_id = ANY(%s)",
        [list(clip_ids)],
    )
    rows = connection.execute(
        "SELECT clip_id FROM cv.clips WHERE clip_id = ANY(%s) AND raw_deleted_at IS NOT NULL", [list(clip_ids)]
    ).fetchall()
    destroy_keys(connection, [clip_id for (clip_id,) in rows])


def _drop_raw(connection: Connection, clip_ids: Sequence[uuid.UUID]) -> None:
    """The raw bytes: the sealed object, and the upload where it is there still."""
    _drop_outputs(connection, clip_ids, RAW_CLIPS, "restricted")
    connection.execute(
        "UPDATE cv.clips SET raw_deleted_at = now() WHERE clip_id = ANY(%s) AND raw_deleted_at IS NULL",
        [list(clip_ids)],
    )
    # Under the key another content may lie, of a clip that stands: only this clip's own may go.
    connection.execute(
        "INSERT INTO cv.garbage (store, object_key, only_etags) SELECT 'restricted', c.upload_key,"
        " array_agg(DISTINCT e.etag) FROM cv.clips c CROSS JOIN LATERAL"
        " unnest(c.other_etags || c.etag || c.sealed_etag) e (etag) WHERE c.clip_id = ANY(%s) AND e.etag IS NOT NULL"
        " AND c.upload_removed_at IS NULL GROUP BY c.upload_key ORDER BY c.upload_key"
        " ON CONFLICT (store, object_key) DO UPDATE SET only_etags = garbage.only_etags || EXCLUDED.only_etags,"
        " not_before = least(garbage.not_before, EXCLUDED.not_before)",
        [list(clip_ids)],
    )
    # A clip that expired before keeps its key while its raw bytes stand.
    rows = connection.execute(
        "SELECT clip_id FROM cv.clips WHERE clip_id = ANY(%s) AND state IN ('expired', 'superseded')", [list(clip_ids)]
    ).fetchall()
    destroy_keys(connection, [clip_id for (clip_id,) in rows])


def _drop_outputs(connection: Connection, clip_ids: Sequence[uuid.UUID], stage: str, store: str) -> None:
    """Say that the stage's objects are gone, and leave them to the collector."""
    rows = connection.execute(
        "UPDATE cv.stages s SET output_key = NULL, output_sha256 = NULL, output_deleted_at = now()"
        " FROM (SELECT clip_id, stage, output_key FROM cv.stages WHERE clip_id = ANY(%s) AND stage = %s"
        " AND output_key IS NOT NULL ORDER BY clip_id FOR UPDATE) old"
        " WHERE s.clip_id = old.clip_id AND s.stage = old.stage RETURNING old.output_key",
        [list(clip_ids), stage],
    ).fetchall()
    discard_objects(connection, store, [key for (key,) in rows])


# That a stage's input is there, or will be.
_INPUT: Final = {
    DETECTIONS: "EXISTS (SELECT 1 FROM cv.stages u WHERE u.clip_id = s.clip_id AND u.stage = 'decoded_frames'"
    " AND (u.output_key IS NOT NULL OR u.state IN ('blocked', 'pending', 'running')))",
    "tracks": "EXISTS (SELECT 1 FROM warehouse.clip_facts f WHERE f.clip_id = s.clip_id) OR EXISTS"
    " (SELECT 1 FROM cv.stages u WHERE u.clip_id = s.clip_id AND u.stage = 'detections'"
    " AND u.state IN ('blocked', 'pending', 'running'))",
}


def starve(connection: Connection, clip_ids: Sequence[uuid.UUID]) -> None:
    """Freeze stages that wait for an input that is gone: they keep what they have; the others go on."""
    for stage in STAGES:
        there = _INPUT.get(
            stage, "EXISTS (SELECT 1 FROM cv.clips c WHERE c.clip_id = s.clip_id AND c.raw_deleted_at IS NULL)"
        )
        connection.execute(
            "UPDATE cv.stages s SET state = 'frozen', fence = fence + 1, input_generation = input_generation + 1,"
            " lease_expires_at = NULL, attempts = 0, error = NULL, next_attempt_at = '-infinity',"
            " redo_after_hold = false WHERE clip_id = ANY(%s) AND stage = %s"
            f" AND state IN ('blocked', 'pending', 'running') AND NOT ({there})",
            [list(clip_ids), stage],
        )
    unblock(connection, clip_ids)
