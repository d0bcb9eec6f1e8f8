"""The transactions that take a clip, a track or an interval out of ledger and warehouse, and what is left to do."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from psycopg.types.json import Jsonb

from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.days import days_of
from cv_platform.storage.ledger.erasure_scope import TABLES, ErasureScope, cameras_in, rows_where
from cv_platform.storage.ledger.model import published_key_for
from cv_platform.storage.ledger.withdrawal import withdraw_clip


@dataclass(frozen=True)
class ClipTrace:
    """What a clip leaves in stores and warehouse, read before it is erased.

    Attributes:
        camera_id, days: where and when, for stores that are sorted by both.
        upload_key, content_sha256: for its tombstones.
        keys: objects and prefixes by store: `restricted`, `cold`; a prefix ends in `/`.
        rows: count and digest of its rows by table.
    """

    clip_id: uuid.UUID
    camera_id: str | None
    days: list[date]
    upload_key: str
    content_sha256: str | None
    keys: dict[str, list[str]]
    rows: dict[str, tuple[int, str]]


def objects_of(clip_id: uuid.UUID) -> dict[str, list[str]]:
    """Where a clip's objects lie by its id alone: prefixes (they end in `/`) and keys by store."""
    published = published_key_for(clip_id)
    return {
        "restricted": [f"vault/{clip_id}/", f"frames/{clip_id}/"],
        "cold": [published, f"{published}.certificate.json", f"staging/{clip_id}/", f"detections/{clip_id}/"],
    }


def trace_clip(connection: Connection, clip_id: uuid.UUID) -> ClipTrace | None:
    """Where a clip's data lies; None for one that is erased already."""
    clip = connection.execute(
        "SELECT camera_id, captured_at, duration_s, upload_key, content_sha256, published_key, published_from"
        " FROM cv.clips WHERE clip_id = %s AND state <> 'erased'",
        [clip_id],
    ).fetchone()
    if clip is None:
        return None
    camera_id, captured_at, duration_s, upload_key, content_sha256, published_key, published_from = clip
    previews = connection.execute("SELECT preview_key FROM cv.previews WHERE clip_id = %s", [clip_id]).fetchall()
    outputs = connection.execute(
        "SELECT stage, output_key FROM cv.stages WHERE clip_id = %s AND output_key IS NOT NULL", [clip_id]
    ).fetchall()
    known = objects_of(clip_id)
    restricted = {upload_key, *known["restricted"]}
    cold = {*known["cold"], *(key for (key,) in previews), *(key for key in (published_from,) if key)}
    for stage, key in outputs:
        (restricted if stage in ("raw_clips", "decoded_frames") else cold).add(key)
    keys = {name: sorted(_outside(found)) for name, found in (("restricted", restricted), ("cold", cold))}
    rows = {}
    for table in TABLES:
        since = ""
        if table != "events" and captured_at is not None:
            since = ' AND "timestamp" >= %(since)s AND "timestamp" < %(since)s + make_interval(secs => %(seconds)s)'
        answer = connection.execute(
            f"SELECT count(*), coalesce(string_agg(id::text, ',' ORDER BY id), '')"
            f" FROM warehouse.{table} WHERE clip_s3_key = %(key)s"
            f"{' AND camera_id = %(camera)s' if camera_id else ''}{since}",
            {"key": published_key, "camera": camera_id, "since": captured_at, "seconds": (duration_s or 0.0) + 1},
        ).fetchone()
        assert answer is not None
        rows[table] = (int(answer[0]), hashlib.sha256(answer[1].encode()).hexdigest())
    days = [] if captured_at is None else days_of(captured_at, duration_s)
    return ClipTrace(clip_id, camera_id, days, upload_key, content_sha256, keys, rows)


def _outside(keys: set[str]) -> set[str]:
    """Keys that lie under none of the prefixes among them."""
    prefixes = tuple(key for key in keys if key.endswith("/"))
    return {key for key in keys if key in prefixes or not key.startswith(prefixes)}


