"""The ledger at the size of years: claims, sensor ticks and status over synthetic clips, and what a day costs Dagster.

    python -m benchmarks.scale                        # 100,000 clips, a minute
    python -m benchmarks.scale --clips 10000000       # the bar's size: 25 GB of disk, half an hour
    python -m benchmarks.scale --json

A server of its own, without fsync, on this machine's disk. Clips are spread over cameras and days; `--open` of them are
under way, the rest is done. Baselines are measured interleaved in the same run: a claim against the least that a
transaction can be (one row read and written by its key), so that a slower machine shows in both. Ends with 1 where a
bar is missed, and says which.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks._synthetic_ledger import LAST_DAY, fill
from cv_platform.embedded.postgres import UNSAFE_FOR_TESTS, PostgresServer
from cv_platform.pipeline.stage import MOST_IN_HAND
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.claims import begin, claim_clips
from cv_platform.storage.ledger.model import STAGES, Scope
from cv_platform.storage.ledger.scopes import pending_scopes
from cv_platform.storage.ledger.tallies import balance_now, stage_states_now, sum_tallies, waiting_by_site
from cv_platform.storage.schema import migrate

SERVER = {
    **UNSAFE_FOR_TESTS,
    "shared_buffers": "2GB",
    "maintenance_work_mem": "1GB",
    "max_wal_size": "8GB",
    "max_connections": "120",
    "autovacuum_naptime": "10s",
}
Result = dict[str, Any]


def _claimer(url: str, scopes: list[Scope], batch: int, for_s: float, all_there: Any, answers: Any) -> None:
    database = Database(url, max_size=1)
    seconds: list[float] = []
    clips: list[bytes] = []
    with database.transaction() as connection:  # the connection is there before the clock runs
        connection.execute("SELECT 1")
    all_there.wait(300)
    began_at = time.time()
    until = began_at + for_s
    for scope in scopes:
        claims: Any = True
        while claims and time.time() < until:
            began = time.perf_counter()
            claims = claim_clips(
                database, "raw_clips", version="v1", scope=scope, run_id="bench", lease_s=600.0, limit=batch
            )
            seconds.append(time.perf_counter() - began)
            clips += [begin(database, claim).clip.clip_id.bytes for claim in claims]
    answers.put((seconds, clips, began_at, time.time()))
    database.close()


def measure_claims(url: str, *, workers: int, seconds: float, batch: int) -> Result:
    """So many claimers at once, each a process of its own, four at each day and site, one after the other.

    Each claims as `run_stage` does: a batch, then each clip of it is begun, in a transaction of its own. The rate is of
    both together, the waits are of the claim.
    """
    database = Database(url)
    waiting = pending_scopes(database, min_interval_s=0.0, limit=100_000)
    database.close()
    scopes = [Scope(found.capture_date, (found.site_id,)) for found in waiting]
    groups = max(1, workers // 4)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    all_there = context.Barrier(workers)
    processes = [
        context.Process(target=_claimer, args=(url, scopes[n % groups :: groups], batch, seconds, all_there, answers))
        for n in range(workers)
    ]
    for process in processes:
        process.start()
    found = [answers.get(timeout=seconds + 420) for _ in processes]
    took = max(ended for *_, ended in found) - min(began for _, _, began, _ in found)
    for process in processes:
        process.join()
    waits = sorted(wait for waits, *_ in found for wait in waits)
    clips = [clip for _, clips, *_ in found for clip in clips]
    return {
        "workers": workers,
        "batch": batch,
        "claims": len(clips),
        "claims_per_s": round(len(clips) / took),
        "claimed_twice": len(clips) - len(set(clips)),
        "p50_ms": round(1000 * statistics.median(waits), 1),
        "p99_ms": round(1000 * waits[int(0.99 * (len(waits) - 1))], 1),
    }


def measure_floor(url: str, *, workers: int, seconds: float) -> Result:
    """The same processes doing the least: one row updated by its key and committed."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def work() -> None:
        database = Database(url, max_size=1)
        done = 0
        until = time.time() + seconds
        while time.time() < until:
            with database.transaction() as connection:
                connection.execute("UPDATE cv.floor SET n = n + 1 WHERE id = %s RETURNING n", [done % 1000]).fetchone()
            done += 1
        answers.put(done)
        database.close()

    processes = [context.Process(target=work) for _ in range(workers)]
    for process in processes:
        process.start()
    total = sum(answers.get(timeout=seconds + 60) for _ in processes)
    for process in processes:
        process.join()
    return {"transactions_per_s": round(total / seconds)}


