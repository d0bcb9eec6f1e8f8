"""An erasure leaves nothing of what it covers in any tier, everything of its neighbours, and a proof of both."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyarrow.parquet import read_table

from cv_platform.governance import audit
from cv_platform.governance.erasure import requests
from cv_platform.governance.erasure.certificate import verify
from cv_platform.governance.holds import HoldScope, place_hold, release_hold
from cv_platform.pipeline import erasure, erasure_proof
from cv_platform.pipeline.erasure import bring_back
from cv_platform.pipeline.keys import upload_key
from cv_platform.pipeline.publishing import collect_garbage
from cv_platform.pipeline.warm_to_cold import warm_to_cold
from cv_platform.storage.ledger.erasure_scope import TABLES, ErasureScope, clips_in_scope, rows_of_scope
from cv_platform.storage.ledger.queries import balance
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform_tests.conftest import S3Server
from cv_platform_tests.pipeline.erasing import (
    FIRST_CLIP,
    KEY,
    SECOND,
    ask,
    build_marts,
    erase,
    everything,
    rows_of,
    stored_bytes,
)
from cv_platform_tests.pipeline.filmed import CANARY, film
from cv_platform_tests.pipeline.world import MORNING, VERSIONS, World, short_clip

IN_PARQUET = ("warehouse.detections", "warehouse.tracks", "warehouse.events")


@pytest.fixture
def world(make_filmed: Callable[[], World]) -> World:
    """Footage of two cameras, published."""
    return make_filmed()


def traces(world: World, camera: str, index: int) -> dict[str, str]:
    """Words that tell of a clip: whatever finds one of them has found the clip."""
    [(clip_id, upload_key, sha256, published)] = world.rows(
        "SELECT clip_id, upload_key, content_sha256, published_sha256 FROM cv.clips"
        " WHERE camera_id = %s ORDER BY captured_at OFFSET %s LIMIT 1",
        camera,
        index,
    )
    at = MORNING + timedelta(seconds=2 * index)
    words = {"upload key": upload_key, "content": sha256, "published content": published, "time": f"{at:%H:%M:%S}+00"}
    for table in ("detections", "tracks", "events"):
        ids = world.rows(
            f"SELECT id FROM warehouse.{table} t JOIN cv.clips c ON c.published_key = t.clip_s3_key"
            ' WHERE c.clip_id = %s AND t."timestamp" >= c.captured_at',
            clip_id,
        )
        words |= {f"{table} {n}": str(row_id) for n, (row_id,) in enumerate(ids)}
    return words


def test_nothing_is_left_in_any_tier_and_nothing_of_a_neighbour_is_touched(world: World) -> None:
    assert world.platform.hot is not None
    world.platform.hot.write_current("cam1", datetime.now(UTC), {"0": 2})
    words = traces(world, "cam1", 0)
    assert len(words) > 20
    [(clip_id,)] = world.rows("SELECT clip_id FROM cv.clips WHERE camera_id = 'cam1' ORDER BY captured_at LIMIT 1")
    neighbour, objects = rows_of(world, "cam2"), stored_bytes(world)

    document = erase(world)

    tables = everything(world)
    for name, word in words.items():
        where = [table for table, text in tables.items() if word in text and not (name == "time" and "cam2" in text)]
        where = [table for table in where if table != "cv.tombstones"]  # digests and intervals, by design
        assert where == [], f"{name} is still in {where}"
    assert "08:00:00" not in str(world.rows("SELECT t::text FROM cv.track_states t WHERE camera_id = 'cam1'"))
    after = stored_bytes(world)
    assert not [name for name, data in after.items() if CANARY in data or str(clip_id) in name]
    assert not [name for name, data in after.items() if str(clip_id).encode() in data]
    assert world.platform.hot.read_current("cam1") is None
    assert rows_of(world, "cam2") == neighbour
    others = {name: data for name, data in objects.items() if name in after}
    assert {name: after[name] for name in others} == others
    assert len(after) < len(objects)
    assert balance(world.database).balances
    assert world.states() == {"erased": 1, "published": 5}

    verify(document, KEY.public_key())
    assert document["erased"]["clips"] == 1
    assert document["erased"]["keys destroyed"] == 1
    assert document["erased"]["rows"]["detections"]["rows"] == 20
    assert not any(document["absence"]["objects"].values())
    assert not any(document["absence"]["rows"].values())
    assert list(audit.problems(audit.entries(world.database), known=[audit.head_of(world.database)])) == []
    assert audit.AuditHead(**document["audit_head"]) in [
        audit.AuditHead(entry.seq, entry.entry_hash) for entry in audit.entries(world.database)
    ]


def test_what_is_left_is_tracked_anew_as_if_the_clip_had_never_been(
    make_filmed: Callable[[], World], make_world: Callable[..., World], tmp_path: Path
) -> None:
    erased, never = make_filmed(), make_world()
    adopt_versions(never.database, VERSIONS)
    for n in (1, 2):
        never.upload(short_clip(tmp_path / f"n{n}.mp4", first_level=10 * n), MORNING + timedelta(seconds=2 * n))
    never.ingest()
    never.run()
    erase(erased)
    erased.run()
    ours, theirs = (
        world.rows(
            'SELECT t."timestamp", track_day, track_id, class_id, last_seen_at, detections FROM warehouse.tracks t'
            " WHERE camera_id = 'cam1' ORDER BY 1, 3"
        )
        for world in (erased, never)
    )
    assert ours == theirs
    assert ours


@pytest.mark.parametrize("kind", ["camera", "clip", "track"])
def test_what_has_gone_cold_is_erased_too(world: World, kind: str) -> None:
    before = {table: rows_of(world, "cam2")[table] for table in IN_PARQUET}
    [(clip_id,)] = world.rows("SELECT clip_id FROM cv.clips WHERE camera_id = 'cam1' ORDER BY captured_at LIMIT 1")
    [(day, number)] = world.rows(
        "SELECT track_day, track_id FROM warehouse.tracks WHERE camera_id = 'cam1' ORDER BY track_id LIMIT 1"
    )
    scope = {
        "camera": FIRST_CLIP,
        "clip": ErasureScope("clip", clip_id=clip_id),
        "track": ErasureScope("track", camera_id="cam1", track_day=day, track_id=number),
    }[kind]
    # Tracked anew, another one may come to a track's number, and to the ids that are made from it.
    tables = TABLES[:1] if kind == "track" else TABLES
    with world.database.transaction() as connection:
        words = [str(row["id"]) for table in tables for row in rows_of_scope(connection, scope, table, [clip_id])]
    assert words
    build_marts(world)
    assert warm_to_cold(world.platform, MORNING + timedelta(days=200)).rows > 0
    assert not rows_of(world, "cam1")["warehouse.detections"]
    document = erase(world, scope)
    assert document["erased"]["rows"]["detections"]["rows"] > 0
    world.run()  # what is left is tracked anew
    build_marts(world)
    warm_to_cold(world.platform, MORNING + timedelta(days=200))
    parquet = [path for path in world.settings.state_dir.rglob("*.parquet")]
    found = {str(row_id) for path in parquet for row_id in read_table(path, columns=["id"])["id"].to_pylist()}
    assert found
    assert not found & set(words)
    assert not [table for table, text in everything(world).items() if any(word in text for word in words)]
    bring_back(world.platform, ErasureScope("camera", camera_id="cam2", starts_at=MORNING, ends_at=MORNING + SECOND))
    assert {table: rows_of(world, "cam2")[table] for table in IN_PARQUET} == before


def test_it_stays_away(world: World, clips: Path, tmp_path: Path) -> None:
    erase(world)
    gone = balance(world.database)
    at_same_key = world.upload(clips / "cam1-0.mp4", camera="cam1")
    other_bytes = world.upload(short_clip(tmp_path / "other.mp4", first_level=3), MORNING + SECOND / 2, camera="cam1")
    assert world.ingest().new == 0
    for key in (at_same_key, other_bytes):
        assert world.platform.restricted.head(key) is None
    assert balance(world.database) == gone
    # The same bytes under another key, of another camera: known by their digest once they are read.
    elsewhere = world.upload(clips / "cam1-0.mp4", MORNING + timedelta(hours=3), camera="cam3")
    assert world.ingest().new == 1
    world.run()
    collect_garbage(world.platform)
    assert world.platform.restricted.head(elsewhere) is None
    assert world.states() == {"erased": 2, "published": 5}
    assert not [name for name, data in stored_bytes(world).items() if CANARY in data]
    # A clip that began before the interval and lasts into it is known once its length is.
    world.upload(short_clip(tmp_path / "long.mp4", first_level=5, frames=20), MORNING - SECOND, camera="cam1")
    assert world.ingest().new == 1
    world.run()
    assert world.states() == {"erased": 3, "published": 5}
    adopt_versions(world.database, dict.fromkeys(VERSIONS, "v2"))
    world.run(versions=dict.fromkeys(VERSIONS, "v2"))
    assert world.states() == {"erased": 3, "published": 5}
    assert balance(world.database).balances


def test_a_hold_suspends_it_before_anything_is_touched(world: World) -> None:
    request = ask(world)
    hold, _ = place_hold(world.database, HoldScope(camera_id="cam1"), reason="case 4", by="counsel")
    before, objects = world.picture(), stored_bytes(world)
    assert erasure.execute(world.platform, request, actor="job") == "suspended"
    assert (world.picture(), stored_bytes(world)) == (before, objects)
    assert "legal hold" in str(requests.get(world.database, request).detail)
    assert not world.rows("SELECT 1 FROM cv.tombstones")
    with pytest.raises(requests.WrongState, match="suspended"):
        erasure.execute(world.platform, request, actor="job")
    assert release_hold(world.database, hold, by="counsel")
    requests.approve(world.database, request, by="officer")
    assert erasure.execute(world.platform, request, actor="job") == "executed"
    assert world.states() == {"erased": 1, "published": 5}


def test_a_hold_on_a_neighbour_does_not_stop_it(world: World) -> None:
    place_hold(world.database, HoldScope(camera_id="cam2"), reason="case 4", by="counsel")
    assert erase(world)["erased"]["clips"] == 1


@pytest.mark.parametrize("kind", ["clip", "site"])
def test_other_scopes(world: World, kind: str) -> None:
    [(clip_id,)] = world.rows("SELECT clip_id FROM cv.clips WHERE camera_id = 'cam2' ORDER BY captured_at LIMIT 1")
    if kind == "clip":
        document, erased = erase(world, ErasureScope("clip", clip_id=clip_id)), 1
    else:
        scope = ErasureScope("site", site_id="north", starts_at=MORNING, ends_at=MORNING + 3 * SECOND)
        document, erased = erase(world, scope), 4
    assert document["erased"]["clips"] == erased
    assert world.states() == {"erased": erased, "published": 6 - erased}
    assert balance(world.database).balances


def test_a_track_goes_with_all_pictures_of_it_and_the_others_rows_stay(world: World) -> None:
    rows = world.rows(
        "SELECT track_day, track_id, count(*), sum(detections) FROM warehouse.tracks WHERE camera_id = 'cam1'"
        " GROUP BY 1, 2 ORDER BY 4 DESC, 2"
    )
    (day, number, clips, detections), *others = rows
    assert others
    scope = ErasureScope("track", camera_id="cam1", track_day=day, track_id=number)
    request = requests.receive(world.database, scope, reference="case-18", by="clerk")
    counts = erasure.preview(world.platform, request)
    assert counts["clips"] == clips
    loose = "SELECT count(*) FROM warehouse.detections WHERE camera_id = 'cam1' AND track_id IS NULL"
    of_others = (
        "SELECT count(*) FROM warehouse.detections d JOIN warehouse.tracks t USING (camera_id, track_id, clip_s3_key)"
        f" WHERE camera_id = 'cam1' AND (track_day, track_id) <> ('{day}', {number})"
    )
    counted = counts["rows"]["detections"]
    assert detections <= counted <= detections + world.rows(loose)[0][0]
    [(before,)] = world.rows("SELECT count(*) FROM warehouse.detections WHERE camera_id = 'cam1'")
    kept = world.rows(of_others)
    requests.approve(world.database, request, by="officer")
    assert erasure.execute(world.platform, request, actor="job") == "executed"
    [(after,)] = world.rows("SELECT count(*) FROM warehouse.detections WHERE camera_id = 'cam1'")
    assert before - after == counted
    assert world.rows(of_others) == kept
    build_marts(world)
    assert erasure_proof.certify(world.platform, request, actor="job", key=KEY) is not None
    world.run()  # tracked anew without it
    [(left,)] = world.rows(
        "SELECT count(DISTINCT (track_day, track_id)) FROM warehouse.tracks WHERE camera_id = 'cam1'"
    )
    assert left == len(others)
    assert world.states() == {"erased": clips, "published": 6 - clips}
    assert balance(world.database).balances


def test_what_no_track_holds_may_be_the_same_person_s(world: World) -> None:
    [(day, number, key, at, box)] = world.rows(
        'SELECT t.track_day, t.track_id, t.clip_s3_key, d."timestamp", d.bbox FROM warehouse.tracks t'
        " JOIN warehouse.detections d USING (camera_id, track_id, clip_s3_key) WHERE camera_id = 'cam1'"
        " ORDER BY t.detections DESC, 4 LIMIT 1"
    )
    part, far = [box[0], box[1], (box[0] + box[2]) / 2, (box[1] + box[3]) / 2], [0.98, 0.98, 0.99, 0.99]
    assert box[2] < far[0]
    half = timedelta(milliseconds=500)
    gone = {uuid.uuid4(): (at, 1000, part), uuid.uuid4(): (at + half, 0, box)}  # a face; the tracker was not sure
    stays = {uuid.uuid4(): (at, 0, far), uuid.uuid4(): (at + timedelta(hours=1), 0, box)}
    for row_id, (when, class_id, bbox) in {**gone, **stays}.items():
        world.execute(
            "INSERT INTO warehouse.detections VALUES (%s, 'cam1', %s, %s, 0.3, %s::float4[], NULL, %s)",
            *(row_id, when, class_id, bbox, key),
        )
    scope = ErasureScope("track", camera_id="cam1", track_day=day, track_id=number)
    with world.database.transaction() as connection:
        clips = [clip_id for clip_id, _ in clips_in_scope(connection, scope)]
        handed_over = {row["id"] for row in rows_of_scope(connection, scope, "detections", clips)}
    assert handed_over
    assert not handed_over & set(gone)
    erase(world, scope)
    left = {row_id for (row_id,) in world.rows("SELECT id FROM warehouse.detections WHERE camera_id = 'cam1'")}
    assert not left & set(gone)
    assert set(stays) <= left


def test_whoever_asks_cannot_approve_and_nothing_happens_unapproved(world: World) -> None:
    request = requests.receive(world.database, FIRST_CLIP, reference="case-17", by="clerk")
    with pytest.raises(requests.WrongState, match="received"):
        requests.approve(world.database, request, by="officer")
    erasure.preview(world.platform, request)
    with pytest.raises(PermissionError, match="cannot approve"):
        requests.approve(world.database, request, by="clerk")
    with pytest.raises(requests.WrongState, match="previewed"):
        erasure.execute(world.platform, request, actor="job")
    requests.refuse(world.database, request, by="officer", reason="not the data subject")
    with pytest.raises(requests.WrongState, match="refused"):
        erasure.execute(world.platform, request, actor="job")


def test_it_is_not_certified_before_the_aggregates_are_right(world: World) -> None:
    request = ask(world)
    erasure.execute(world.platform, request, actor="job")
    assert erasure_proof.certify(world.platform, request, actor="job", key=KEY) is None
    build_marts(world)
    first = erasure_proof.certify(world.platform, request, actor="job", key=KEY)
    assert first == erasure_proof.certify(world.platform, request, actor="job", key=KEY)


def test_every_version_in_a_bucket_goes(
    make_world: Callable[..., World], s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = s3_server.client()
    for bucket in (s3_server.bucket, s3_server.restricted_bucket):
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    monkeypatch.setenv("CLIP_KEYS", "1f" * 32)
    world = make_world(
        object_store_url=f"s3://{s3_server.bucket}/data",
        restricted_store_url=f"s3://{s3_server.restricted_bucket}",
        s3_endpoint_url=s3_server.endpoint_url,
        key_encryption_key="env:CLIP_KEYS",
    )
    film(world, tmp_path)
    key = upload_key("north", "cam1", MORNING)
    # An upload that was deleted before the platform saw it: a version behind a marker.
    client.put_object(Bucket=s3_server.restricted_bucket, Key=key, Body=b"older " + CANARY)
    client.delete_object(Bucket=s3_server.restricted_bucket, Key=key)
    [(clip_id,)] = world.rows(
        "SELECT clip_id FROM cv.clips WHERE camera_id = 'cam1' AND state = 'published' ORDER BY captured_at LIMIT 1"
    )

    [(frames,)] = world.rows(
        "SELECT output_key FROM cv.stages WHERE clip_id = %s AND stage = 'decoded_frames'", clip_id
    )
    client.put_object(Bucket=s3_server.restricted_bucket, Key=frames, Body=b"another version")

    def versions() -> list[tuple[str, bytes]]:
        found = []
        for bucket in (s3_server.bucket, s3_server.restricted_bucket):
            answer = client.list_object_versions(Bucket=bucket)
            assert not answer["IsTruncated"]
            for entry in answer.get("Versions", []):
                body = client.get_object(Bucket=bucket, Key=entry["Key"], VersionId=entry["VersionId"])["Body"]
                found.append((entry["Key"], body.read()))
        return found

    before = versions()
    assert any(CANARY in data for _, data in before), "a version of the plain upload is still there"
    document = erase(world)
    after = versions()
    assert not [name for name, data in after if CANARY in data or str(clip_id) in name or name == key]
    assert 0 < len(after) < len(before)
    counted = document["erased"]["objects"]["restricted"]
    assert (counted["objects"], counted["versions"], counted["locked"]) == (3, 4, 0)  # upload, vault, frames twice
