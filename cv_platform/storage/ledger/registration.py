"""Uploads become clips: in bulk, idempotent, safe to run from several processes at once."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.days import mark_dirty
from cv_platform.storage.ledger.held import is_held
from cv_platform.storage.ledger.model import STAGES, clip_id_for, published_key_for
from cv_platform.storage.ledger.tombstones import erased_uploads
from cv_platform.storage.ledger.withdrawal import KEY_HELD, supersede

REGISTRATION = "registration"
"""Where a clip is quarantined that was refused before any stage saw it: it has no stages."""

# Registrations wait for each other: two of one key must agree on which content came last.
_REGISTRATION_LOCK = 3_907_114_862


@dataclass(frozen=True)
class Upload:
    """An object seen under the raw prefix. Without a site it is quarantined for `problem`."""

    key: str
    etag: str
    size_bytes: int
    site_id: str | None = None
    camera_id: str | None = None
    captured_at: datetime | None = None
    problem: tuple[str, str] | None = None
    """Code and one-line reason, where the upload cannot be processed."""


@dataclass(frozen=True)
class Registered:
    """What one registration did."""

    new: int = 0
    repeated: int = 0
    superseded: int = 0
    quarantined: int = 0
    days: frozenset[date] = field(default_factory=frozenset)
    erased: tuple[str, ...] = ()
    """Keys of what was erased and came back: not registered; the caller deletes the objects."""


def lock_registration(connection: Connection) -> None:
    """Let no upload be registered until the caller's transaction ends."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_REGISTRATION_LOCK])


def register_uploads(database: Database, uploads: Sequence[Upload]) -> Registered:
    """Register what the store holds now, in the order given.

    The same key and etag twice is one clip. The same key with another etag is a new clip that supersedes the old one,
    also where an older content comes back; a held clip is not superseded, the new one is quarantined beside it until
    the hold ends. A camera id that belongs to another site is quarantined. What was erased is not registered again.
    Ends in one transaction: all or nothing.
    """
    last_seen: dict[tuple[str, str], Upload] = {}
    for upload in uploads:
        last_seen.pop((upload.key, upload.etag), None)
        last_seen[upload.key, upload.etag] = upload
    unique = list(last_seen.values())
    if not unique:
        return Registered()

    def work(connection: Connection) -> Registered:
        lock_registration(connection)
        known = _known(connection, {upload.key for upload in unique})
        unknown = [upload for upload in unique if not _is_known(known.get(upload.key, []), upload.etag)]
        erased = erased_uploads(connection, [(u.key, u.site_id, u.camera_id, u.captured_at) for u in unknown])
        fresh = [upload for upload in unknown if upload.key not in erased]
        owners = _owners(connection, fresh)
        rows: list[_NewClip] = []
        replaced: list[tuple[uuid.UUID, uuid.UUID]] = []
        latest: dict[str, list[uuid.UUID]] = {}
        generations = {key: len(contents) for key, contents in known.items()}
        for upload in fresh:
            generation = generations.get(upload.key, 0)
            generations[upload.key] = generation + 1
            clip_id = clip_id_for(upload.key, generation)
            previous = latest.get(upload.key) or _current(known.get(upload.key, []))
            kept = [clip for clip in previous if is_held(connection, clip)]
            replaced.extend((clip, clip_id) for clip in previous if clip not in kept)
            latest[upload.key] = [*kept, clip_id]
            problem = upload.problem
            if problem is None and owners.get(str(upload.camera_id)) != upload.site_id:
                problem = ("camera_of_other_site", "its camera id is registered at another site; ids are unique")
            if problem is None and kept:
                problem = (
                    KEY_HELD,
                    "a legal hold keeps the clip that came under its key before; replay it when the hold is released",
                )
            rows.append(_NewClip(clip_id, upload, problem))
        _insert(connection, rows)
        days = {row.upload.captured_at.date() for row in rows if row.upload.captured_at is not None}
        # A clip without a capture time counts on the day on which it came.
        changed = days | {datetime.now(UTC).date() for row in rows if row.upload.captured_at is None}
        for old, new in replaced:
            changed |= supersede(connection, old, by=new)
        mark_dirty(connection, changed)
        return Registered(
            new=len(rows),
            repeated=len(uploads) - len(unknown),
            superseded=len(replaced),
            quarantined=sum(row.problem is not None for row in rows),
            days=frozenset(days),
            erased=tuple(sorted(erased)),
        )

    return database.transact(work)