def erase_clip(connection: Connection, clip_id: uuid.UUID) -> set[date]:
    """Withdraw a clip and leave of its row only that it was: an id, a site, a day. The caller holds its row.

    Returns:
        The days whose aggregates change.
    """
    place = connection.execute(
        "SELECT camera_id, captured_at, coalesce(duration_s, 0) FROM cv.clips WHERE clip_id = %s", [clip_id]
    ).fetchone()
    days = withdraw_clip(connection, clip_id)
    if place is not None and place[0] is not None and place[1] is not None:
        # The clip that comes after a gap tells that this one's tracks ended: those rows carry this one's times.
        connection.execute(
            'DELETE FROM warehouse.events WHERE camera_id = %(camera)s AND "timestamp" >= %(at)s'
            " AND \"timestamp\" <= %(at)s + make_interval(secs => %(s)s) AND kind = 'track_ended'",
            {"camera": place[0], "at": place[1], "s": place[2]},
        )
    connection.execute("DELETE FROM cv.stages WHERE clip_id = %s", [clip_id])
    connection.execute(
        "UPDATE cv.clips SET state = 'erased', camera_id = NULL, captured_at = NULL, duration_s = NULL, facts = NULL,"
        " content_sha256 = NULL, upload_key = 'erased/' || clip_id, etag = 'erased', other_etags = '{}',"
        " size_bytes = 0, received_at = date_trunc('day', received_at), quarantine_stage = NULL,"
        " quarantine_code = NULL, quarantine_reason = NULL, quarantined_at = NULL, superseded_by = NULL,"
        " published_from = NULL, published_sha256 = NULL, published_at = NULL, copied_sha256 = NULL,"
        " published_bytes = NULL, sealed_etag = NULL, raw_deleted_at = now() WHERE clip_id = %s",
        [clip_id],
    )
    return days


def erase_track(connection: Connection, clip_id: uuid.UUID, scope: ErasureScope) -> set[date]:
    """Delete a track's rows in a clip, and let go of the clip's pictures. The caller holds its row.

    Returns:
        The days whose aggregates change.
    """
    clip = connection.execute(
        "SELECT captured_at, duration_s, published_key FROM cv.clips WHERE clip_id = %s", [clip_id]
    ).fetchone()
    if clip is None:
        return set()
    captured_at, duration_s, published_key = clip
    days = days_of(captured_at, duration_s)
    # Detections first: which of them are the track's, its own row says.
    for table in TABLES:
        where, values = rows_where(connection, scope, table, [clip_id])
        of_clip = "" if table == "events" else " AND w.clip_s3_key = %(key)s"
        connection.execute(f"DELETE FROM warehouse.{table} w WHERE {where}{of_clip}", {**values, "key": published_key})
    connection.execute("DELETE FROM cv.previews WHERE clip_id = %s", [clip_id])
    # The detections stay done, so that the camera can be tracked anew without the one who is gone.
    connection.execute(
        "UPDATE cv.stages SET state = 'stopped', fence = fence + 1, input_generation = input_generation + 1,"
        " lease_expires_at = NULL, output_key = NULL, output_sha256 = NULL, output_deleted_at = now(),"
        " stored_bytes = NULL, stored_sha256 = NULL"
        " WHERE clip_id = %s AND stage IN ('raw_clips', 'decoded_frames', 'blurred_clips')",
        [clip_id],
    )
    connection.execute(
        "UPDATE cv.stages SET output_key = NULL, output_sha256 = NULL WHERE clip_id = %s AND stage = 'detections'",
        [clip_id],
    )
    connection.execute(
        "UPDATE cv.stages SET state = 'pending', fence = fence + 1, input_generation = input_generation + 1,"
        " attempts = 0, next_attempt_at = '-infinity' WHERE clip_id = %s AND stage = 'tracks' AND state = 'done'",
        [clip_id],
    )
    connection.execute("DELETE FROM cv.track_states WHERE clip_id = %s", [clip_id])
    connection.execute(
        "UPDATE cv.clips SET state = 'erased', upload_key = 'erased/' || clip_id, etag = 'erased', other_etags = '{}',"
        " content_sha256 = NULL, published_from = NULL, published_sha256 = NULL, published_at = NULL,"
        " copied_sha256 = NULL, published_bytes = NULL, sealed_etag = NULL, raw_deleted_at = now() WHERE clip_id = %s",
        [clip_id],
    )
    return set(days)