def timed(work: Callable[[], object], *, turns: int = 5) -> Result:
    """Median and worst seconds of several turns; the first is the coldest."""
    took = []
    for _ in range(turns):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return {"first_s": round(took[0], 3), "median_s": round(statistics.median(took), 3), "worst_s": round(max(took), 3)}


def measure_uploads(database: Database, folder: Path, *, waiting: int, limit: int) -> Result:
    """Ticks of `new_uploads` with so many new objects waiting in a folder, until all are registered."""
    from cv_platform.pipeline.ingest import ingest_listing
    from cv_platform.pipeline.keys import upload_key
    from cv_platform.pipeline.platform import open_platform
    from cv_platform.settings import Settings

    settings = Settings(
        state_dir=folder,
        postgres_url=database.url,
        object_store_url=(folder / "store").as_uri(),
        partitions_start=LAST_DAY - timedelta(days=3000),
    )
    platform = open_platform(settings, database)
    start = datetime.combine(LAST_DAY, datetime.min.time(), UTC)
    for n in range(waiting):
        camera = n % 200
        path = (
            folder / "store" / upload_key(f"new{camera % 12}", f"newcam{camera}", start + timedelta(seconds=n // 200))
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ticks, new = [], 0
    while True:
        began = time.perf_counter()
        done = ingest_listing(platform, limit=limit)
        ticks.append(time.perf_counter() - began)
        new += done.new
        if done.wrapped:
            break
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT count(*), count(DISTINCT upload_key) FROM cv.clips WHERE site_id LIKE 'new%'"
        ).fetchone()
    assert row is not None
    return {
        "waiting": waiting,
        "per_tick": limit,
        "ticks": len(ticks),
        "registered": new,
        "lost": waiting - row[1],
        "doubled": row[0] - row[1],
        "first_tick_s": round(ticks[0], 2),
        "worst_tick_s": round(max(ticks), 2),
        "memory_grown_mib": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
    }


def day_of(cameras: int, *, clips_a_camera: int = 24 * 12, sites: int | None = None) -> Result:
    """What a day costs, from what one run and one clip cost (measured; see docs/scaling.md).

    A run is one day of one site; `pending_work` asks for one a site and `min_run_interval_s`, at the most, and at most
    `max_requests_per_tick` a tick.
    """
    sites = sites or max(1, cameras // 16)
    a_day = min(sites * 86400 // 300, 20 * 86400 // 30)
    return {
        "cameras": cameras,
        "sites": sites,
        "clips": cameras * clips_a_camera,
        "claims": cameras * clips_a_camera * len(STAGES),
        "claims_per_s": round(cameras * clips_a_camera * len(STAGES) / 86400, 1),
        "runs_at_most": a_day,
        "steps_at_most": a_day * 11,
        "event_rows": a_day * RUN_ROWS,
        "event_mb": round(a_day * RUN_BYTES / 1e6),
        "sensor_ticks": 3 * 86400 // 30,
    }


# Of one run of process_clips with its eleven steps, measured in Dagster's PostgreSQL by the stub cluster's backfill.
RUN_ROWS, RUN_BYTES = 126, 160_000


@contextmanager
def _server(folder: Path | None) -> Any:
    place = folder or Path(tempfile.mkdtemp(prefix="cvp-scale-"))
    server = PostgresServer(place / "postgres", settings=SERVER)
    server.start()
    try:
        yield server, place
    finally:
        server.stop()
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--cameras", type=int, default=1000)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--open", type=int, default=0, help="clips under way; 0: a hundredth, at least 60,000")
    parser.add_argument("--uploads", type=int, default=100_000, help="new uploads that wait")
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--folder", type=Path, help="where the server is kept, filled, for another run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    open_clips = min(options.clips, options.open or max(60_000, options.clips // 100))
    result: Result = {"clips": options.clips, "cameras": options.cameras, "days": options.days, "open": open_clips}
    with _server(options.folder) as (server, folder):
        url = server.ensure_database("scale")
        migrate(url)
        database = Database(url)
        with database.transaction() as connection:
            there = connection.execute("SELECT EXISTS (SELECT 1 FROM cv.clips)").fetchone() == (True,)
        if not there:
            began = time.perf_counter()
            fill(database, clips=options.clips, cameras=options.cameras, days=options.days, open_clips=open_clips)
            result["filled_s"] = round(time.perf_counter() - began)
        with database.transaction() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS cv.floor (id int PRIMARY KEY, n int NOT NULL)")
            connection.execute("INSERT INTO cv.floor SELECT n, 0 FROM generate_series(0, 999) n ON CONFLICT DO NOTHING")
            row = connection.execute(
                "SELECT pg_total_relation_size('cv.clips') / 1000000, pg_total_relation_size('cv.stages') / 1000000"
            ).fetchone()
        assert row is not None
        result["clips_mb"], result["stages_mb"] = row
        result["status"] = timed(lambda: (balance_now(database), stage_states_now(database), waiting_by_site(database)))
        result["sensor"] = timed(
            lambda: (sum_tallies(database), pending_scopes(database, min_interval_s=300.0, limit=20))
        )
        result["claims"] = []
        for batch in (1, MOST_IN_HAND):
            floor = measure_floor(url, workers=options.workers, seconds=options.seconds / 2)
            claims = measure_claims(url, workers=options.workers, seconds=options.seconds, batch=batch)
            claims["floor"] = floor
            claims["ratio_to_floor"] = round(claims["claims_per_s"] / floor["transactions_per_s"], 2)
            result["claims"].append(claims)
        result["status_after"] = timed(lambda: (balance_now(database), waiting_by_site(database)))
        result["uploads"] = measure_uploads(database, folder / "uploads", waiting=options.uploads, limit=10_000)
        database.close()
    result["days_cost"] = [day_of(cameras) for cameras in (100, 1000, 100_000)]
    result["missed"] = missed(result)
    print(json.dumps(result, indent=2) if options.json else _table(result))
    if result["missed"]:
        raise SystemExit(1)


# What docs/scaling.md promises, at any size. Claims: as many at a time as stages take.
CLAIMS_PER_S, CLAIM_P99_MS, TICK_S, TICK_MEMORY_MIB, QUESTION_S = 2_000, 100.0, 10.0, 256, 1.0


def missed(result: Result) -> list[str]:
    """The bars that a result misses, a sentence each."""
    found = [
        f"{claims['workers']} claimers, {claims['batch']} at a time: {claims['claimed_twice']} clips were claimed twice"
        for claims in result["claims"]
        if claims["claimed_twice"]
    ]
    several = result["claims"][-1]
    if several["claims_per_s"] < CLAIMS_PER_S:
        found.append(f"{several['claims_per_s']:,} claims/s; the bar is {CLAIMS_PER_S:,}")
    if several["p99_ms"] > CLAIM_P99_MS:
        found.append(f"99% of claims within {several['p99_ms']} ms; the bar is {CLAIM_P99_MS:g}")
    found += [
        f"{name}: {result[name]['worst_s']} s at worst; the bar is {QUESTION_S:g}"
        for name in ("status", "sensor", "status_after")
        if result[name]["worst_s"] > QUESTION_S
    ]
    uploads = result["uploads"]
    if uploads["worst_tick_s"] > TICK_S:
        found.append(f"a tick of new uploads took {uploads['worst_tick_s']} s; the bar is {TICK_S:g}")
    if uploads["memory_grown_mib"] > TICK_MEMORY_MIB:
        found.append(f"ticks took {uploads['memory_grown_mib']} MiB more; the bar is {TICK_MEMORY_MIB}")
    for what in ("lost", "doubled"):
        if uploads[what]:
            found.append(f"{uploads[what]} of {uploads['waiting']} uploads {what}; the bar is none")
    return found


def _table(result: Result) -> str:
    lines = [f"{result['clips']:,} clips, {result['open']:,} of them open, {result['cameras']:,} cameras"]
    for claims in result["claims"]:
        lines.append(
            f"claims, {claims['workers']} at once, {claims['batch']} at a time: {claims['claims_per_s']:,}/s,"
            f" p99 {claims['p99_ms']} ms, twice {claims['claimed_twice']},"
            f" {claims['ratio_to_floor']} of the least transaction's {claims['floor']['transactions_per_s']:,}/s"
        )
    for name in ("status", "sensor", "status_after"):
        lines.append(f"{name}: median {result[name]['median_s']} s, worst {result[name]['worst_s']} s")
    uploads = result["uploads"]
    lines.append(
        f"{uploads['waiting']:,} uploads: {uploads['ticks']} ticks, worst {uploads['worst_tick_s']} s, lost"
        f" {uploads['lost']}, doubled {uploads['doubled']}, memory +{uploads['memory_grown_mib']} MiB"
    )
    for day in result["days_cost"]:
        lines.append(
            f"a day of {day['cameras']:,} cameras: {day['clips']:,} clips, {day['claims_per_s']:,} claims/s,"
            f" {day['runs_at_most']:,} runs, {day['event_rows']:,} event rows, {day['event_mb']:,} MB"
        )
    return "\n".join([*lines, *(f"MISSED: {bar}" for bar in result["missed"])])


if __name__ == "__main__":
    main()
