"""A ledger of as many clips as one likes, filled in the order in which a real one grows."""

from __future__ import annotations

from datetime import date
from typing import Any, Final

import psycopg

from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.model import STAGES
from cv_platform.storage.ledger.tallies import recount

LAST_DAY: Final = date(2026, 6, 30)

# The n-th clip, newest first: on its day one camera after the other.
_CLIPS = """
    INSERT INTO cv.clips (clip_id, site_id, camera_id, upload_key, etag, size_bytes, captured_at, capture_date,
                          received_at, state, duration_s, content_sha256, published_key, published_sha256, published_at,
                          copied_sha256)
    SELECT gen_random_uuid(), 'site' || (n %% %(cameras)s) %% %(sites)s, 'cam' || n %% %(cameras)s, 'raw/' || n, 'etag',
           4000000, day + (n %% %(a_day)s) * interval '86399 s' / %(a_day)s, day, day, %(state)s::text, 60.0,
           repeat('0', 64), 'blurred/' || n, digest, CASE WHEN digest IS NOT NULL THEN day END, digest
    FROM generate_series(%(newest)s::int, %(oldest)s::int) n,
         LATERAL (SELECT %(last)s::date - (n / %(a_day)s)::int AS day) d,
         (SELECT CASE %(state)s::text WHEN 'published' THEN repeat('1', 64) END AS digest) p
"""
_STAGES = """
    INSERT INTO cv.stages (clip_id, stage, site_id, camera_id, capture_date, captured_at, state, version, fence,
                           finished_at, seconds, output_key)
    SELECT clip_id, stage, site_id, camera_id, capture_date, captured_at,
           CASE WHEN c.state = 'published' THEN 'done' WHEN stage = 'raw_clips' THEN 'pending' ELSE 'blocked' END,
           'v1', 1, c.published_at, 1.5,
           CASE WHEN c.state = 'published' AND stage <> 'tracks' THEN stage || '/' || clip_id END
    FROM cv.clips c CROSS JOIN unnest(%(stages)s::text[]) stage WHERE c.state = %(state)s
"""


def fill(database: Database, *, clips: int, cameras: int, days: int, open_clips: int) -> None:
    """Fill an empty ledger: the newest `open_clips` of `clips` wait for their first stage, the others are published.

    Those are written in bulk. What is open comes last and into all indexes, as registration does it: in a ledger of
    years, too, the newest clips are what was touched last.
    """
    sites = max(1, cameras // 16)
    values = {
        "cameras": cameras,
        "sites": sites,
        "last": LAST_DAY,
        "a_day": -(-clips // days),
        "stages": list(STAGES),
    }
    with database.transaction() as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(
            "INSERT INTO cv.sites (site_id) SELECT 'site' || n FROM generate_series(0, %s) n", [sites - 1]
        )
        connection.execute(
            "INSERT INTO cv.cameras (camera_id, site_id) SELECT 'cam' || n, 'site' || n %% %s"
            " FROM generate_series(0, %s) n",
            [sites, cameras - 1],
        )
        connection.execute("INSERT INTO cv.camera_heads (camera_id, site_id) SELECT camera_id, site_id FROM cv.cameras")
        indexes = _drop_indexes(connection)
        _write(connection, {**values, "state": "published", "newest": open_clips, "oldest": clips - 1})
        for definition in indexes:
            connection.execute(definition)
    _vacuum(database)
    with database.transaction() as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        _write(connection, {**values, "state": "in_progress", "newest": 0, "oldest": open_clips - 1})
        recount(connection)
    _vacuum(database)


def _write(connection: Connection, values: dict[str, Any]) -> None:
    connection.execute(_CLIPS, values)
    connection.execute(_STAGES, values)


def _drop_indexes(connection: Connection) -> list[str]:
    """Drop the indexes of clips and stages; returns what makes them again."""
    found = connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'cv' AND tablename IN ('clips', 'stages')"
        " AND indexname NOT IN (SELECT conname FROM pg_constraint WHERE conrelid = 'cv.clips'::regclass"
        " OR conrelid = 'cv.stages'::regclass)"
    ).fetchall()
    for name, _ in found:
        connection.execute(f"DROP INDEX cv.{name}")
    connection.execute("ALTER TABLE cv.stages DROP CONSTRAINT stages_pkey")
    return ["ALTER TABLE cv.stages ADD PRIMARY KEY (clip_id, stage)", *(definition for _, definition in found)]


def _vacuum(database: Database) -> None:
    """Vacuum, gather statistics, and write everything out, so that none of it goes on beside what is measured."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) cv.clips")
        connection.execute("VACUUM (ANALYZE) cv.stages")
        connection.execute("ANALYZE")
        connection.execute("CHECKPOINT")
