"""The ledger under random operations, deadlocks, and a million rows."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.claims import AT_CURRENT_VERSION, begin, claim_clips, kept_alive, postpone, release
from cv_platform.storage.ledger.commits import commit, note_object, reject
from cv_platform.storage.ledger.heads import (
    claim_camera,
    finish_tracks,
    lock_camera,
    open_clip,
    release_camera,
)
from cv_platform.storage.ledger.model import STAGES, TRACKS, UPSTREAM, Claim, Scope, StaleClaim, downstream
from cv_platform.storage.ledger.published import garbage, remove_garbage
from cv_platform.storage.ledger.queries import balance, quarantined
from cv_platform.storage.ledger.registration import Upload, register_uploads
from cv_platform.storage.ledger.scopes import pending_scopes
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform.storage.ledger.withdrawal import replay

MORNING = datetime(2026, 3, 1, 8, tzinfo=UTC)
CLIP_STAGES = tuple(stage for stage in STAGES if stage != TRACKS)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh ledger."""
    opened = Database(database_url)
    yield opened
    opened.close()


def upload(n: int, *, etag: str = "e", camera: str = "cam", **more: Any) -> Upload:
    """A clip of a minute of the morning."""
    return Upload(f"raw/{camera}/{n}", etag, 1, "north", camera, MORNING + timedelta(minutes=n), **more)


def claim_one(database: Database, stage: str, *, version: str = "v1", lease_s: float = 60) -> Claim | None:
    """Claim the next clip of a stage."""
    claims = claim_clips(database, stage, version=version, scope=Scope(), run_id="r", lease_s=lease_s, limit=1)
    return claims[0] if claims else None


def finish(database: Database, claim: Claim) -> None:
    """Commit a claim as its stage does."""
    publishes = claim.stage == "blurred_clips"
    key = claim.object_key("staging", ".mp4") if publishes else None
    if key is not None:
        note_object(database, "cold", key)

    def write(connection: Connection) -> None:
        if publishes:
            connection.execute(
                "UPDATE cv.clips SET state = 'published', published_from = %s, published_sha256 = 'd'"
                " WHERE clip_id = %s",
                [key, claim.clip.clip_id],
            )

    commit(database, claim, seconds=1.0, output_key=key, write=write)


