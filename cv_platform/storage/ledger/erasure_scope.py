"""What an erasure or an access covers: in the ledger, in the warehouse, and among what has gone cold.

A clip is the unit: one that the interval touches goes whole. A track is one person's path: its rows go, and all
pictures of the clips in which it was seen; what others did in these clips stays as rows.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal

from psycopg.rows import dict_row

from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.cold_days import cold_camera_days, live_files
from cv_platform.storage.ledger.days import days_of, midnight
from cv_platform.storage.ledger.model import published_key_for

ScopeKind = Literal["clip", "track", "camera", "site"]

TABLES: Final = ("detections", "tracks", "events")
"""Tables of the warehouse that hold a clip's rows, each with an `id`."""


@dataclass(frozen=True)
class ErasureScope:
    """What an erasure covers. Make it with one of `clip`, `track`, `camera`, `site`."""

    kind: ScopeKind
    clip_id: uuid.UUID | None = None
    camera_id: str | None = None
    site_id: str | None = None
    track_day: date | None = None
    track_id: int | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def __post_init__(self) -> None:
        wanted: dict[str, tuple[str, ...]] = {
            "clip": ("clip_id",),
            "track": ("camera_id", "track_day", "track_id"),
            "camera": ("camera_id", "starts_at", "ends_at"),
            "site": ("site_id", "starts_at", "ends_at"),
        }
        given = tuple(name for name, value in vars(self).items() if name != "kind" and value is not None)
        if self.kind not in wanted or set(given) != set(wanted[self.kind]):
            allowed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in wanted.items())
            found = f"{self.kind}: {', '.join(given) or 'nothing'}"
            raise ValueError(f"an erasure's scope is {found}; allowed are {allowed}")
        for name in ("starts_at", "ends_at"):
            value = getattr(self, name)
            if value is not None and value.tzinfo is None:
                raise ValueError(f"{name} has no time zone; give one, such as 2026-03-01T08:00:00+01:00")
        if self.starts_at is not None and self.ends_at is not None and self.starts_at >= self.ends_at:
            raise ValueError("starts_at lies at or behind ends_at; allowed is an interval with some time in it")

    def values(self) -> dict[str, Any]:
        """Its fields, for a statement's parameters."""
        return dict(vars(self))

    def as_json(self) -> dict[str, Any]:
        """What it names, as plain JSON."""
        plain: dict[str, Any] = {}
        for name, value in vars(self).items():
            if value is not None:
                is_time = isinstance(value, date)  # a datetime is one too
                plain[name] = value.isoformat() if is_time else str(value) if isinstance(value, uuid.UUID) else value
        return plain


# Clips that are in a scope and have not been erased yet.
_IN_SCOPE: Final[dict[str, str]] = {
    "clip": "c.clip_id = %(clip_id)s",
    "camera": "c.camera_id = %(camera_id)s AND c.captured_at < %(ends_at)s"
    " AND c.captured_at + make_interval(secs => coalesce(c.duration_s, 0)) >= %(starts_at)s",
    "site": "c.site_id = %(site_id)s AND c.captured_at < %(ends_at)s"
    " AND c.captured_at + make_interval(secs => coalesce(c.duration_s, 0)) >= %(starts_at)s",
    "track": "c.camera_id = %(camera_id)s AND c.published_key IN (SELECT t.clip_s3_key FROM warehouse.tracks t"
    " WHERE t.camera_id = %(camera_id)s AND t.track_day = %(track_day)s AND t.track_id = %(track_id)s"
    " AND t.\"timestamp\" >= %(track_day)s::timestamp AT TIME ZONE 'UTC')",
}


def clips_in_scope(connection: Connection, scope: ErasureScope) -> list[tuple[uuid.UUID, date | None]]:
    """Clips that the scope covers and that are not erased yet: id and day of capture, in order of id."""
    return connection.execute(
        f"SELECT c.clip_id, c.capture_date FROM cv.clips c WHERE {_IN_SCOPE[scope.kind]} AND c.state <> 'erased'"
        " ORDER BY c.clip_id",
        scope.values(),
    ).fetchall()


def held_in_scope(connection: Connection, scope: ErasureScope, clip_ids: Sequence[uuid.UUID]) -> int:
    """How many holds' worth of the scope may not be erased: held clips, and the interval itself where it is held."""
    row = connection.execute(
        "SELECT count(*) FROM unnest(%s::uuid[]) AS wanted (clip_id) WHERE cv.held(wanted.clip_id)", [list(clip_ids)]
    ).fetchone()
    held = int(row[0]) if row else 0
    if scope.kind in ("camera", "site"):
        row = connection.execute(
            "SELECT count(*) FROM cv.cameras WHERE (camera_id = %(camera_id)s OR site_id = %(site_id)s)"
            " AND cv.interval_held(site_id, camera_id, NULL, %(starts_at)s, %(ends_at)s - interval '1 microsecond')",
            scope.values(),
        ).fetchone()
        held = max(held, int(row[0]) if row else 0)
    return held


