"""Stable keys hold what the ledger says, whoever comes late; what was withdrawn is gone, and nothing else."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from cv_platform.pipeline.outputs import upload_output, upload_sealed
from cv_platform.pipeline.publishing import collect_garbage, publish_due
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.claims import claim_clips
from cv_platform.storage.ledger.commits import commit
from cv_platform.storage.ledger.model import BLURRED_CLIPS, RAW_CLIPS, Scope, StaleClaim
from cv_platform.storage.ledger.published import expire_previews, note_preview, published_clips
from cv_platform.storage.ledger.queries import balance
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform.storage.ledger.withdrawal import discard_objects, quarantine_clip, replay
from cv_platform_tests.pipeline import workers
from cv_platform_tests.pipeline.world import MORNING, VERSIONS, World, short_clip


def one_clip(world: World, folder: Path) -> World:
    """A clip, published at version v1."""
    world.upload(short_clip(folder / "a.mp4", frames=4))
    world.ingest()
    adopt_versions(world.database, VERSIONS)
    return world


def publish_again(world: World, content: bytes) -> None:
    """A new version of the anonymiser makes other bytes."""
    newer = {**VERSIONS, BLURRED_CLIPS: f"v-{content.hex()}"}
    adopt_versions(world.database, newer)
    [claim] = claim_clips(
        world.database,
        BLURRED_CLIPS,
        version=newer[BLURRED_CLIPS],
        scope=Scope(),
        run_id="r",
        lease_s=60,
        limit=1,
    )
    with world.platform.scratch() as folder:
        path = folder / "out"
        path.write_bytes(content)
        key = upload_sealed(
            world.platform, claim, "cold", "staging", path, kind="blurred", suffix=".mp4", certificate="{}"
        ).key
    sha256 = hashlib.sha256(content).hexdigest()

    def write(connection: Connection) -> None:
        previous = connection.execute("SELECT published_from FROM cv.clips").fetchone()
        assert previous is not None
        discard_objects(connection, "cold", [previous[0]])
        connection.execute(
            "UPDATE cv.clips SET published_from = %s, published_sha256 = %s, copied_sha256 = NULL", [key, sha256]
        )

    commit(world.database, claim, seconds=0, output_key=key, output_sha256=sha256, write=write)


def stable(world: World) -> bytes:
    """What lies under the one clip's stable key."""
    [(key,)] = world.rows("SELECT published_key FROM cv.clips WHERE state <> 'superseded'")
    return world.in_the_clear(key)


@pytest.mark.parametrize("then", ["goes on", "is killed after its copy"])
def test_a_copier_stopped_before_its_copy_does_no_harm(
    make_world: Callable[..., World], tmp_path: Path, then: str
) -> None:
    world = one_clip(make_world(), tmp_path)
    world.run(RAW_CLIPS)
    plan = {"publish.before_copy": f"stop@{tmp_path / 'once'}"}
    if then != "goes on":
        plan["publish.after_copy"] = "kill"
    late = workers.start(world.settings, BLURRED_CLIPS, plan=plan)
    workers.wait_stopped(late.pid or 0)
    publish_again(world, b"newer")
    assert publish_due(world.platform, Scope()) == 1
    assert stable(world) == b"newer"
    workers.go_on(late)
    assert stable(world) == b"newer"
    assert len(published_clips(world.database)) == 1