class LedgerMachine(RuleBasedStateMachine):
    """Workers, uploads and administrators do what they do, in any order; workers keep claims as long as they like."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Claim] = []
        self.version = 1
        self.received = 0

    @initialize()
    def empty(self) -> None:
        with self.database.transaction() as connection:
            connection.execute(
                "TRUNCATE cv.clips, cv.stages, cv.camera_heads, cv.cameras, cv.sites, cv.stage_versions, cv.garbage,"
                " cv.mart_days, cv.track_states, cv.previews CASCADE"
            )
        adopt_versions(self.database, self.versions())

    def versions(self) -> dict[str, str]:
        return dict.fromkeys(STAGES, "v1") | {"decoded_frames": f"v{self.version}", "tracks": f"v{self.version}"}

    @rule(n=st.integers(0, 3), etag=st.sampled_from("ab"), camera=st.sampled_from(["cam", "other"]))
    def arrives(self, n: int, etag: str, camera: str) -> None:
        self.received += register_uploads(self.database, [upload(n, etag=etag, camera=camera)]).new

    @rule(n=st.integers(0, 3))
    def arrives_bad(self, n: int) -> None:
        bad = upload(n, etag="bad", problem=("empty_file", "the file is empty"))
        self.received += register_uploads(self.database, [bad]).new

    @rule(stage=st.sampled_from(CLIP_STAGES))
    def claims(self, stage: str) -> None:
        if (claim := claim_one(self.database, stage, version=self.versions()[stage])) is not None:
            self.held.append(claim)

    @rule(stage=st.sampled_from(CLIP_STAGES))
    def works(self, stage: str) -> None:
        while (claim := claim_one(self.database, stage, version=self.versions()[stage])) is not None:
            finish(self.database, claim)

    @rule(which=st.integers(0, 5), how=st.sampled_from(["commit", "postpone", "reject", "release"]))
    def ends(self, which: int, how: str) -> None:
        if not self.held:
            return
        claim = self.held.pop(which % len(self.held))
        before = self.row(claim)
        fits = before == ("running", claim.fence, claim.input_generation)
        try:
            if how == "commit":
                finish(self.database, claim)
            elif how == "reject":
                reject(self.database, claim, code="damaged", reason="too much of it is damaged")
            elif how == "postpone":
                postpone(self.database, claim, delay_s=0.0, error="e")
            else:
                release(self.database, [claim])
        except StaleClaim:
            assert not fits
        else:
            assert fits or how in ("postpone", "release")
        if not fits:
            assert self.row(claim) == before  # a claim that is lost changes nothing

    def row(self, claim: Claim) -> tuple[Any, ...]:
        with self.database.transaction() as connection:
            found = connection.execute(
                "SELECT state, fence, input_generation FROM cv.stages WHERE clip_id = %s AND stage = %s",
                [claim.clip.clip_id, claim.stage],
            ).fetchone()
        assert found is not None
        return found

    @rule()
    def leases_run_out(self) -> None:
        with self.database.transaction() as connection:
            connection.execute("UPDATE cv.stages SET lease_expires_at = now() - interval '1 s' WHERE state = 'running'")

    @rule()
    def tracks(self) -> None:
        version = self.versions()[TRACKS]
        while camera := claim_camera(self.database, version=version, scope=Scope(), run_id="r", lease_s=60):
            while clip := open_clip(self.database, camera):
                with self.database.transaction() as connection:
                    lock_camera(connection, camera)
                    finish_tracks(connection, camera, clip, seconds=1.0, counts="{}")
            release_camera(self.database, camera)

    @rule()
    def replays(self) -> None:
        replay(self.database, [clip.clip_id for clip in quarantined(self.database)])

    @rule()
    def adopts(self) -> None:
        self.version += 1
        adopt_versions(self.database, self.versions())

    @rule()
    def collects(self) -> None:
        for store, key in garbage(self.database, limit=100):
            remove_garbage(self.database, store, key, lambda keys: None)

    @invariant()
    def balances(self) -> None:
        found = balance(self.database)
        assert found.balances
        assert found.received == self.received

    @invariant()
    def nobody_is_stuck(self) -> None:
        """Every clip that is not done can be claimed now, is leased, or waits for one of its own that is."""
        with self.database.transaction() as connection:
            rows = connection.execute(
                "SELECT s.clip_id, s.stage, s.state, c.state, s.lease_expires_at IS NOT NULL,"
                " s.next_attempt_at <= now()"
                " FROM cv.stages s JOIN cv.clips c USING (clip_id)"
            ).fetchall()
        stages: dict[uuid.UUID, dict[str, str]] = {}
        for clip_id, stage, state, _, leased, due in rows:
            stages.setdefault(clip_id, {})[stage] = state
            assert leased == (state == "running")
            assert due
        for clip_id, stage, state, clip_state, _, _ in rows:
            own = stages[clip_id]
            finished = all(own[name] in ("done", "frozen") for name in UPSTREAM[stage])
            if clip_state in ("in_progress", "published"):
                assert state not in ("failed", "stopped")
                assert (state == "blocked") == (not finished and state not in ("done", "frozen")), (stage, own)
                assert clip_state != "in_progress" or any(s in ("pending", "running") for s in own.values())
            else:
                assert state in ("failed", "stopped")

    def teardown(self) -> None:
        """Left to itself, everything ends."""
        if not self.received:
            return
        self.leases_run_out()
        for stage in STAGES:
            self.tracks() if stage == TRACKS else self.works(stage)
        self.balances()
        assert balance(self.database).states["in_progress"] == 0


@pytest.mark.slow
def test_the_ledger_balances_and_nobody_is_stuck_whatever_happens(database: Database) -> None:
    LedgerMachine.database = database
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=15,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_downstream_follows_the_graph() -> None:
    assert downstream("raw_clips") == ("decoded_frames", "detections", "tracks", "blurred_clips")
    assert downstream("blurred_clips") == ()


def test_a_clip_is_claimed_by_one(database: Database) -> None:
    register_uploads(database, [upload(n) for n in range(40)])
    found: list[uuid.UUID] = []

    def work() -> None:
        while (claim := claim_one(database, "raw_clips")) is not None:
            found.append(claim.clip.clip_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == 40


def test_scopes_narrow_a_claim(database: Database) -> None:
    register_uploads(database, [upload(0), upload(1, camera="other"), upload(24 * 60)])

    def claimed(scope: Scope) -> list[str]:
        claims = claim_clips(
            database, "raw_clips", version="v", scope=scope, run_id="r", lease_s=-1, limit=9
        )  # a lease that is over at once
        return [claim.clip.upload_key for claim in claims]

    assert claimed(Scope(MORNING.date())) == ["raw/cam/0", "raw/other/1"]
    assert claimed(Scope(MORNING.date(), ("north",), ("other",))) == ["raw/other/1"]
    assert claimed(Scope(sites=("south",))) == []
    assert len(claimed(Scope())) == 3


def test_a_lease_is_renewed_until_it_is_lost(database: Database) -> None:
    register_uploads(database, [upload(n) for n in range(3)])
    replaced, kept, ended = claim_clips(
        database, "raw_clips", version="v1", scope=Scope(), run_id="r", lease_s=0.6, limit=3
    )
    with kept_alive(database, [replaced, kept, ended], lease_s=0.6) as leases:
        time.sleep(1.0)
        assert claim_one(database, "raw_clips") is None  # they would have run out by now
        assert not leases.lost(replaced).is_set()
        leases.let_go(ended)
        postpone(database, ended, delay_s=0.0, error="e")
        register_uploads(database, [upload(0, etag="new")])
        assert leases.lost(replaced).wait(5)
        time.sleep(0.3)
        assert not leases.lost(kept).is_set(), "each clip has a lease of its own"
        assert not leases.lost(ended).is_set(), "it was let go, not lost"


def test_an_attempt_counts_where_work_begins(database: Database) -> None:
    register_uploads(database, [upload(0), upload(1)])

    def claimed(lease_s: float) -> list[Claim]:
        return claim_clips(database, "raw_clips", version="v1", scope=Scope(), run_id="r", lease_s=lease_s, limit=2)

    first, second = claimed(-1)
    assert begin(database, first).attempts == 1
    again = {claim.clip.clip_id: claim for claim in claimed(60)}
    assert [again[claim.clip.clip_id].attempts for claim in (first, second)] == [1, 0]
    with pytest.raises(StaleClaim):
        begin(database, first)  # another has it: nothing is counted
    begun = begin(database, again[first.clip.clip_id])
    assert begun.attempts == 2
    release(database, [again[first.clip.clip_id], again[second.clip.clip_id]])
    assert sorted(claim.attempts for claim in claimed(60)) == [0, 1], "what was given back is not counted"


def test_two_commits_that_would_wait_for_each_other_both_end(database: Database) -> None:
    """Row locks in opposite order: the server breaks one off, and it is done again."""
    with database.transaction() as connection:
        connection.execute("CREATE TABLE x (id int PRIMARY KEY, n int DEFAULT 0)")
        connection.execute("INSERT INTO x VALUES (1), (2)")
    barrier = threading.Barrier(2)
    tries: list[int] = []

    def work(order: tuple[int, int]) -> None:
        def both(connection: Connection) -> None:
            tries.append(1)
            connection.execute("UPDATE x SET n = n + 1 WHERE id = %s", [order[0]])
            if len(tries) <= 2:
                barrier.wait(10)
            connection.execute("UPDATE x SET n = n + 1 WHERE id = %s", [order[1]])

        database.transact(both)

    threads = [threading.Thread(target=work, args=(order,)) for order in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tries) >= 3
    with database.transaction() as connection:
        assert connection.execute("SELECT sum(n) FROM x").fetchone() == (4,)


def test_commits_replacements_and_adoptions_at_once_end(database: Database) -> None:
    """Everyone who locks more than one row, at once and again and again: no call fails."""
    register_uploads(database, [upload(n) for n in range(6)])
    errors: list[BaseException] = []
    until = time.monotonic() + 3.0

    def repeatedly(call: Any) -> None:
        n = 0
        while time.monotonic() < until and not errors:
            n += 1
            try:
                call(n)
            except StaleClaim:
                continue
            except BaseException as error:  # noqa: BLE001  # handed to the test
                errors.append(error)

    def commit_any(n: int) -> None:
        stage = CLIP_STAGES[n % len(CLIP_STAGES)]
        if (claim := claim_one(database, stage, version=versions[stage])) is not None:
            finish(database, claim)

    versions = dict.fromkeys(STAGES, "v1")

    def adopt(n: int) -> None:
        versions["decoded_frames"] = f"v{n}"
        adopt_versions(database, dict(versions))
        time.sleep(0.05)

    calls = [
        commit_any,
        commit_any,
        adopt,
        lambda n: register_uploads(database, [upload(k, etag=f"e{n}") for k in range(6)]),
        lambda n: replay(database, [clip.clip_id for clip in quarantined(database)]),
    ]
    threads = [threading.Thread(target=repeatedly, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert balance(database).balances


def test_a_database_that_goes_away_is_an_error_of_its_own(database: Database) -> None:
    with pytest.raises(psycopg.OperationalError), database.transaction() as connection:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    with database.transaction() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.slow
def test_queries_of_every_tick_stay_on_their_indexes(database: Database) -> None:
    """100,000 stage rows, all but a few done, as a deployment has them."""
    with database.transaction() as connection:
        # The server's own housekeeping reads blocks too, and would be counted.
        for table in ("stages", "clips", "camera_heads"):
            connection.execute(f"ALTER TABLE cv.{table} SET (autovacuum_enabled = false)")
        connection.execute("INSERT INTO cv.sites (site_id) VALUES ('north')")
        connection.execute("INSERT INTO cv.cameras SELECT 'cam' || n, 'north' FROM generate_series(0, 63) n")
        connection.execute("INSERT INTO cv.camera_heads (camera_id, site_id) SELECT camera_id, site_id FROM cv.cameras")
        connection.execute(
            "INSERT INTO cv.clips (clip_id, site_id, camera_id, upload_key, etag, size_bytes, captured_at,"
            " capture_date, published_key, state, published_sha256, copied_sha256)"
            " SELECT md5(n::text)::uuid, 'north', 'cam' || n % 64, 'raw/' || n, 'e', 1, t, t::date, 'k' || n,"
            " 'published', 'd', CASE n % 5000 WHEN 0 THEN NULL ELSE 'd' END"
            " FROM generate_series(1, 20000) n, LATERAL (SELECT '2026-01-01Z'::timestamptz + n * interval '1 min') x(t)"
        )
        connection.execute(
            "INSERT INTO cv.stages (clip_id, stage, site_id, camera_id, capture_date, captured_at, state)"
            " SELECT clip_id, stage, site_id, camera_id, capture_date, captured_at,"
            " CASE hashtext(upload_key) %% 1000 WHEN 0 THEN 'pending' ELSE 'done' END"
            " FROM cv.clips CROSS JOIN unnest(%s::text[]) stage",
            [list(STAGES)],
        )
    with psycopg.connect(database.url, autocommit=True) as connection:
        # No vacuum: what is seldom vacuumed must be read by index too.
        connection.execute("ANALYZE cv.stages, cv.clips, cv.camera_heads")

    read: dict[str, int] = {}

    def blocks(call: Any) -> int:
        """8 KiB blocks of tables and indexes that a call reads, as the server counts them."""
        with psycopg.connect(database.url, autocommit=True) as probe:
            sql = (
                "SELECT sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read + idx_blks_hit, 0))"
                " FROM pg_statio_user_tables WHERE relname IN ('stages', 'clips')"
            )
            probe.execute("SELECT pg_stat_force_next_flush()")
            before = probe.execute(sql).fetchone()
            call()
            database.close()  # its sessions tell what they read when they end
            time.sleep(0.2)
            after = probe.execute(sql).fetchone()
        assert before is not None
        assert after is not None
        return int(after[0] - before[0])

    with database.transaction() as connection:
        whole = connection.execute("SELECT pg_table_size('cv.stages') / 8192").fetchone()
    assert whole is not None
    read["claim"] = blocks(lambda: claim_one(database, "raw_clips"))
    read["claim of a day"] = blocks(
        lambda: claim_clips(
            database,
            "detections",
            version="v1",
            scope=Scope(MORNING.date(), ("north",)),
            run_id="r",
            lease_s=60,
            limit=1,
        )
    )
    read["pending scopes"] = blocks(lambda: pending_scopes(database, min_interval_s=0))
    assert max(read.values()) < whole[0] / 4, (read, whole)
    assert pending_scopes(database, min_interval_s=0)
    assert "stage_versions" in AT_CURRENT_VERSION
