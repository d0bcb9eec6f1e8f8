"""Crypto-shredding: the keys of one camera and day, out of a manifest of a million clips. Bar: less than a second.

    python -m benchmarks.lifecycle shred [--clips 1000000] [--rounds 7] [--json FILE]

Clips are 10 s long, so a camera and day has 8,640. Each call destroys another camera's day, commit included, on a
durable PostgreSQL; the loop does the same clip by clip in one transaction, as code without the statement would. Both
leave the clips' rows without a key; scrubbing (docs/keys.md) is timed apart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

from benchmarks._timing import arguments, compare, report
from benchmarks.lifecycle._postgres import fresh_database
from cv_platform.governance.keys import scrub_destroyed_keys
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.clip_keys import count_keys, destroy_keys_of_day

CLIPS_A_DAY = 8640
FIRST_DAY = date(2026, 1, 1)
CAMERAS = 29
BAR_S = 1.0


def main(argv: Sequence[str]) -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--clips", type=int, default=1_000_000, help="clips in the manifest")
    parser.add_argument("--folder", type=Path, default=None, help="where the database goes (1 GB)")
    options = parser.parse_args(argv)
    with fresh_database(options.folder) as database:
        started = time.perf_counter()
        make_manifest(database, options.clips)
        facts = {"clips": options.clips, "clips a camera and day": CLIPS_A_DAY}
        print(f"# made the manifest in {time.perf_counter() - started:.0f} s", flush=True)
        left = days(options.clips)
        slowest = 0.0

        def ours() -> None:
            nonlocal slowest
            camera, day = next(left)
            began = time.perf_counter()
            with database.transaction() as connection:
                assert destroy_keys_of_day(connection, camera, day) == CLIPS_A_DAY
            slowest = max(slowest, time.perf_counter() - began)

        def loop() -> None:
            camera, day = next(left)
            with database.transaction() as connection, connection.cursor() as cursor:
                clips = cursor.execute(
                    "SELECT clip_id FROM cv.clips WHERE camera_id = %s AND capture_date = %s", [camera, day]
                ).fetchall()
                cursor.executemany(
                    "UPDATE cv.clip_keys SET wrapped = NULL, kek_id = NULL, destroyed_at = now() WHERE clip_id = %s",
                    clips,
                )

        case = compare(
            "keys of a camera and day",
            {"cv_platform": ours, "clip by clip, executemany": loop},
            rounds=options.rounds,
            warmup=1,
            sample_s=0.0,
            units=CLIPS_A_DAY,
            facts=facts,
        )
        case.facts["slowest call, s"] = f"{slowest:.3f} (bar {BAR_S})"
        counts = count_keys(database)
        case.facts["destroyed, left"] = f"{counts.destroyed}, {sum(counts.by_kek.values())}"
        for full in (False, True):
            began = time.perf_counter()
            scrub_destroyed_keys(database, full=full, actor="benchmark")
            case.facts[f"scrub{' --full' * full}, s"] = f"{time.perf_counter() - began:.2f}"
    report("crypto-shredding, clips/s", [case], packages=("psycopg",), json_path=options.json)
    if slowest >= BAR_S:
        raise SystemExit(f"the slowest call took {slowest:.2f} s; the bar is {BAR_S} s")


def make_manifest(database: Database, clips: int) -> None:
    """Clips with keys, camera by camera and day by day."""
    with database.transaction() as connection:
        connection.execute("INSERT INTO cv.key_encryption_keys (kek_id) VALUES ('local:bench')")
        connection.execute(
            "INSERT INTO cv.clips (clip_id, site_id, camera_id, upload_key, etag, size_bytes, captured_at,"
            " capture_date, state, published_key, published_sha256)"
            " SELECT gen_random_uuid(), 'north', 'cam' || d.n %% %(cameras)s, 'raw/' || d.n || '/' || d.i, 'e', 1000,"
            " d.day + d.i * interval '10 s', d.day::date, 'published', 'blurred/' || d.n || '/' || d.i, 's'"
            " FROM (SELECT g / %(a_day)s AS n, g %% %(a_day)s AS i,"
            "  (%(first)s::date + (g / %(a_day)s / %(cameras)s)::int)::timestamp AT TIME ZONE 'UTC' AS day"
            "  FROM generate_series(0, %(clips)s - 1) g) d",
            {"cameras": CAMERAS, "a_day": CLIPS_A_DAY, "first": FIRST_DAY, "clips": clips},
        )
        connection.execute(
            "INSERT INTO cv.clip_keys (clip_id, wrapped, kek_id)"
            " SELECT clip_id, sha256(clip_id::text::bytea) || sha256(upload_key::bytea), 'local:bench' FROM cv.clips"
        )
    scrub_destroyed_keys(database, full=False, actor="benchmark")  # statistics, and pages on disk
    with database.transaction() as connection:
        connection.execute("ANALYZE cv.clips")


def days(clips: int) -> Iterator[tuple[str, date]]:
    """Camera-days of the manifest that are whole, each once, spread over it."""
    whole = clips // CLIPS_A_DAY
    for n in sorted(range(whole), key=lambda n: (n * 37) % whole):
        yield f"cam{n % CAMERAS}", FIRST_DAY + timedelta(days=n // CAMERAS)