def cameras_in(connection: Connection, scope: ErasureScope) -> list[str]:
    """Cameras that a scope names or whose site it names."""
    rows = connection.execute(
        "SELECT camera_id FROM cv.cameras WHERE camera_id = %(camera_id)s OR site_id = %(site_id)s"
        " UNION SELECT %(camera_id)s::varchar WHERE %(camera_id)s::varchar IS NOT NULL ORDER BY 1",
        scope.values(),
    ).fetchall()
    return [str(camera_id) for (camera_id,) in rows]


def cold_days(connection: Connection, scope: ErasureScope) -> dict[str, list[date]]:
    """Days of a scope that are cold, by camera. Of a track there may be more once these are warm."""
    if scope.kind == "clip":
        clip = connection.execute(
            "SELECT camera_id, captured_at, duration_s, published_key FROM cv.clips WHERE clip_id = %s"
            " AND camera_id IS NOT NULL AND captured_at IS NOT NULL",
            [scope.clip_id],
        ).fetchone()
        if clip is None:
            return {}
        found = {clip[0]: cold_camera_days(connection, clip[0], days_of(clip[1], clip[2]), told_by=clip[3])}
    else:
        if scope.track_day is not None:
            begins, ends = midnight(scope.track_day), _track_ends(connection, scope)
        else:
            assert scope.starts_at is not None
            assert scope.ends_at is not None
            begins, ends = scope.starts_at, scope.ends_at
        # A clip that lasts into the interval may have begun the day before.
        start = begins - timedelta(days=1)
        found = {}
        for file in live_files(connection, cameras=cameras_in(connection, scope), start=start, end=ends):
            found.setdefault(file.camera_id, []).append(file.day)
    return {camera_id: sorted(set(days)) for camera_id, days in found.items() if days}


def _track_ends(connection: Connection, scope: ErasureScope) -> datetime:
    """A moment at which a track has surely ended: behind the day after the last one that is known to have seen it.

    `track_gap_s`, a day at most, parts what is seen later, so a track misses no whole day. Which days saw it, its warm
    rows say, and, where an erasure under way has deleted some of them, the clips that it listed. Days that are cold
    still may have seen it too: the one behind the last known day is among those that are asked for, so whoever brings
    days back and asks again gets to the end.
    """
    row = connection.execute(
        "SELECT greatest(%(track_day)s::date,"
        " (SELECT max(last_seen_at AT TIME ZONE 'UTC')::date FROM warehouse.tracks WHERE camera_id = %(camera_id)s"
        " AND track_day = %(track_day)s AND track_id = %(track_id)s"
        " AND \"timestamp\" >= %(track_day)s::timestamp AT TIME ZONE 'UTC'),"
        " (SELECT max(l.capture_date) FROM cv.erasures e JOIN cv.erasure_clips l USING (request_id)"
        " WHERE e.kind = 'track' AND e.camera_id = %(camera_id)s AND e.track_day = %(track_day)s"
        " AND e.track_id = %(track_id)s))",
        scope.values(),
    ).fetchone()
    assert row is not None
    return midnight(row[0]) + timedelta(days=2)


def cold_days_locked(connection: Connection, scope: ErasureScope) -> dict[str, list[date]]:
    """`cold_days`; from here on to the transaction's end no other day goes cold."""
    connection.execute("LOCK TABLE warehouse.tracks, warehouse.events, warehouse.detections IN ROW EXCLUSIVE MODE")
    return cold_days(connection, scope)


def loose_rows(connection: Connection, scope: ErasureScope) -> dict[str, int]:
    """Rows of a scope's interval that no clip of the ledger owns, as live producers write them, by table."""
    if scope.kind not in ("camera", "site"):
        return {}
    found = {}
    for table in TABLES:
        row = connection.execute(
            f'SELECT count(*) FROM warehouse.{table} w WHERE camera_id = ANY(%s) AND "timestamp" >= %s'
            ' AND "timestamp" < %s AND NOT EXISTS'
            " (SELECT 1 FROM cv.clips c WHERE c.published_key = w.clip_s3_key)",
            [cameras_in(connection, scope), scope.starts_at, scope.ends_at],
        ).fetchone()
        found[table] = int(row[0]) if row else 0
    return found


