"""Terms, quotas and holds: what goes, what stays, and that the policy's counts are what then happens."""

from __future__ import annotations

import re
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from cv_platform import faults
from cv_platform.governance import audit
from cv_platform.governance.adoption import consequences, quota_consequences
from cv_platform.governance.holds import HoldScope, place_hold, release_hold
from cv_platform.governance.policy import Policy
from cv_platform.governance.retention import divide
from cv_platform.pipeline import expiry
from cv_platform.pipeline.expiry import expire
from cv_platform.storage.ledger.held import freeze_held
from cv_platform.storage.ledger.queries import balance
from cv_platform.storage.ledger.tiers import EVERYWHERE, lock_older
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform_tests.governance.cheap_stages import SPOILT, run_cheap
from cv_platform_tests.pipeline import workers
from cv_platform_tests.pipeline.world import VERSIONS, World, short_clip

KEPT = "defaults: {keep: {cold: 100y}}"  # footage of the tests is of 2026, whatever the year is now


def clip(path: Path) -> Path:
    """A file that is told by its name."""
    path.write_text(f"footage of {path.name}")
    return path


def with_policy(world: World, text: str = KEPT) -> World:
    """The world under another policy."""
    world.platform.policy = Policy.parse(text)  # type: ignore[misc]  # cached, so that a run sees one
    return world


def age(world: World, days: float) -> None:
    """Let time pass for all that terms count from."""
    world.execute(
        "UPDATE cv.clips SET received_at = received_at - %s::interval, quarantined_at = quarantined_at - %s::interval",
        timedelta(days=days),
        timedelta(days=days),
    )
    world.execute("UPDATE cv.stages SET finished_at = finished_at - %s::interval", timedelta(days=days))
    world.execute("UPDATE cv.previews SET expires_at = expires_at - %s::interval", timedelta(days=days))


def keys(world: World, *prefixes: str) -> list[str]:
    """Objects under prefixes of both stores, with what the collector holds back collected."""
    world.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s', again_at = NULL")
    expiry.collect_garbage(world.platform)
    return sorted(info.key for prefix in prefixes for info in world.platform.cold.list(prefix))


def raw_objects(world: World) -> list[str]:
    return keys(world, "raw", "vault")


def processed(world: World, folder: Path, *cameras: str) -> World:
    """A clip of each camera, processed."""
    for camera in cameras or ("cam1",):
        world.upload(clip(folder / f"{camera}.mp4"), camera=camera)
    world.ingest()
    run_cheap(world.platform, VERSIONS)
    return world