def forget_upload(connection: Connection, upload_key: str) -> None:
    """Drop the collector's note of an upload, whose key tells of a camera and a time.

    Notes of other objects stay: a worker that comes late may still write one, and its key names the clip alone.
    """
    connection.execute("DELETE FROM cv.garbage WHERE object_key = %s", [upload_key])


def forget_tracker(connection: Connection, clip_id: uuid.UUID, *, gap_s: float) -> int:
    """Forget the tracker's states that grew out of a clip, and have those clips tracked anew; how many they are.

    A state names the tracks that may go on; what begins over `gap_s` after its predecessor grew out of nothing.
    """
    start = connection.execute(
        "SELECT camera_id, captured_at, clip_id, ends_at FROM cv.track_states WHERE clip_id = %s", [clip_id]
    ).fetchone()
    if start is None:
        return 0
    camera_id, captured_at, last_id, ends_at = start
    forgotten = 0
    while True:
        row = connection.execute(
            "SELECT clip_id, captured_at, ends_at FROM cv.track_states WHERE camera_id = %s"
            " AND (captured_at, clip_id) > (%s, %s) ORDER BY captured_at, clip_id LIMIT 1",
            [camera_id, captured_at, last_id],
        ).fetchone()
        if row is None:
            return forgotten
        grew = (row[1] - ends_at).total_seconds() <= gap_s
        connection.execute("DELETE FROM cv.track_states WHERE clip_id = %s", [row[0]])
        connection.execute(
            "UPDATE cv.stages SET state = 'pending', fence = fence + 1, input_generation = input_generation + 1,"
            " attempts = 0, next_attempt_at = '-infinity' WHERE clip_id = %s AND stage = 'tracks' AND state = 'done'",
            [row[0]],
        )
        forgotten += 1
        if not grew:
            return forgotten
        last_id, captured_at, ends_at = row


def fence_camera(connection: Connection, camera_id: str) -> None:
    """Whoever tracks the camera now must not commit what it remembers. Taken before any clip: heads, clips, stages."""
    connection.execute(
        "UPDATE cv.camera_heads SET fence = fence + 1, state = 'idle', lease_expires_at = NULL, next_clip = NULL"
        " WHERE camera_id = %s",
        [camera_id],
    )


def erase_interval(connection: Connection, scope: ErasureScope) -> tuple[dict[str, int], set[date]]:
    """Delete what is left of a camera's or site's interval, rows of no clip: counts by table, and days that change."""
    if scope.kind not in ("camera", "site"):
        return {}, set()
    cameras = cameras_in(connection, scope)
    gone, days = {}, set()
    for table in TABLES:
        rows = connection.execute(
            f'WITH gone AS (DELETE FROM warehouse.{table} WHERE camera_id = ANY(%s) AND "timestamp" >= %s'
            ' AND "timestamp" < %s RETURNING ("timestamp" AT TIME ZONE \'UTC\')::date AS day)'
            " SELECT day, count(*) FROM gone GROUP BY day",
            [cameras, scope.starts_at, scope.ends_at],
        ).fetchall()
        gone[table] = sum(count for _, count in rows)
        days |= {day for day, _ in rows}
    return gone, days


def erase_summaries(connection: Connection, cameras: Sequence[str], days: Sequence[date]) -> None:
    """Empty the restricted mart, a row a track, for days that are built anew anyway."""
    if connection.execute("SELECT to_regclass('restricted.track_summary')").fetchone() == (None,):
        return
    connection.execute(
        "DELETE FROM restricted.track_summary WHERE camera_id = ANY(%s) AND track_day = ANY(%s)",
        [list(cameras), list(days)],
    )


def note_withdrawn(
    connection: Connection, request_id: uuid.UUID, trace: ClipTrace, *, tally: dict[str, Any] | None = None
) -> None:
    """Say that a clip is out of ledger and warehouse, and which objects must still go."""
    found = {table: {"rows": count, "digest": digest} for table, (count, digest) in trace.rows.items()}
    connection.execute(
        "UPDATE cv.erasure_clips SET state = 'withdrawn', keys = %s, tally = %s"
        " WHERE request_id = %s AND clip_id = %s AND state = 'listed'",
        [
            Jsonb({**trace.keys, "camera": trace.camera_id, "days": [day.isoformat() for day in trace.days]}),
            Jsonb({**found, **(tally or {})}),
            request_id,
            trace.clip_id,
        ],
    )