def rows_of_scope(
    connection: Connection, scope: ErasureScope, table: str, clip_ids: Sequence[uuid.UUID]
) -> Iterator[dict[str, Any]]:
    """A scope's rows of one table, surely its own, in order of time; read through a cursor on the server."""
    where, values = rows_where(connection, scope, table, clip_ids, may_be=False)
    with connection.cursor(name="rows_of_scope", row_factory=dict_row) as cursor:
        cursor.execute(f'SELECT w.* FROM warehouse.{table} w WHERE {where} ORDER BY w."timestamp", w.id', values)
        yield from cursor


def count_rows(connection: Connection, scope: ErasureScope, clip_ids: Sequence[uuid.UUID]) -> dict[str, int]:
    """A scope's rows by table."""
    found = {}
    for table in TABLES:
        where, values = rows_where(connection, scope, table, clip_ids)
        row = connection.execute(f"SELECT count(*) FROM warehouse.{table} w WHERE {where}", values).fetchone()
        found[table] = int(row[0]) if row else 0
    return found


def rows_where(
    connection: Connection, scope: ErasureScope, table: str, clip_ids: Sequence[uuid.UUID], *, may_be: bool = True
) -> tuple[str, dict[str, Any]]:
    """Which rows `w` of a table a scope covers.

    Args:
        may_be: of a track also detections that no track holds and that may show the same person: their boxes share
            something with the track's within a second. An erasure takes them; to hand them over might show another's.
    """
    bounds = connection.execute(
        "SELECT min(captured_at), max(captured_at + make_interval(secs => coalesce(duration_s, 0) + 1)),"
        " coalesce(array_agg(DISTINCT camera_id::text), '{}') FROM cv.clips WHERE clip_id = ANY(%s)"
        " AND camera_id IS NOT NULL",
        [list(clip_ids)],
    ).fetchone()
    assert bounds is not None
    values: dict[str, Any] = {
        **scope.values(),
        "keys": [published_key_for(clip_id) for clip_id in clip_ids],
        "cameras": cameras_in(connection, scope),
        "clip_cameras": bounds[2],
        "first": bounds[0],
        "end": bounds[1],
    }
    if scope.kind != "track":
        # By camera and time, so that other days' partitions are not read; an event may tell of a time before its clip.
        of_clips = "w.clip_s3_key = ANY(%(keys)s)"
        if table != "events":
            of_clips += ' AND w.camera_id = ANY(%(clip_cameras)s) AND w."timestamp" >= %(first)s'
            of_clips += ' AND w."timestamp" < %(end)s'
        interval = 'w.camera_id = ANY(%(cameras)s) AND w."timestamp" >= %(starts_at)s AND w."timestamp" < %(ends_at)s'
        return f"({of_clips}{f' OR {interval}' if scope.starts_at is not None else ''})", values
    since = "w.camera_id = %(camera_id)s AND w.\"timestamp\" >= %(track_day)s::timestamp AT TIME ZONE 'UTC'"
    detections = _of_track("w")
    if may_be:
        detections += f" OR {_NEAR.format(of_track=_of_track('d'))}"
    of_clips = 'w.clip_s3_key = ANY(%(keys)s) AND w."timestamp" >= %(first)s AND w."timestamp" < %(end)s'
    return f"{since} AND " + {
        "tracks": "w.track_id = %(track_id)s AND w.track_day = %(track_day)s",
        "events": "w.track_id = %(track_id)s AND w.attributes ->> 'track_day' = %(track_day)s::text",
        "detections": f"{of_clips} AND ({detections})",
    }[table], values


def _of_track(row: str) -> str:
    """Whether a detection is the track's. The same number may belong to tracks of two days in a clip over midnight."""
    return (
        f"{row}.track_id = %(track_id)s AND EXISTS (SELECT 1 FROM warehouse.tracks t"
        f" WHERE t.camera_id = {row}.camera_id AND t.clip_s3_key = {row}.clip_s3_key"
        f" AND t.track_day = %(track_day)s AND t.track_id = {row}.track_id"
        f' AND {row}."timestamp" BETWEEN t."timestamp" AND t.last_seen_at'
        " AND t.\"timestamp\" >= %(track_day)s::timestamp AT TIME ZONE 'UTC')"
    )


_NEAR: Final = (
    "w.track_id IS NULL AND EXISTS (SELECT 1 FROM warehouse.detections d WHERE d.camera_id = w.camera_id"
    " AND d.clip_s3_key = w.clip_s3_key"
    ' AND d."timestamp" BETWEEN w."timestamp" - interval \'1 s\' AND w."timestamp" + interval \'1 s\''
    " AND d.bbox[1] < w.bbox[3] AND w.bbox[1] < d.bbox[3] AND d.bbox[2] < w.bbox[4] AND w.bbox[2] < d.bbox[4]"
    " AND {of_track})"
)