def test_each_class_goes_at_its_term_and_the_ledger_balances(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = with_policy(processed(make_world(), tmp_path))
    assert expire(world.platform).counts() == {}
    age(world, 1.1)
    assert expire(world.platform).clips["frames"] == 1
    assert not keys(world, "frames")
    assert raw_objects(world)
    age(world, 2.1)
    report = expire(world.platform)
    assert (report.clips["raw"], report.clips["expired"]) == (1, 0)
    assert not raw_objects(world)
    assert world.states() == {"published": 1}
    assert len(keys(world, "blurred")) == 2
    assert world.rows("SELECT 1 FROM warehouse.detections")
    assert expire(world.platform).counts() == {}
    with_policy(world, "defaults: {keep: {cold: 1d}}")
    assert expire(world.platform).clips["cold"] == 1
    assert world.states() == {"expired": 1}
    assert not keys(world, "blurred", "staging", "detections", "previews")
    assert balance(world.database).balances
    # The same content again brings nothing back.
    world.upload(tmp_path / "cam1.mp4")
    assert world.ingest().quarantined == 0
    actions = [entry.details["counts"] for entry in audit.entries(world.database) if entry.action == "data.expired"]
    assert {"cold": 1, "expired": 1}.items() <= actions[-1].items()
    assert not list(audit.problems(audit.entries(world.database)))


def test_a_clip_s_key_goes_with_the_last_that_it_opens(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = with_policy(make_world())
    world.upload(short_clip(tmp_path / "a.mp4", frames=2))
    world.ingest()
    world.run()
    age(world, 4)
    expire(world.platform)
    assert not keys(world, "raw", "vault", "frames")
    assert world.rows("SELECT wrapped IS NULL FROM cv.clip_keys") == [(False,)]
    with_policy(world, "defaults: {keep: {cold: 1d}}")
    expire(world.platform)
    assert not keys(world, "raw", "vault", "frames", "blurred", "staging", "detections", "previews")
    assert world.rows("SELECT wrapped IS NULL FROM cv.clip_keys") == [(True,)]
    assert balance(world.database).balances


def test_a_clip_that_was_never_published_expires_with_its_raw_bytes(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = with_policy(make_world())
    world.upload(clip(tmp_path / "a.mp4"))
    world.ingest()
    run_cheap(world.platform, VERSIONS, "raw_clips", "decoded_frames", "detections")
    age(world, 4)
    report = expire(world.platform)
    assert (report.clips["raw"], report.clips["expired"]) == (1, 1)
    assert world.states() == {"expired": 1}
    assert not keys(world, "raw", "vault", "frames", "detections")
    assert not world.rows("SELECT 1 FROM warehouse.detections UNION ALL SELECT 1 FROM warehouse.clip_facts")
    assert balance(world.database).balances
    run_cheap(world.platform, VERSIONS)
    assert world.states() == {"expired": 1}


def test_work_that_waits_for_what_is_gone_is_frozen(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = with_policy(make_world())
    adopt_versions(world.database, VERSIONS)
    world.upload(clip(tmp_path / "a.mp4"))
    world.ingest()
    run_cheap(world.platform, VERSIONS, "raw_clips", "blurred_clips")  # published; its frames were never decoded
    age(world, 4)
    expire(world.platform)
    assert world.states() == {"published": 1}
    run_cheap(world.platform, VERSIONS)
    states = dict(world.rows("SELECT stage, state FROM cv.stages"))
    assert states == dict.fromkeys(["decoded_frames", "detections", "tracks"], "frozen") | dict.fromkeys(
        ["raw_clips", "blurred_clips"], "done"
    )
    assert len(keys(world, "blurred")) == 2
    assert balance(world.database).balances


def test_quarantined_clips_are_kept_for_their_own_term(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = with_policy(make_world())
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(SPOILT)
    world.upload(bad)
    world.ingest()
    run_cheap(world.platform, VERSIONS)
    assert world.states() == {"quarantined": 1}
    age(world, 20)
    assert not expire(world.platform).clips.total()
    age(world, 11)
    assert expire(world.platform).clips["quarantine"] == 1
    assert world.states() == {"expired": 1}
    assert not raw_objects(world)
    assert balance(world.database).balances


def test_where_passers_by_are_filmed_raw_and_frames_go_once_nothing_reads_them(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = with_policy(make_world(), "sites: {north: {keep: {cold: 100y}, cameras: {street: {public_area: true}}}}")
    world.upload(clip(tmp_path / "s.mp4"), camera="street")
    world.upload(clip(tmp_path / "y.mp4"), camera="yard")
    world.ingest()
    run_cheap(world.platform, VERSIONS, "raw_clips", "blurred_clips")
    assert expire(world.platform).counts() == {}  # certified and copied, but its frames are still to be looked at
    run_cheap(world.platform, VERSIONS)
    report = expire(world.platform)
    assert {name: report.clips[name] for name in ("raw", "frames")} == {"raw": 1, "frames": 1}
    assert [key for key in keys(world, "frames", "raw", "vault") if "street" in key] == []
    assert len(keys(world, "frames")) == 1
    assert world.states() == {"published": 2}


def test_what_a_hold_covers_outlives_every_term_and_goes_after_the_release(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = with_policy(processed(make_world(), tmp_path, "cam1", "cam2"), "defaults: {keep: {cold: 1d}}")
    hold, _ = place_hold(world.database, HoldScope(camera_id="cam1"), reason="case 1", by="officer")
    before = keys(world, "blurred", "frames", "detections")
    age(world, 40)
    expire(world.platform)
    assert dict(world.rows("SELECT camera_id, state FROM cv.clips")) == {"cam1": "published", "cam2": "expired"}
    assert len(keys(world, "blurred", "frames", "detections")) == len(before) // 2
    assert len(keys(world, "vault")) == 1
    release_hold(world.database, hold, by="officer")
    expire(world.platform)
    assert world.states() == {"expired": 2}
    assert not keys(world, "blurred", "frames", "detections", "raw", "vault")


def waits_for_a_lock(world: World) -> bool:
    """Whether somebody waits for another's row."""
    sql = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(world.rows(sql))


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must come."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


def test_a_hold_placed_while_data_goes_waits_and_tells_what_is_left(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = with_policy(processed(make_world(), tmp_path))
    age(world, 4)
    covered: list[int] = []

    def place() -> None:
        covered.append(place_hold(world.database, HoldScope(camera_id="cam1"), reason="r", by="officer")[1])

    with world.database.transaction() as connection:
        expiring = lock_older(connection, "raw", older_than=timedelta(days=3), places=EVERYWHERE, early=False, limit=9)
        thread = threading.Thread(target=place)
        thread.start()
        until(lambda: waits_for_a_lock(world))
        connection.execute("UPDATE cv.clips SET state = 'expired' WHERE clip_id = ANY(%s)", [expiring])
    thread.join()
    assert len(expiring) == 1
    assert covered == [0]


def test_what_a_hold_that_is_being_placed_covers_is_left(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = with_policy(processed(make_world(), tmp_path))
    age(world, 4)
    reports: list[expiry.ExpiryReport] = []
    with world.database.transaction() as connection:
        hold = uuid.uuid4()
        connection.execute(
            "INSERT INTO cv.holds (hold_id, camera_id, reason, placed_by) VALUES (%s, 'cam1', 'r', 'officer')", [hold]
        )
        assert freeze_held(connection, hold) == 1
        thread = threading.Thread(target=lambda: reports.append(expire(world.platform)))
        thread.start()
        until(lambda: waits_for_a_lock(world))
    thread.join()
    assert not reports[0].clips.total()
    assert keys(world, "vault")


CALM = "keep: {raw: 90d, frames: 90d, quarantine: 90d, cold: 100y}"
POLICIES = [
    f"defaults: {{{CALM}}}\nsites: {{north: {{cameras: {{cam2: {{public_area: true}}}}}}}}",
    f"defaults: {{{CALM}}}\nsites: {{north: {{keep: {{raw: 1h}}, cameras: {{cam1: {{keep: {{raw: 90d}}}}}}}}}}",
    f"defaults: {{{CALM}}}\nsites: {{north: {{keep: {{raw: 1h}}}}, south: {{keep: {{cold: 1d, frames: 2h}}}}}}",
    "defaults: {keep: {raw: 1h, frames: 1h, quarantine: 90d, cold: 100y}}",
    "defaults: {keep: {raw: 1h, frames: 1h, quarantine: 1h, cold: 1d}}",
]


@pytest.mark.slow
def test_what_a_change_of_policy_would_delete_is_what_expire_then_deletes(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = with_policy(make_world(), f"defaults: {{{CALM}}}")
    for camera, site in (("cam1", "north"), ("cam2", "north"), ("cam3", "south"), ("cam4", "west"), ("cam5", "west")):
        world.upload(clip(tmp_path / f"{camera}.mp4"), camera=camera, site=site)
    world.ingest()
    run_cheap(world.platform, VERSIONS)
    world.execute(
        "UPDATE cv.clips SET state = 'quarantined', quarantine_stage = 'tracks', quarantine_code = 'damaged',"
        " quarantine_reason = 'it is damaged', quarantined_at = now() WHERE camera_id = 'cam4'"
    )
    age(world, 5)
    place_hold(world.database, HoldScope(camera_id="cam5"), reason="case 1", by="officer")
    assert not expire(world.platform).clips.total()
    everything: Counter[str] = Counter()
    for text in POLICIES:
        after = Policy.parse(text)
        said: Counter[str] = Counter()
        for entry in consequences(world.database, world.platform.policy, after):
            said[entry.data_class] += entry.items
        world.platform.policy = after  # type: ignore[misc]
        report = expire(world.platform)
        deleted = Counter({name: report.clips[name] for name in expiry.EXPIRING})
        del said["warm"]
        # A clip that expires as a whole takes with it what other classes still counted of it.
        assert +deleted <= +said
        assert deleted == said or deleted["cold"], text
        everything += deleted
    assert set(everything) == set(expiry.EXPIRING)
    assert world.rows("SELECT camera_id FROM cv.clips WHERE state <> 'expired'") == [("cam5",)]


def test_each_clip_belongs_to_one_place() -> None:
    found = divide(["*", "north", "north/cam1", "south/cam2"])
    assert found["*"].without == ("north", "north/cam1", "south/cam2")
    assert found["north"].without == ("north/cam1",)
    assert (found["south/cam2"].site, found["south/cam2"].camera, found["south/cam2"].without) == ("south", "cam2", ())


def test_a_quota_takes_the_oldest_and_tells_when_only_held_data_is_left(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = processed(make_world(), tmp_path, "cam1", "cam2", "cam3")
    for days, camera in enumerate(("cam3", "cam2", "cam1")):
        world.execute(
            "UPDATE cv.clips SET received_at = received_at - %s WHERE camera_id = %s", timedelta(hours=days), camera
        )
    place_hold(world.database, HoldScope(camera_id="cam1"), reason="case 1", by="officer")
    [(largest,)] = world.rows("SELECT max(size_bytes) FROM cv.clips")
    one = "defaults: {{keep: {{cold: 100y, frames: 90d}}}}\nquota: {{restricted: {}}}"
    [(frames,)] = world.rows("SELECT sum((counts ->> 'bytes')::bigint) FROM cv.stages WHERE stage = 'decoded_frames'")
    lower = Policy.parse(one.format(2 * largest + frames))
    [said] = quota_consequences(world.database, world.platform.policy, lower)
    assert (said.store, said.before, said.held_bytes) == ("restricted", None, 0)
    assert quota_consequences(world.database, lower, lower) == []
    with_policy(world, one.format(2 * largest + frames))
    report = expire(world.platform)
    assert report.clips["over quota (restricted)"] == said.items >= 1
    assert not report.alarms
    gone = world.rows("SELECT camera_id FROM cv.clips WHERE raw_deleted_at IS NOT NULL")
    assert gone == [("cam2",)]  # cam1 is older, and held
    [said] = quota_consequences(world.database, lower, Policy.parse(one.format(1)))
    assert said.items > 0
    assert said.held_bytes > 0
    with_policy(world, one.format(1))
    report = expire(world.platform)
    assert len(report.alarms) == 1
    assert "all that is left is held" in report.alarms[0]
    assert world.rows("SELECT camera_id FROM cv.clips WHERE raw_deleted_at IS NULL") == [("cam1",)]
    assert len(keys(world, "frames")) == 1
    assert world.states() == {"published": 3}


def test_a_policy_s_sizes() -> None:
    policy = Policy.parse("quota: {restricted: 500GB}\nsites: {a: {quota: {cold: 1.5 TiB}}}")
    assert (policy.quota.restricted, policy.sites["a"].quota.cold) == (500 * 10**9, 3 * 2**39)
    with pytest.raises(ValueError, match="no size"):
        Policy.parse("quota: {cold: plenty}")


def test_an_upload_that_came_under_the_key_of_what_expires_stays(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    """Between the transaction that lets a raw clip go and the collector's visit, its key got new content."""
    world = with_policy(make_world())
    world.upload(clip(tmp_path / "a.mp4"))
    world.ingest()
    age(world, 4)
    with faults.plan(expire__before_collecting="raise"), pytest.raises(faults.InjectedFault):
        expire(world.platform)
    world.upload(clip(tmp_path / "b.mp4"))
    expire(world.platform)
    assert world.ingest().new == 1
    run_cheap(world.platform, VERSIONS)
    assert world.states() == {"expired": 1, "published": 1}


def fault_points() -> list[str]:
    """Every fault point of expiry, as the code names them."""
    root = Path(expiry.__file__).parents[1]
    found: set[str] = set()
    for path in root.rglob("*.py"):
        found |= set(re.findall(r'faults\.point\("(expire\.[a-z_]+)"\)', path.read_text()))
    commits = ["expire.before_commit", "expire.after_commit"]  # while there is something to commit
    assert found >= {*commits, "expire.before_collecting", "expire.before_audit"}
    return [*commits, *sorted(found - set(commits))]


@pytest.mark.slow
def test_killed_at_every_point_it_converges(make_world: Callable[..., World], tmp_path: Path) -> None:
    policy = "defaults: {keep: {raw: 1h, frames: 1h, cold: 100y}}\nquota: {cold: 1}"
    file = tmp_path / "policy.yaml"  # the processes that are killed read it too
    file.write_text(policy)
    undisturbed, crashed = (
        with_policy(processed(make_world(policy_file=file), tmp_path, "cam1", "cam2"), policy) for _ in range(2)
    )
    for world in (undisturbed, crashed):
        place_hold(world.database, HoldScope(camera_id="cam2"), reason="case 1", by="officer")
        age(world, 5)
    expire(undisturbed.platform)
    for point in fault_points():
        assert workers.ended(workers.start_expiry(crashed.settings, plan={point: "kill"})) == -signal.SIGKILL, point
        crashed.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s'")
    expire(crashed.platform)
    for world in (undisturbed, crashed):
        assert balance(world.database).balances
    everything = ("raw", "vault", "frames", "blurred", "staging", "detections")
    assert len(keys(crashed, *everything)) == len(keys(undisturbed, *everything))
    assert crashed.states() == undisturbed.states()
    assert crashed.tables().keys() == undisturbed.tables().keys()
    assert [len(rows) for rows in crashed.tables().values()] == [len(rows) for rows in undisturbed.tables().values()]
