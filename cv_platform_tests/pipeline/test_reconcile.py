"""Ledger and store compared: what nothing points at goes, what is missing is made again or told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from cv_platform import faults
from cv_platform.governance.audit_export import export_audit
from cv_platform.governance.holds import HoldScope, place_hold
from cv_platform.pipeline.expiry import expire
from cv_platform.pipeline.publishing import collect_garbage
from cv_platform.pipeline.reconcile import reconcile
from cv_platform.pipeline.warm_to_cold import warm_to_cold
from cv_platform.storage.ledger.expected import FOLDERS
from cv_platform.storage.ledger.queries import balance
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform_tests.governance.cheap_stages import run_cheap
from cv_platform_tests.pipeline.test_expiry import age, processed, with_policy
from cv_platform_tests.pipeline.warm_rows import DAY, LATER, fill, union
from cv_platform_tests.pipeline.world import VERSIONS, World, with_settings

QUIET = {"orphans", "missing", "made again", "quarantined", "lost", "unknown"}


def objects(world: World) -> dict[str, list[str]]:
    return {folder: [info.key for info in world.platform.cold.list(folder)] for folder in (*FOLDERS, "raw")}


@pytest.fixture
def done(make_world: Callable[..., World], tmp_path: Path) -> World:
    """Two processed clips."""
    world = make_world()
    adopt_versions(world.database, VERSIONS)
    with_policy(processed(world, tmp_path, "cam1", "cam2"))
    world.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s', again_at = NULL")
    collect_garbage(world.platform)
    return world


def test_what_belongs_together_is_left_alone(done: World) -> None:
    before = objects(done)
    report = reconcile(done.platform, grace_s=-1.0)
    assert report.looked_at >= sum(map(len, before.values())) - 2
    assert {name: n for name, n in report.counts().items() if n and name != "looked at"} == {}
    collect_garbage(done.platform)
    assert objects(done) == before


def test_orphans_go_once_they_are_old_enough(done: World) -> None:
    before = objects(done)
    for folder in FOLDERS:
        for name in ("0", "zz/first", "zz/last"):
            done.platform.cold.put_bytes(f"{folder}/{name}", b"nobody's")
    assert not reconcile(done.platform).orphans
    report = reconcile(done.platform, grace_s=-1.0)
    assert dict(report.orphans) == dict.fromkeys(FOLDERS, 3)
    assert not reconcile(done.platform, grace_s=-1.0).orphans  # known already
    collect_garbage(done.platform)
    assert objects(done) == before


def test_an_upload_that_came_back_after_its_term_goes(done: World, tmp_path: Path) -> None:
    age(done, 4)
    expire(done.platform)
    done.upload(tmp_path / "cam1.mp4", camera="cam1")
    done.ingest()
    reconcile(done.platform, grace_s=-1.0)
    collect_garbage(done.platform)
    assert not objects(done)["raw"]


@pytest.mark.parametrize("folder", ["frames", "detections", "blurred", "certificate"])
def test_what_is_missing_is_made_again(done: World, folder: str) -> None:
    before, tables = objects(done), done.tables()
    name = "blurred" if folder == "certificate" else folder
    suffix = ".certificate.json" if folder == "certificate" else ""
    gone = next(key for key in before[name] if key.endswith(suffix) and (suffix or not key.endswith(".json")))
    done.platform.cold.delete([gone])
    report = reconcile(done.platform)
    assert (report.missing.total(), report.again, report.lost) == (1, 1, 0)
    run_cheap(done.platform, VERSIONS)
    done.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s', again_at = NULL")
    collect_garbage(done.platform)
    assert {name: len(keys) for name, keys in objects(done).items() if name not in ("staging", "raw")} == {
        name: len(keys) for name, keys in before.items() if name not in ("staging", "raw")
    }
    assert done.tables() == tables
    assert done.states() == {"published": 2}
    assert not reconcile(done.platform).missing
    assert balance(done.database).balances


def test_what_cannot_be_made_again_is_told(done: World) -> None:
    age(done, 4)
    expire(done.platform)
    before = objects(done)
    done.platform.cold.delete([key for key in before["blurred"] if not key.endswith(".json")][:1])
    done.platform.cold.delete(before["detections"][:1])
    report = reconcile(done.platform)
    assert dict(report.missing) == {"detections": 1, "blurred": 1}
    assert report.lost == 1  # its rows are still warm
    assert done.states() == {"published": 1, "quarantined": 1}
    [(reason,)] = done.rows("SELECT quarantine_reason FROM cv.clips WHERE quarantine_reason IS NOT NULL")
    assert "not in the store" in reason
    assert balance(done.database).balances
    assert not reconcile(done.platform).missing


def test_a_lost_raw_clip_quarantines_what_waits_for_it(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = processed(make_world(), tmp_path, "cam1")
    adopt_versions(world.database, {**VERSIONS, "decoded_frames": "v2"})
    [key] = [info.key for info in world.platform.restricted.list("vault")]
    world.platform.restricted.delete([key])
    report = reconcile(world.platform)
    assert (report.missing["vault"], report.lost) == (1, 1)
    assert world.states() == {"published": 1}
    assert world.rows("SELECT state FROM cv.stages WHERE stage = 'decoded_frames'") == [("frozen",)]
    assert balance(world.database).balances


def test_files_of_the_warehouse(world: World) -> None:
    fill(world)
    with faults.plan(warm_to_cold__exported="raise"), pytest.raises(faults.InjectedFault):
        warm_to_cold(world.platform, LATER)
    seen = union(world)
    store = world.platform.cold
    assert not reconcile(world.platform, grace_s=-1.0).orphans
    exported = [info.key for info in store.list("warehouse")]
    store.delete(exported[:1])
    report = reconcile(world.platform)
    assert (dict(report.missing), report.again, report.lost) == ({"warehouse": 1}, 1, 0)
    assert warm_to_cold(world.platform, LATER).cold == [DAY]  # not the file that is gone, and its rows with it
    assert union(world) == seen
    [(live,), *_] = world.rows("SELECT object_key FROM cv.cold_files WHERE state = 'live'")
    content = store.get_bytes(live)
    store.delete([live])
    report = reconcile(world.platform)
    assert (dict(report.missing), report.again, report.lost) == ({"warehouse": 1}, 0, 1)
    store.put_bytes(live, content)  # restored from a backup
    assert union(world) == seen
    assert not reconcile(world.platform).missing


def test_the_exported_audit_log_is_told_of_and_never_mended(done: World) -> None:
    store, day = done.platform.cold, timedelta(days=1)
    for _ in range(3):
        reconcile(done.platform)  # an entry each
        export_audit(done.database, store, keep=day)
    names = [info.key for info in store.list("audit")]
    assert len(names) == 3
    store.delete(names[1:2])
    store.put_bytes("audit/2026-03-01/notes.txt", b"x")
    for _ in range(2):
        report = reconcile(done.platform, grace_s=-1.0)
        assert (dict(report.missing), report.lost, report.unknown) == ({"audit": 1}, 1, 1)
        assert not report.orphans
        collect_garbage(done.platform)
    assert [info.key for info in store.list("audit")] == sorted([names[0], names[2], "audit/2026-03-01/notes.txt"])


def test_held_clips_lose_nothing_by_it(done: World) -> None:
    place_hold(done.database, HoldScope(site_id="north"), reason="case 1", by="officer")
    before = objects(done)
    done.platform.cold.delete([key for key in before["blurred"] if not key.endswith(".json")][:1])
    reconcile(done.platform, grace_s=-1.0)
    run_cheap(done.platform, VERSIONS)
    done.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s', again_at = NULL")
    collect_garbage(done.platform)
    now = objects(done)
    for folder in ("vault", "frames", "detections", "blurred"):
        assert len(now[folder]) == len(before[folder])
    assert balance(done.database).balances


def test_on_s3(make_world: Callable[..., World], s3_server: object, tmp_path: Path) -> None:
    from cv_platform_tests.conftest import S3Server

    assert isinstance(s3_server, S3Server)
    plain = make_world()
    (tmp_path / "kek").write_bytes(b"0f" * 32)
    (tmp_path / "kek").chmod(0o600)
    world = World.at(
        with_settings(
            plain.settings,
            object_store_url=f"s3://{s3_server.bucket}/cold",
            restricted_store_url=f"s3://{s3_server.restricted_bucket}",
            s3_endpoint_url=s3_server.endpoint_url,
            key_encryption_key=f"file:{tmp_path / 'kek'}",
        )
    )
    processed(world, tmp_path, "cam1")
    world.platform.cold.put_bytes("blurred/00/nobody.mp4", b"x")
    world.platform.restricted.put_bytes("frames/nobody.tar", b"x")
    report = reconcile(world.platform, grace_s=-1.0)
    assert dict(report.orphans) == {"blurred": 1, "frames": 1}
    assert not report.missing
    world.database.close()
