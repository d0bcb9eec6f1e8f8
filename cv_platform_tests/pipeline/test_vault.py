"""Clips lie sealed: the upload goes into the vault and is removed, however often it comes and whoever is killed."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cv_platform.governance.keys import KeyEncryptionKeyError, write_new_key
from cv_platform.pipeline.ingest import ingest_listing, ingest_notifications
from cv_platform.pipeline.previews import publish_and_preview
from cv_platform.pipeline.published_clips import NotPublished, fetch_published, read_published_range
from cv_platform.pipeline.publishing import collect_garbage
from cv_platform.pipeline.vault import remove_sealed_uploads, seal_upload
from cv_platform.settings import Settings
from cv_platform.storage.ledger.claims import claim_clips
from cv_platform.storage.ledger.clip_keys import KeyDestroyed, destroy_keys
from cv_platform.storage.ledger.model import RAW_CLIPS, STAGES, Scope
from cv_platform.storage.ledger.published import published_clips
from cv_platform.storage.ledger.queries import balance
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform.storage.ledger.withdrawal import replay
from cv_platform.storage.objects import ObjectStore
from cv_platform.storage.sealed import CHUNK_BYTES, HEADER_BYTES, SealBroken, is_sealed
from cv_platform_tests.conftest import S3Server
from cv_platform_tests.pipeline import workers
from cv_platform_tests.pipeline.world import MORNING, VERSIONS, World, certify, short_clip, with_settings


def one_clip(world: World, folder: Path) -> tuple[str, bytes]:
    """A clip, registered; its upload key and bytes."""
    path = short_clip(folder / "a.mp4", frames=4)
    key = world.upload(path)
    world.ingest()
    return key, path.read_bytes()


def clip_id_of(world: World) -> Any:
    [(clip_id,)] = world.rows("SELECT clip_id FROM cv.clips")
    return clip_id


def vault_of(world: World) -> list[str]:
    return [info.key for info in world.platform.restricted.list("vault")]


def plain_places(world: World, needles: list[bytes]) -> list[str]:
    """Objects of either store in which one of some byte patterns stands."""
    folder = world.platform.cold.folder
    assert folder is not None
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]


def test_nothing_of_a_clip_lies_in_the_clear(world: World, tmp_path: Path) -> None:
    key, data = one_clip(world, tmp_path)
    needles = [data[100:164], b"blurred:", b"\xff\xd8\xff", b"ustar"]  # raw, published, a JPEG, the shard's tar
    assert plain_places(world, needles) == [key]
    world.run()
    assert world.states() == {"published": 1}
    assert plain_places(world, needles) == []
    assert world.platform.restricted.head(key) is None
    assert [entry.name for entry in world.settings.scratch.iterdir()] == []
    sealed = world.rows("SELECT stage, output_key, stored_bytes, stored_sha256 FROM cv.stages WHERE stored_bytes > 0")
    assert {stage for stage, *_ in sealed} == {"raw_clips", "decoded_frames", "blurred_clips"}
    for stage, output, size, sha256 in sealed:
        store = world.platform.cold if stage == "blurred_clips" else world.platform.restricted
        stored = store.get_bytes(output)
        assert is_sealed(stored)
        assert (len(stored), hashlib.sha256(stored).hexdigest()) == (size, sha256)
    [vault] = vault_of(world)
    assert world.in_the_clear(vault, "raw", clip_id=clip_id_of(world)) == data
    with pytest.raises(SealBroken):  # an object of one kind opens as no other
        world.in_the_clear(vault, "frames", clip_id=clip_id_of(world))


def test_a_clip_that_is_refused_lies_sealed_and_is_replayed_from_there(world: World, tmp_path: Path) -> None:
    path = tmp_path / "bad.mp4"
    path.write_bytes(b"no clip at all" * 1000)
    key = world.upload(path)
    world.ingest()
    assert world.run(RAW_CLIPS)[RAW_CLIPS].quarantined.total() == 1
    collect_garbage(world.platform)
    assert world.platform.restricted.head(key) is None
    before = vault_of(world)
    assert world.in_the_clear(before[0], "raw", clip_id=clip_id_of(world)) == path.read_bytes()
    [(first,)] = world.rows("SELECT quarantine_code FROM cv.clips")
    replay(world.database, [clip_id_of(world)])
    world.run(RAW_CLIPS)
    assert world.rows("SELECT quarantine_code FROM cv.clips") == [(first,)]  # of its content, not of a missing object
    collect_garbage(world.platform)
    assert vault_of(world) == before


def test_a_new_version_reads_the_vault_and_keeps_it(world: World, tmp_path: Path) -> None:
    one_clip(world, tmp_path)
    adopt_versions(world.database, VERSIONS)
    world.run()
    before, newer = vault_of(world), dict.fromkeys(STAGES, "v2")
    adopt_versions(world.database, newer)
    assert all(report.done == 1 for report in world.run(versions=newer).values())
    collect_garbage(world.platform)
    assert vault_of(world) == before
    assert world.states() == {"published": 1}


@pytest.mark.parametrize("point", ["vault.before_keep", "vault.before_removal"])
@pytest.mark.parametrize("then", ["stage", "ingest", "tidy"])
def test_whoever_comes_after_a_crash_removes_the_upload(
    make_world: Callable[..., World], tmp_path: Path, point: str, then: str
) -> None:
    world = make_world()
    key, data = one_clip(world, tmp_path)
    assert workers.ended(workers.start(world.settings, RAW_CLIPS, plan={point: "kill"})) == -signal.SIGKILL
    assert world.platform.restricted.head(key) is not None
    workers.expire_leases(world)
    if then == "ingest":
        assert world.ingest().new == 0
    elif then == "tidy":
        assert remove_sealed_uploads(world.platform) == (point == "vault.before_removal")
    gone = world.platform.restricted.head(key) is None
    assert gone == (then != "stage" and point == "vault.before_removal")
    assert world.run(RAW_CLIPS)[RAW_CLIPS].done == 1
    if then == "stage":
        remove_sealed_uploads(world.platform)
    assert world.platform.restricted.head(key) is None
    assert list(world.settings.scratch.iterdir()) == []  # nor did the killed one leave raw bytes behind
    world.execute("UPDATE cv.garbage SET not_before = now() - interval '1 s'")
    collect_garbage(world.platform)
    [vault] = vault_of(world)
    assert world.in_the_clear(vault, "raw", clip_id=clip_id_of(world)) == data
    assert remove_sealed_uploads(world.platform) == 0


def test_content_that_comes_before_the_removal_stays(world: World, tmp_path: Path) -> None:
    key, _ = one_clip(world, tmp_path)
    [claim] = claim_clips(
        world.database, RAW_CLIPS, version="v1", scope=Scope(), run_id="r", lease_s=60, limit=1
    )  # fmt: skip
    with world.platform.scratch() as folder:
        read, sha256 = world.platform.restricted.fetch(key, folder / "clip")
        world.upload(short_clip(tmp_path / "b.mp4", frames=4, first_level=9))
        newer = world.platform.restricted.sha256(key)
        seal_upload(world.platform, claim, folder / "clip", sha256, read)
    assert world.platform.restricted.sha256(key) == newer
    assert world.ingest().superseded == 1
    world.run()
    assert world.states() == {"published": 1, "superseded": 1}
    assert world.rows("SELECT content_sha256 FROM cv.clips WHERE state = 'published'") == [(newer,)]
    assert balance(world.database).balances


@pytest.fixture
def s3_world(settings: Settings, s3_server: S3Server, tmp_path: Path) -> World:
    """A platform on S3, with a key-encryption key of its own."""
    write_new_key(tmp_path / "kek")
    return World.at(
        with_settings(
            settings,
            object_store_url=f"s3://{s3_server.bucket}/cold",
            restricted_store_url=f"s3://{s3_server.restricted_bucket}",
            s3_endpoint_url=s3_server.endpoint_url,
            sqs_queue_url=s3_server.queue_url,
            key_encryption_key=f"file:{tmp_path / 'kek'}",
        )
    )


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_the_same_content_again_is_removed_again(where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    world: World = request.getfixturevalue("world" if where == "folder" else "s3_world")
    key, _ = one_clip(world, tmp_path)
    world.run()
    assert world.states() == {"published": 1}
    before = world.picture()
    for _ in range(2):
        world.upload(tmp_path / "a.mp4")
        if where == "s3":  # its notifications: of the first upload, late, and of this one
            assert ingest_notifications(world.platform, limit=10).new == 0
        assert ingest_listing(world.platform, limit=10).new == 0
        assert world.platform.restricted.head(key) is None
    assert all(report.done == 0 for report in world.run().values())
    assert world.picture() == before


def test_content_that_superseded_and_was_superseded_is_another_clips(s3_world: World, tmp_path: Path) -> None:
    """On S3 the same bytes have the same etag: what lies there is the new clip's only copy, not the old one's."""
    world = s3_world
    key, data = one_clip(world, tmp_path)
    world.run(RAW_CLIPS)
    world.execute("UPDATE cv.clips SET upload_removed_at = NULL")  # as if its removal had been broken off
    world.upload(short_clip(tmp_path / "b.mp4", frames=4, first_level=9))
    assert world.ingest().superseded == 1
    world.upload(tmp_path / "a.mp4", key=key)
    assert world.ingest().superseded == 1
    assert remove_sealed_uploads(world.platform) == 0
    world.run()
    assert world.states() == {"published": 1, "superseded": 2}
    assert world.platform.restricted.head(key) is None
    [(clip_id, vault)] = world.rows(
        "SELECT clip_id, output_key FROM cv.stages JOIN cv.clips USING (clip_id)"
        " WHERE stage = 'raw_clips' AND cv.clips.state = 'published'"
    )
    assert world.in_the_clear(vault, "raw", clip_id=clip_id) == data


def test_a_destroyed_key_ends_a_clip_and_no_other(world: World, tmp_path: Path) -> None:
    for n in range(2):
        world.upload(short_clip(tmp_path / f"{n}.mp4", frames=4, first_level=n), MORNING + timedelta(minutes=n))
    world.ingest()
    world.run(RAW_CLIPS, "decoded_frames", "blurred_clips")
    one, other = published_clips(world.database)
    keys = dict(world.rows("SELECT stage, output_key FROM cv.stages WHERE clip_id = %s", one.clip_id))
    with world.database.transaction() as connection:
        destroy_keys(connection, [one.clip_id])
    for key, kind in ((keys["raw_clips"], "raw"), (keys["decoded_frames"], "frames"), (one.stable_key, "blurred")):
        with pytest.raises(KeyDestroyed):
            world.in_the_clear(key, kind, clip_id=one.clip_id)  # type: ignore[arg-type]
    with pytest.raises(KeyDestroyed):
        fetch_published(world.platform, one.clip_id, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = world.run("detections")["detections"]
    assert (dict(report.quarantined), report.postponed, report.done) == ({"key_destroyed": 1}, 0, 1)
    assert fetch_published(world.platform, other.clip_id, tmp_path / "out").sha256 == other.sha256
    replay(world.database, [one.clip_id])
    assert dict(world.run(RAW_CLIPS)[RAW_CLIPS].quarantined) == {"key_destroyed": 1}


def test_a_key_destroyed_before_the_first_seal_seals_nothing(world: World, tmp_path: Path) -> None:
    one_clip(world, tmp_path)
    with world.database.transaction() as connection:
        destroy_keys(connection, [clip_id_of(world)])
    assert dict(world.run(RAW_CLIPS)[RAW_CLIPS].quarantined) == {"key_destroyed": 1}
    assert vault_of(world) == []


def test_a_missing_key_encryption_key_stops_the_run_and_is_no_clips_fault(world: World, tmp_path: Path) -> None:
    one_clip(world, tmp_path)
    world.run(RAW_CLIPS)
    wrong = World.at(with_settings(world.settings, key_encryption_key=f"file:{tmp_path / 'none'}"))
    for _ in range(5):
        with pytest.raises(KeyEncryptionKeyError):
            wrong.run("decoded_frames")
    wrong.database.close()
    assert world.rows("SELECT state, attempts FROM cv.stages WHERE stage = 'decoded_frames'") == [("pending", 0)]
    assert world.run("decoded_frames")["decoded_frames"].done == 1


class Counting(ObjectStore):
    """Counts the bytes that are read in ranges; whole objects cannot be read."""

    asked = 0

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.get_range`."""
        data = super().get_range(key, start, length)
        self.asked += len(data)
        return data

    def open(self, key: str) -> Any:
        """No."""
        raise AssertionError("the whole object is read")