def test_a_copier_killed_after_its_copy_is_put_right(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = one_clip(make_world(), tmp_path)
    world.run(RAW_CLIPS)
    killed = workers.start(world.settings, BLURRED_CLIPS, plan={"publish.after_copy": "kill"})
    assert workers.ended(killed) == -signal.SIGKILL
    assert published_clips(world.database) == []  # the copy is there, but nobody knows
    publish_again(world, b"newer")
    publish_due(world.platform, Scope())
    assert stable(world) == b"newer"


def test_a_copier_stopped_while_its_clip_is_withdrawn_brings_nothing_back(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = one_clip(make_world(), tmp_path)
    world.run(RAW_CLIPS)
    late = workers.start(
        world.settings,
        BLURRED_CLIPS,
        plan={"publish.before_copy": f"stop@{tmp_path / 'once'}", "publish.after_copy": "kill"},
    )
    workers.wait_stopped(late.pid or 0)
    world.upload(short_clip(tmp_path / "b.mp4", first_level=9, frames=4))
    assert world.ingest().superseded == 1
    collect_garbage(world.platform)
    assert workers.go_on(late) == 0  # it found nothing to copy
    assert not list(world.platform.cold.list("blurred"))


def test_what_a_late_copier_brought_back_is_deleted_once_more(world: World, tmp_path: Path) -> None:
    """Its copy was under way in the store itself when the clip was withdrawn: no order can prevent that."""
    one_clip(world, tmp_path).run(RAW_CLIPS, BLURRED_CLIPS)
    [clip] = published_clips(world.database)
    world.upload(short_clip(tmp_path / "b.mp4", first_level=9, frames=4))
    world.ingest()
    collect_garbage(world.platform)
    world.platform.cold.put_bytes(clip.stable_key, b"back again")
    world.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s'")
    collect_garbage(world.platform)
    assert not list(world.platform.cold.list("blurred"))
    assert world.rows("SELECT count(*) FROM cv.garbage") == [(0,)]


def test_a_clip_replayed_does_not_keep_what_was_withdrawn(world: World, tmp_path: Path) -> None:
    one_clip(world, tmp_path).run(RAW_CLIPS, BLURRED_CLIPS)
    [clip] = published_clips(world.database)
    with world.database.transaction() as connection:
        quarantine_clip(connection, clip.clip_id, stage="detections", code="damaged", reason="damaged")
    assert replay(world.database, [clip.clip_id]) == 1
    collect_garbage(world.platform)
    assert not list(world.platform.cold.list("blurred"))
    world.run()
    assert len(published_clips(world.database)) == 1
    assert collect_garbage(world.platform) == 0
    assert hashlib.sha256(world.in_the_clear(clip.stable_key)).hexdigest() == clip.sha256


@pytest.mark.parametrize("raw_gone", [False, True])
def test_an_object_to_publish_that_is_lost_is_made_again(world: World, tmp_path: Path, raw_gone: bool) -> None:
    one_clip(world, tmp_path).run(RAW_CLIPS, BLURRED_CLIPS)
    [clip] = published_clips(world.database)
    [(source,)] = world.rows("SELECT published_from FROM cv.clips")
    world.platform.cold.delete([source, clip.stable_key])
    world.execute("UPDATE cv.clips SET copied_sha256 = NULL, raw_deleted_at = %s", MORNING if raw_gone else None)
    assert publish_due(world.platform, Scope()) == 0
    assert balance(world.database).balances
    world.run(BLURRED_CLIPS)
    if raw_gone:
        assert world.rows("SELECT quarantine_code FROM cv.clips") == [("published_object_lost",)]
    else:
        assert hashlib.sha256(world.in_the_clear(clip.stable_key)).hexdigest() == clip.sha256


def test_the_collector_takes_nothing_that_a_commit_points_at(world: World, tmp_path: Path) -> None:
    """Collector and commits race for the same objects, all of them due at once: either a commit keeps its object, or
    the object is gone and the commit is refused."""
    for n in range(12):
        world.upload(short_clip(tmp_path / "a.mp4", frames=2), MORNING + timedelta(minutes=n))
    world.ingest()
    world.execute("UPDATE cv.stages SET state = 'done' WHERE stage = 'raw_clips'")
    world.execute("UPDATE cv.stages SET state = 'pending' WHERE stage = 'decoded_frames'")
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            world.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s'")
            collect_garbage(world.platform)

    collector = threading.Thread(target=collect)
    collector.start()
    path = tmp_path / "object"
    path.write_bytes(b"frames")
    refused = kept = 0
    try:
        for claim in claim_clips(
            world.database, "decoded_frames", version="v1", scope=Scope(), run_id="r", lease_s=60, limit=12
        ):
            key = upload_output(world.platform, claim, "restricted", "frames", path, suffix=".tar")
            time.sleep(0.01 * (kept % 3))
            try:
                commit(world.database, claim, seconds=0, output_key=key, store="restricted")
            except StaleClaim:
                refused += 1
            else:
                kept += 1
    finally:
        stop.set()
        collector.join()
    pointed = {key for (key,) in world.rows("SELECT output_key FROM cv.stages WHERE output_key IS NOT NULL")}
    collect_garbage(world.platform)
    assert {info.key for info in world.platform.restricted.list("frames")} == pointed
    assert len(pointed) == kept
    assert kept + refused == 12


def test_an_object_that_cannot_be_deleted_holds_up_no_other(world: World) -> None:
    world.platform.cold.put_bytes("staging/b", b"x")
    folder = world.platform.cold.folder
    assert folder is not None
    (folder / "staging" / "a").mkdir()  # a folder cannot be deleted as an object
    for key in ("staging/a", "staging/b"):
        world.execute("INSERT INTO cv.garbage (store, object_key) VALUES ('cold', %s)", key)
    assert collect_garbage(world.platform) == 1
    assert world.rows("SELECT object_key, not_before > now() FROM cv.garbage") == [("staging/a", True)]


def test_previews_end_with_their_term(world: World, tmp_path: Path) -> None:
    one_clip(world, tmp_path).run(RAW_CLIPS, BLURRED_CLIPS)
    [clip] = published_clips(world.database)
    world.platform.cold.put_bytes("previews/old.jpg", b"x")
    assert note_preview(world.database, clip.clip_id, "previews/old.jpg", expires_at=MORNING)
    assert expire_previews(world.database) == 1
    collect_garbage(world.platform)
    assert world.platform.cold.head("previews/old.jpg") is None
