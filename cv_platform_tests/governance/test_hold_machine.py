"""Everything that deletes or replaces, in any order, with crashes: what a hold covers stays while it is covered.

Real PostgreSQL, a real folder as store, the platform's own claims, commits, expiry, collector and reconciling. What
must be held is reckoned from the holds that were placed here (`hold_oracle.py`), never asked of the platform. The full
run is `CV_TEST_HOLD_STEPS=2000`; in the usual one there are a few hundred steps.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from cv_platform import faults
from cv_platform.governance.holds import HoldScope, list_holds, place_hold, release_hold
from cv_platform.governance.policy import Policy
from cv_platform.pipeline.expiry import expire
from cv_platform.pipeline.ingest import ingest_listing
from cv_platform.pipeline.keys import upload_key
from cv_platform.pipeline.publishing import collect_garbage, write_preview
from cv_platform.storage.ledger.claims import claim_clips
from cv_platform.storage.ledger.commits import reject
from cv_platform.storage.ledger.model import STAGES, TRACKS, Scope, StaleClaim
from cv_platform.storage.ledger.queries import balance, quarantined
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform.storage.ledger.withdrawal import replay
from cv_platform_tests.governance.cheap_stages import SPOILT, run_cheap
from cv_platform_tests.governance.hold_oracle import FilmedClip, HoldOracle, PlacedHold
from cv_platform_tests.pipeline.world import MORNING, World

STEPS = int(os.environ.get("CV_TEST_HOLD_STEPS", "300"))
# Each begins with footage that is held: in few steps, short ones reach more of what may happen to it.
AT_A_TIME = 20 if STEPS < 2000 else 50
CONTENTS = [b"first", b"second", SPOILT + b" third"]
CAMERAS = ["cam1", "cam2"]
FILMED = {
    upload_key("north", camera, at): (camera, at)
    for camera in CAMERAS
    for at in (MORNING + timedelta(seconds=2 * n) for n in range(6))
}
LASTS = timedelta(seconds=1)  # as the stages here say
POLICY = "defaults: {keep: {raw: 2d, frames: 1d, quarantine: 3d, previews: 2d, cold: 100y}}"
SHORT = "defaults: {keep: {raw: 2d, frames: 1d, quarantine: 3d, previews: 2d, cold: 1d}}"
POINTS = [
    *(f"{stage}.{moment}" for stage in STAGES for moment in ("claimed", "before_commit", "after_commit")),
    "publish.before_copy",
    "publish.after_copy",
    "expire.before_commit",
    "expire.after_commit",
    "expire.resumed",
    "expire.before_collecting",
    "reconcile.found",
    "reconcile.repaired",
    "erasure.begun",
    "erasure.withdrawn",
    "erasure.purged",
]


@dataclass
class Kept:
    """What was there of a clip when a hold covered it: rows by table, contents of objects by stage."""

    rows: dict[str, set[Any]] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)


class HoldMachine(RuleBasedStateMachine):
    """Cameras, officers, housekeeping and crashes."""

    world: ClassVar[World]
    steps: ClassVar[int] = 0
    deleted: ClassVar[int] = 0
    covered: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.version = dict.fromkeys(STAGES, 1)
        self.kept: dict[uuid.UUID, Kept] = {}
        self.oracle = HoldOracle()
        self.crash: str | None = None

    @initialize(filmed=st.sampled_from([(1, 2), (0, 1), (0, 2), ()]), held=st.sampled_from([*CAMERAS, None]))
    def begin(self, filmed: tuple[int, ...], held: str | None) -> None:
        """A platform at work, most often with footage that a hold covers; what comes later may have begun before."""
        world = self.world
        tables = world.rows(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('cv', 'warehouse')"
            " AND tablename NOT IN ('audit_log', 'audit_exports', 'policies', 'key_encryption_keys', 'log_secret')"
            " AND tablename NOT LIKE '%\\_20______'"
        )
        world.execute(f"TRUNCATE {', '.join(name for (name,) in tables)} CASCADE")
        for store in (world.platform.cold, world.platform.restricted):
            assert store.folder is not None
            for folder in store.folder.iterdir():
                shutil.rmtree(folder)
        world.platform.policy = Policy.parse(POLICY)  # type: ignore[misc]
        adopt_versions(world.database, self.versions())
        for n in filmed:
            for camera in CAMERAS:
                self.upload(n, camera, CONTENTS[0], told=True)
        if filmed:
            self.process()
            self.preview(0)
        if held:
            self.place(camera=held)

    def versions(self) -> dict[str, str]:
        return {stage: f"v{number}" for stage, number in self.version.items()}

    def may_crash(self, work: Callable[[], Any]) -> None:
        """Do it, with the crash that was planned."""
        plan = {self.crash.replace(".", "__"): "raise"} if self.crash else {}
        self.crash = None
        with faults.plan(**plan), contextlib.suppress(faults.InjectedFault):
            work()
        self.world.execute(
            "UPDATE cv.stages SET lease_expires_at = CASE state WHEN 'running' THEN now() - interval '1 s' END,"
            " next_attempt_at = '-infinity'"
        )
        self.world.execute(
            "UPDATE cv.camera_heads SET lease_expires_at = now() - interval '1 s' WHERE state = 'running'"
        )

    # what may happen

    @rule(point=st.sampled_from(POINTS))
    def next_one_crashes(self, point: str) -> None:
        self.crash = point

    @rule(
        n=st.integers(0, 2),
        camera=st.sampled_from(CAMERAS),
        content=st.sampled_from(CONTENTS),
        told=st.sampled_from([True, True, False]),
    )
    def upload(self, n: int, camera: str, content: bytes, told: bool) -> None:
        key = upload_key("north", camera, MORNING + timedelta(seconds=2 * n))
        self.overwritten(key)
        self.world.platform.restricted.put_bytes(key, content + f" {camera} {n}".encode())
        if told:
            self.ingest()

    def overwritten(self, key: str) -> None:
        """What is not in the vault yet the camera itself may overwrite or move: that no platform can keep."""
        for (clip_id,) in self.world.rows("SELECT clip_id FROM cv.clips WHERE upload_key = %s", key):
            if clip_id in self.kept and not self.output(clip_id, "raw_clips"):
                self.kept[clip_id].objects.pop("raw", None)

    @rule(n=st.integers(0, 2), to=st.integers(0, 5), camera=st.sampled_from(CAMERAS), told=st.booleans())
    def rename(self, n: int, to: int, camera: str, told: bool) -> None:
        """The same bytes under another key, and gone from the old one."""
        old, new = (upload_key("north", camera, MORNING + timedelta(seconds=2 * at)) for at in (n, to))
        store = self.world.platform.restricted
        if old == new or store.head(old) is None:
            return
        for key in (old, new):
            self.overwritten(key)
        store.put_bytes(new, store.get_bytes(old))
        store.purge([old])
        if told:
            self.ingest()

    @rule()
    def ingest(self) -> None:
        self.may_crash(lambda: ingest_listing(self.world.platform, limit=100))

    @rule()
    def process(self) -> None:
        self.may_crash(lambda: run_cheap(self.world.platform, self.versions()))

    @rule(stage=st.sampled_from(STAGES))
    def process_one(self, stage: str) -> None:
        self.may_crash(lambda: run_cheap(self.world.platform, self.versions(), stage))

    @rule(stage=st.sampled_from([stage for stage in STAGES if stage != TRACKS]))
    def fail(self, stage: str) -> None:
        claims = claim_clips(
            self.world.database,
            stage,
            version=self.versions()[stage],
            scope=Scope(),
            run_id="r",
            lease_s=60,
            limit=1,
        )
        for claim in claims:
            with contextlib.suppress(StaleClaim):
                reject(self.world.database, claim, code="damaged", reason="it is damaged")

    def place(self, days: float | None = None, **what: Any) -> None:
        """A hold, by the platform's own door, and in the oracle's book."""
        scope = HoldScope(what.get("site"), what.get("camera"), what.get("clip"), what.get("first"), what.get("end"))
        until = None if days is None else datetime.now(UTC) + timedelta(days=days)
        hold_id, _ = place_hold(self.world.database, scope, reason="case 1", by="officer", until=until)
        self.oracle.holds.append(PlacedHold(hold_id, *vars(scope).values(), days_left=days))

    @rule(
        what=st.sampled_from(["site", "camera", "camera", "clip", "interval", "interval", "both", "elsewhere"]),
        which=st.integers(0, 5),
        first=st.integers(-1, 4),
        lasts=st.integers(1, 3),
        days=st.sampled_from([None, None, None, 3.0]),
    )
    def hold(self, what: str, which: int, first: int, lasts: int, days: float | None) -> None:
        camera, clips = CAMERAS[which % 2], sorted(self.oracle.clips)
        start, end = (MORNING + timedelta(seconds=n) for n in (first, first + lasts))
        if what == "site":
            self.place(days, site="north")
        elif what == "camera":
            self.place(days, camera=camera)
        elif what == "interval":
            self.place(days, camera=camera, first=start if first >= 0 else None, end=end)
        elif what == "both":
            self.place(days, site="north", first=start)
        elif what == "elsewhere":
            self.place(days, site="south", camera=camera)
        elif clips:
            self.place(days, clip=clips[which % len(clips)])

    @rule(camera=st.sampled_from(CAMERAS), stage=st.sampled_from(STAGES), then=st.sampled_from(["work", "fail", None]))
    def hold_that_adoption_just_missed(self, camera: str, stage: str, then: str | None) -> None:
        """What was sent back to work at that very moment is not frozen yet: only the commit can notice."""
        self.adopt((stage,))
        hold_id = uuid.uuid4()
        self.world.execute(
            "INSERT INTO cv.holds (hold_id, camera_id, reason, placed_by) VALUES (%s, %s, 'case 3', 'officer')",
            hold_id,
            camera,
        )
        self.oracle.holds.append(PlacedHold(hold_id, camera=camera))
        if then == "work":
            self.process_one(stage)
        elif then == "fail" and stage != TRACKS:
            self.fail(stage)

    @rule(which=st.integers(0, 5))
    def release(self, which: int) -> None:
        holds = self.oracle.in_force()
        assert {hold.hold_id for hold in holds} == {hold.hold_id for hold in list_holds(self.world.database)}
        if holds:
            chosen = holds[which % len(holds)]
            assert release_hold(self.world.database, chosen.hold_id, by="officer")
            chosen.released = True

    @rule(days=st.sampled_from([0.0, 1.5, 4.0]), text=st.sampled_from([POLICY, POLICY, SHORT]))
    def expire(self, days: float, text: str) -> None:
        self.age(days)
        self.world.platform.policy = Policy.parse(text)  # type: ignore[misc]
        self.may_crash(lambda: expire(self.world.platform))

    @rule(store=st.sampled_from(["restricted", "cold"]), most=st.sampled_from([1, 60]))
    def quota(self, store: str, most: int) -> None:
        self.world.platform.policy = Policy.parse(f"{POLICY}\nquota: {{{store}: {most}}}")  # type: ignore[misc]
        self.may_crash(lambda: expire(self.world.platform))

    @rule(stages=st.sampled_from([*((stage,) for stage in STAGES), STAGES]))
    def adopt(self, stages: tuple[str, ...]) -> None:
        for stage in stages:
            self.version[stage] += 1
        adopt_versions(self.world.database, self.versions())

    @rule(which=st.integers(0, 5))
    def preview(self, which: int) -> None:
        """A picture of a published clip; one that there is already stays the only one."""
        clips = self.world.rows(
            "SELECT clip_id FROM cv.clips c WHERE state = 'published' AND NOT EXISTS"
            " (SELECT 1 FROM cv.previews p WHERE p.clip_id = c.clip_id) ORDER BY clip_id"
        )
        if clips:
            write_preview(self.world.platform, clips[which % len(clips)][0], b"picture")

    @rule()
    def replay(self) -> None:
        replay(self.world.database, [clip.clip_id for clip in quarantined(self.world.database)])

    @rule(late=st.booleans())
    def collect(self, late: bool) -> None:
        if late:
            self.world.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s', again_at = NULL")
        collect_garbage(self.world.platform)

    if find_spec("cv_platform.pipeline.reconcile") is not None:

        @rule(late=st.booleans())
        def reconcile(self, late: bool) -> None:
            module = import_module("cv_platform.pipeline.reconcile")
            self.may_crash(lambda: module.reconcile(self.world.platform, grace_s=-1.0 if late else 3600.0))

    if find_spec("cv_platform.pipeline.erasure") is not None:

        @rule(which=st.integers(0, 5), camera=st.sampled_from([*CAMERAS, None]))
        def erase(self, which: int, camera: str | None) -> None:
            from cv_platform.governance.erasure import requests
            from cv_platform.pipeline import erasure
            from cv_platform.storage.ledger.erasure_scope import ErasureScope

            clips = self.world.rows("SELECT clip_id FROM cv.clips WHERE state <> 'erased' ORDER BY clip_id")
            if not clips:
                return
            if camera is None:
                scope = ErasureScope("clip", clip_id=clips[which % len(clips)][0])
            else:
                end = MORNING + timedelta(seconds=1 + which)
                scope = ErasureScope("camera", camera_id=camera, starts_at=MORNING, ends_at=end)
            database = self.world.database
            request = requests.receive(database, scope, reference="case 2", by="officer")
            erasure.preview(self.world.platform, request)
            with contextlib.suppress(requests.WrongState):
                requests.approve(database, request, by="another")
                self.may_crash(lambda: erasure.execute(self.world.platform, request, actor="another"))

    # what must hold

    @invariant()
    def what_is_held_is_there(self) -> None:
        type(self).steps += 1
        clips = self.world.rows("SELECT clip_id, upload_key, state, duration_s, cv.held(clip_id) FROM cv.clips")
        for clip_id, key, _, duration_s, _ in clips:
            if key in FILMED:  # an erased one has forgotten its key; we have not
                camera, at = FILMED[key]
                seen = self.oracle.clips.setdefault(clip_id, FilmedClip(clip_id, "north", camera, at))
                seen.lasts = LASTS if duration_s is not None else seen.lasts
        held = self.oracle.held()
        said = {clip_id for clip_id, _, state, _, covered in clips if covered and state != "erased"}
        assert said == held - {clip_id for clip_id, _, state, _, _ in clips if state == "erased"}, "cv.held is wrong"
        for clip_id in [clip_id for clip_id in self.kept if clip_id not in held]:
            del self.kept[clip_id]
        for clip_id in sorted(held):
            now = self.look(clip_id)
            before = self.kept.setdefault(clip_id, Kept())
            for table, rows in before.rows.items():
                assert rows <= now.rows[table], f"{table}: rows of a held clip are gone"
            for name, digest in before.objects.items():
                assert now.objects.get(name) == digest, f"{name}: the bytes of a held clip are gone"
            self.kept[clip_id] = now
            type(self).covered += bool(now.rows["detections"] and now.objects)

    @invariant()
    def the_ledger_balances(self) -> None:
        assert balance(self.world.database).balances

    def look(self, clip_id: uuid.UUID) -> Kept:
        """What there is of a clip now."""
        found = Kept()
        for table, columns in {
            "detections": "id, bbox, confidence",
            "tracks": "id, track_id, last_seen_at",
            "events": "id, kind",
        }.items():
            found.rows[table] = {
                tuple(map(str, row))
                for row in self.world.rows(
                    f"SELECT {columns} FROM warehouse.{table} WHERE clip_s3_key ="
                    " (SELECT published_key FROM cv.clips WHERE clip_id = %s)",
                    clip_id,
                )
            }
        found.rows["clip_facts"] = set(
            self.world.rows("SELECT clip_id FROM warehouse.clip_facts WHERE clip_id = %s", clip_id)
        )
        platform = self.world.platform
        for stage, store in (
            ("decoded_frames", platform.restricted),
            ("detections", platform.cold),
            ("blurred_clips", platform.cold),
        ):
            key = self.output(clip_id, stage)
            if key is not None:
                found.objects[stage] = store.sha256(key)
                if stage == "blurred_clips":
                    found.objects["certificate"] = store.sha256(f"{key}.certificate.json")
        [(published, copied)] = self.world.rows(
            "SELECT published_key, copied_sha256 IS NOT NULL FROM cv.clips WHERE clip_id = %s", clip_id
        )
        if copied:
            found.objects["published"] = platform.cold.sha256(published)
        for preview, number in self.world.rows(
            "SELECT preview_key, row_number() OVER (ORDER BY preview_key) FROM cv.previews WHERE clip_id = %s", clip_id
        ):
            found.objects[f"preview {number}"] = platform.cold.sha256(preview)
        raw = self.raw(clip_id)
        if raw is not None:
            found.objects["raw"] = hashlib.sha256(raw).hexdigest()
        return found

    def raw(self, clip_id: uuid.UUID) -> bytes | None:
        """The clip's own raw bytes: in the vault, or under its upload key where they are still its own."""
        store = self.world.platform.restricted
        if (key := self.output(clip_id, "raw_clips")) is not None:
            return store.get_bytes(key)
        [(key, etag, others)] = self.world.rows(
            "SELECT upload_key, etag, other_etags FROM cv.clips WHERE clip_id = %s", clip_id
        )
        info = store.head(key)
        return store.get_bytes(key) if info is not None and info.etag in (etag, *others) else None

    def output(self, clip_id: uuid.UUID, stage: str) -> str | None:
        rows = self.world.rows("SELECT output_key FROM cv.stages WHERE clip_id = %s AND stage = %s", clip_id, stage)
        return rows[0][0] if rows else None

    def age(self, days: float) -> None:
        """Let time pass for all that terms count from."""
        term = timedelta(days=days)
        self.world.execute(
            "UPDATE cv.clips SET received_at = received_at - %s, quarantined_at = quarantined_at - %s", term, term
        )
        self.world.execute("UPDATE cv.stages SET finished_at = finished_at - %s", term)
        self.world.execute("UPDATE cv.previews SET expires_at = expires_at - %s", term)
        self.world.execute("UPDATE cv.holds SET until = until - %s", term)
        self.oracle.pass_days(days)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_held_byte_or_row_is_ever_lost(make_world: Callable[..., World], tmp_path: Path) -> None:
    HoldMachine.world = make_world(retry_base_s=0.001)
    HoldMachine.steps = HoldMachine.covered = 0
    while HoldMachine.steps < STEPS:
        run_state_machine_as_test(
            HoldMachine,
            settings=settings(
                max_examples=2 + (STEPS - HoldMachine.steps) // AT_A_TIME,
                stateful_step_count=AT_A_TIME,
                deadline=None,
                database=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    print(f"{HoldMachine.steps} steps, {HoldMachine.covered} looks at a held clip with rows and objects")
    assert HoldMachine.covered > HoldMachine.steps / 20