def refused_uploads(database: Database, clip_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, tuple[str, str, int]]:
    """Key, etag and bytes of those clips that were refused at registration and whose object is still kept."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT clip_id, upload_key, etag, size_bytes FROM cv.clips WHERE clip_id = ANY(%s)"
            " AND state = 'quarantined' AND quarantine_stage = %s AND raw_deleted_at IS NULL",
            [list(clip_ids), REGISTRATION],
        ).fetchall()
    return {clip_id: (key, etag, size_bytes) for clip_id, key, etag, size_bytes in rows}


def admit(database: Database, uploads: Mapping[uuid.UUID, Upload]) -> int:
    """Let clips in that were refused at registration, by id, as uploads without a problem; returns how many were.

    One whose camera id belongs to another site stays refused; so does one whose interval was erased meanwhile.
    """
    wanted = sorted(uploads.items())
    if not wanted:
        return 0

    def work(connection: Connection) -> int:
        lock_registration(connection)
        erased = erased_uploads(connection, [(u.key, u.site_id, u.camera_id, u.captured_at) for _, u in wanted])
        owners = _owners(connection, uploads.values())
        admitted = 0
        days: set[date] = set()
        for clip_id, upload in wanted:
            if upload.key in erased or owners.get(str(upload.camera_id)) != upload.site_id:
                continue
            row = connection.execute(
                "UPDATE cv.clips SET state = 'in_progress', site_id = %s, camera_id = %s, captured_at = %s,"
                " capture_date = %s, quarantine_stage = NULL, quarantine_code = NULL, quarantine_reason = NULL,"
                " quarantined_at = NULL WHERE clip_id = %s AND state = 'quarantined' AND quarantine_stage = %s"
                " AND raw_deleted_at IS NULL RETURNING captured_at, capture_date",
                [
                    upload.site_id, upload.camera_id, upload.captured_at,
                    upload.captured_at.date() if upload.captured_at else None, clip_id, REGISTRATION,
                ],
            ).fetchone()  # fmt: skip
            if row is None:
                continue
            connection.execute(
                "INSERT INTO cv.stages (clip_id, stage, site_id, camera_id, capture_date, captured_at, state)"
                " SELECT %s, stage, %s, %s, %s, %s, CASE WHEN stage = %s THEN 'pending' ELSE 'blocked' END"
                " FROM unnest(%s::text[]) AS stage",
                [clip_id, upload.site_id, upload.camera_id, row[1], row[0], STAGES[0], list(STAGES)],
            )
            days.add(row[1])
            admitted += 1
        mark_dirty(connection, days)
        return admitted

    return database.transact(work)


@dataclass(frozen=True)
class KnownContent:
    """A content that was seen under a key."""

    clip_id: uuid.UUID
    etags: frozenset[str]
    size_bytes: int
    sha256: str | None
    current: bool
    """Whether it is the key's newest content."""


def known_contents(database: Database, keys: Iterable[str]) -> dict[str, list[KnownContent]]:
    """What was seen under keys before; keys never seen are left out."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT upload_key, clip_id, etag, other_etags, size_bytes, content_sha256, state <> 'superseded'"
            " FROM cv.clips WHERE upload_key = ANY(%s)",
            [list(keys)],
        ).fetchall()
    found: dict[str, list[KnownContent]] = {}
    for key, clip_id, etag, others, size_bytes, sha256, current in rows:
        content = KnownContent(clip_id, frozenset([etag, *others]), size_bytes, sha256, current)
        found.setdefault(key, []).append(content)
    return found


def note_etag(database: Database, clip_id: uuid.UUID, etag: str) -> None:
    """Remember that a clip's very content was seen under another etag."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE cv.clips SET other_etags = array_append(other_etags, %s)"
            " WHERE clip_id = %s AND etag <> %s AND %s <> ALL(other_etags)",
            [etag, clip_id, etag, etag],
        )


@dataclass(frozen=True)
class _NewClip:
    clip_id: uuid.UUID
    upload: Upload
    problem: tuple[str, str] | None

    @property
    def waits(self) -> bool:
        """Whether nothing but a hold stands in its way: it can be replayed."""
        return self.problem is not None and self.problem[0] == KEY_HELD