def test_a_range_of_a_published_clip_reads_only_its_chunks(world: World, tmp_path: Path) -> None:
    one_clip(world, tmp_path)
    with pytest.raises(NotPublished):
        read_published_range(world.platform, clip_id_of(world), start=0, length=1)
    world.run()
    [clip] = published_clips(world.database)
    data = bytes(range(256)) * 10_000  # ten chunks
    path = tmp_path / "large"
    path.write_bytes(data)
    from cv_platform.pipeline.sealing import put_sealed

    put_sealed(world.platform, world.platform.cold, clip.stable_key, path, clip.clip_id, "blurred")
    world.execute("UPDATE cv.clips SET published_bytes = %s", len(data))
    world.platform.cold = counting = Counting(world.settings.store_url)
    for start, length, chunks in ((5 * CHUNK_BYTES + 7, 100, 1), (CHUNK_BYTES - 5, 10, 2), (len(data) - 10, 50, 1)):
        counting.asked = 0
        found = read_published_range(world.platform, clip.clip_id, start=start, length=length)
        assert found == data[start : start + length]
        assert counting.asked <= HEADER_BYTES + chunks * (CHUNK_BYTES + 16)
    assert read_published_range(world.platform, clip.clip_id, start=len(data), length=5) == b""


def test_a_published_object_that_was_changed_is_not_handed_out(world: World, tmp_path: Path) -> None:
    one_clip(world, tmp_path)
    world.run()
    [clip] = published_clips(world.database)
    data = bytearray(world.platform.cold.get_bytes(clip.stable_key))
    data[HEADER_BYTES + 3] ^= 1
    world.platform.cold.put_bytes(clip.stable_key, bytes(data))
    with pytest.raises(SealBroken):
        fetch_published(world.platform, clip.clip_id, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert publish_and_preview(world.platform, Scope(), new=True) is None


def test_a_damaged_vault_is_said_in_one_line(world: World, tmp_path: Path) -> None:
    one_clip(world, tmp_path)
    world.run(RAW_CLIPS)
    [vault] = vault_of(world)
    world.platform.restricted.put_bytes(vault, world.platform.restricted.get_bytes(vault)[:-1])
    assert dict(world.run("decoded_frames")["decoded_frames"].quarantined) == {"raw_damaged": 1}


def test_certificates_tell_the_plain_digests(world: World, tmp_path: Path) -> None:
    _, data = one_clip(world, tmp_path)
    world.run()
    [clip] = published_clips(world.database)
    file = fetch_published(world.platform, clip.clip_id, tmp_path / "out")
    (tmp_path / "in").write_bytes(data)
    expected = certify(None, tmp_path / "in", tmp_path / "again", lambda: False)  # type: ignore[arg-type]
    assert (tmp_path / "out").read_bytes() == (tmp_path / "again").read_bytes()
    assert file.certificate == expected.to_json()
    assert (file.sha256, file.bytes) == (expected.output_sha256, expected.output_bytes)