@dataclass(frozen=True)
class OpenClip:
    """A clip that an erasure has still to do with."""

    clip_id: uuid.UUID
    keys: dict[str, Any]


def list_clips(connection: Connection, request_id: uuid.UUID, clips: Sequence[tuple[uuid.UUID, date | None]]) -> None:
    """Note which clips an erasure must do; those that it knows are left alone."""
    connection.execute(
        "INSERT INTO cv.erasure_clips (request_id, clip_id, capture_date)"
        " SELECT %s, * FROM unnest(%s::uuid[], %s::date[]) ON CONFLICT DO NOTHING",
        [request_id, [clip_id for clip_id, _ in clips], [day for _, day in clips]],
    )


def open_clips(connection: Connection, request_id: uuid.UUID, state: str, *, limit: int) -> list[OpenClip]:
    """Clips of an erasure in a state, in order of id."""
    rows = connection.execute(
        "SELECT clip_id, keys FROM cv.erasure_clips WHERE request_id = %s AND state = %s ORDER BY clip_id LIMIT %s",
        [request_id, state, limit],
    ).fetchall()
    return [OpenClip(clip_id, keys or {}) for clip_id, keys in rows]


def note_purged(connection: Connection, request_id: uuid.UUID, clip_id: uuid.UUID, tally: dict[str, Any]) -> None:
    """Say that a clip's objects are gone, and forget their keys."""
    connection.execute(
        "UPDATE cv.erasure_clips SET state = 'purged', keys = NULL, tally = tally || %s"
        " WHERE request_id = %s AND clip_id = %s AND state = 'withdrawn'",
        [Jsonb(tally), request_id, clip_id],
    )


def clips_of(connection: Connection, request_id: uuid.UUID) -> list[tuple[uuid.UUID, dict[str, Any], date | None]]:
    """Each clip of an erasure with what was counted of it and its day, in order of id."""
    return connection.execute(
        "SELECT clip_id, tally, capture_date FROM cv.erasure_clips WHERE request_id = %s ORDER BY clip_id", [request_id]
    ).fetchall()


def rows_left(
    connection: Connection, scope: ErasureScope, clip_ids: Sequence[uuid.UUID], days: Sequence[date]
) -> dict[str, int]:
    """Rows that are still there of what was erased, by table: the proof of absence wants zeros.

    Args:
        days: of capture of the clips.
    """
    left: dict[str, int] = {}

    def count(name: str, sql: str, values: Any) -> None:
        row = connection.execute(sql, values).fetchone()
        left[name] = left.get(name, 0) + (int(row[0]) if row else 0)

    whole = scope.kind != "track"
    first, last = min(days, default=None), max(days, default=None)
    for table in TABLES:
        if whole:
            within = ' AND "timestamp" >= %s::date AND "timestamp" < %s::date + 2' if table != "events" else ""
            keys = [published_key_for(clip_id) for clip_id in clip_ids]
            count(
                table,
                f"SELECT count(*) FROM warehouse.{table} WHERE clip_s3_key = ANY(%s){within}",
                [keys, first, last] if within else [keys],
            )
        if scope.kind in ("camera", "site"):
            count(
                table,
                f"SELECT count(*) FROM warehouse.{table} WHERE camera_id = ANY(%(cameras)s)"
                ' AND "timestamp" >= %(starts_at)s AND "timestamp" < %(ends_at)s',
                {**scope.values(), "cameras": cameras_in(connection, scope)},
            )
    ids = [list(clip_ids)]
    if whole:
        count("clip_facts", "SELECT count(*) FROM warehouse.clip_facts WHERE clip_id = ANY(%s)", ids)
        count("stages", "SELECT count(*) FROM cv.stages WHERE clip_id = ANY(%s)", ids)
    count("previews", "SELECT count(*) FROM cv.previews WHERE clip_id = ANY(%s)", ids)
    count("keys", "SELECT count(*) FROM cv.clip_keys WHERE wrapped IS NOT NULL AND clip_id = ANY(%s)", ids)
    count("clips", "SELECT count(*) FROM cv.clips WHERE state <> 'erased' AND clip_id = ANY(%s)", ids)
    return left