@dataclass(frozen=True)
class _Known:
    clip_id: uuid.UUID
    state: str
    etags: frozenset[str]


def _known(connection: Connection, keys: set[str]) -> dict[str, list[_Known]]:
    rows = connection.execute(
        "SELECT upload_key, etag, clip_id, state, other_etags FROM cv.clips WHERE upload_key = ANY(%s)",
        [sorted(keys)],
    ).fetchall()
    known: dict[str, list[_Known]] = {}
    for key, etag, clip_id, state, others in rows:
        known.setdefault(key, []).append(_Known(clip_id, state, frozenset([etag, *others])))
    return known


def _is_known(contents: Iterable[_Known], etag: str) -> bool:
    """Whether that content needs no new clip: one that was replaced and is back does, one that was erased never."""
    return any(etag in content.etags for content in contents if content.state != "superseded")


def _current(contents: Iterable[_Known]) -> list[uuid.UUID]:
    """The contents of a key that a newer one replaces: those that have neither been replaced nor gone otherwise."""
    return sorted(c.clip_id for c in contents if c.state in ("in_progress", "published", "quarantined"))


def _owners(connection: Connection, uploads: Iterable[Upload]) -> dict[str, str]:
    found = {(str(u.camera_id), str(u.site_id)) for u in uploads if u.problem is None and u.site_id is not None}
    return register_cameras(connection, found)


def register_cameras(connection: Connection, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Make sites and cameras that are new, given as (camera, site); returns each camera's site, the first told."""
    wanted = sorted(set(pairs))
    with connection.cursor() as cursor:
        sites = sorted({site for _, site in wanted})
        cursor.execute("INSERT INTO cv.sites (site_id) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", [sites])
        cursor.execute(
            "INSERT INTO cv.cameras (camera_id, site_id) SELECT * FROM unnest(%s::text[], %s::text[])"
            " ON CONFLICT DO NOTHING",
            [[camera for camera, _ in wanted], [site for _, site in wanted]],
        )
        cursor.execute(
            "INSERT INTO cv.camera_heads (camera_id, site_id) SELECT camera_id, site_id FROM cv.cameras"
            " WHERE camera_id = ANY(%s) ON CONFLICT DO NOTHING",
            [[camera for camera, _ in wanted]],
        )
        cursor.execute(
            "SELECT camera_id, site_id FROM cv.cameras WHERE camera_id = ANY(%s)", [[camera for camera, _ in wanted]]
        )
        return {str(camera): str(site) for camera, site in cursor.fetchall()}


def _insert(connection: Connection, rows: Sequence[_NewClip]) -> None:
    with connection.cursor() as cursor:
        with cursor.copy(
            "COPY cv.clips (clip_id, site_id, camera_id, upload_key, etag, size_bytes, captured_at, capture_date,"
            " state, quarantine_stage, quarantine_code, quarantine_reason, quarantined_at, published_key) FROM STDIN"
        ) as copy:
            for row in rows:
                upload, (code, reason) = row.upload, row.problem or (None, None)
                refused = row.problem is not None
                stage = (STAGES[0] if row.waits else REGISTRATION) if refused else None
                day = upload.captured_at.date() if upload.captured_at else None
                copy.write_row(
                    (
                        row.clip_id,
                        upload.site_id,
                        upload.camera_id,
                        upload.key,
                        upload.etag,
                        upload.size_bytes,
                        upload.captured_at,
                        day,
                        "quarantined" if refused else "in_progress",
                        stage,
                        code,
                        reason,
                        "now" if refused else None,
                        published_key_for(row.clip_id),
                    )
                )
        with cursor.copy(
            "COPY cv.stages (clip_id, stage, site_id, camera_id, capture_date, captured_at, state) FROM STDIN"
        ) as copy:
            for row in rows:
                upload = row.upload
                if (row.problem is not None and not row.waits) or upload.captured_at is None:
                    continue
                for stage in STAGES:
                    copy.write_row(
                        (
                            row.clip_id,
                            stage,
                            upload.site_id,
                            upload.camera_id,
                            upload.captured_at.date(),
                            upload.captured_at,
                            "stopped" if row.waits else "pending" if stage == STAGES[0] else "blocked",
                        )
                    )
