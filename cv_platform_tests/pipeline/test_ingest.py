"""Uploads become clips: from listings and from notifications, however often, in whatever order, however odd."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cv_platform.governance.erasure import requests
from cv_platform.pipeline import erasure
from cv_platform.pipeline.ingest import ingest_listing, ingest_notifications, reconcile_uploads
from cv_platform.pipeline.keys import parse_key, upload_from, upload_key
from cv_platform.pipeline.publishing import collect_garbage, write_preview
from cv_platform.settings import Settings
from cv_platform.storage.ledger.erasure_scope import ErasureScope
from cv_platform.storage.ledger.published import published_clips
from cv_platform.storage.ledger.queries import balance, quarantined
from cv_platform.storage.ledger.registration import Upload, register_uploads
from cv_platform_tests.conftest import S3Server
from cv_platform_tests.pipeline.world import MORNING, World, short_clip, with_settings

KEY = upload_key("north", "cam1", MORNING)


def put(world: World, key: str, data: bytes) -> None:
    """Upload bytes."""
    world.platform.restricted.put_bytes(key, data)


@pytest.fixture
def s3_world(settings: Settings, s3_server: S3Server) -> World:
    """A platform on S3, told of uploads by a queue."""
    return World.at(
        with_settings(
            settings,
            object_store_url=f"s3://{s3_server.bucket}/cold",
            restricted_store_url=f"s3://{s3_server.restricted_bucket}",
            s3_endpoint_url=s3_server.endpoint_url,
            sqs_queue_url=s3_server.queue_url,
        )
    )


def test_the_same_upload_twice_is_one_clip(world: World) -> None:
    put(world, KEY, b"one")
    assert [world.ingest().new for _ in range(3)] == [1, 0, 0]
    upload = Upload("raw/x", "e", 1, "north", "cam1", MORNING)
    assert register_uploads(world.database, [upload, upload]).new == 1
    assert register_uploads(world.database, [upload]).repeated == 1
    assert balance(world.database).states["in_progress"] == 2


def test_two_registrations_at_once_agree(world: World) -> None:
    uploads = [Upload(f"raw/{n}", "e", 1, "north", f"cam{n % 7}", MORNING + timedelta(seconds=n)) for n in range(300)]
    totals: list[int] = []

    def register(part: list[Upload]) -> None:
        totals.append(register_uploads(world.database, part).new)

    threads = [threading.Thread(target=register, args=(part,)) for part in (uploads[::-1], uploads, uploads[100:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(totals) == 300
    assert balance(world.database).received == 300


def test_new_content_withdraws_all_that_was_made_of_the_old(world: World, tmp_path: Path) -> None:
    world.upload(short_clip(tmp_path / "a.mp4"), MORNING)
    world.ingest()
    world.run()
    [old] = published_clips(world.database)
    link = write_preview(world.platform, old.clip_id, b"picture")
    assert link is not None
    shards = [info.key for info in world.platform.restricted.list("frames")]
    assert shards
    days = world.rows("SELECT day, dirty_seq FROM cv.mart_days")
    world.upload(short_clip(tmp_path / "b.mp4", first_level=5), MORNING)
    assert world.ingest().superseded == 1
    assert world.states() == {"in_progress": 1, "superseded": 1}
    for table in ("detections", "tracks", "events", "clip_facts"):
        assert world.rows(f"SELECT count(*) FROM warehouse.{table}") == [(0,)], table
    assert world.rows("SELECT count(*) FROM cv.previews") == [(0,)]
    assert world.rows("SELECT day, dirty_seq FROM cv.mart_days") > days
    assert collect_garbage(world.platform) >= 4  # shard, Parquet, published clip, preview
    assert [
        info.key
        for prefix in ("blurred", "staging", "previews", "detections")
        for info in world.platform.cold.list(prefix)
    ] == []
    assert not list(world.platform.restricted.list("frames"))
    assert write_preview(world.platform, old.clip_id, b"late") is None  # a preview that comes late is none
    world.run()
    [new] = published_clips(world.database)
    assert new.clip_id != old.clip_id
    assert hashlib.sha256(world.in_the_clear(new.stable_key)).hexdigest() == new.sha256
    assert world.rows("SELECT superseded_by FROM cv.clips WHERE clip_id = %s", old.clip_id) == [(new.clip_id,)]
    assert balance(world.database).balances


def test_a_content_that_comes_back_is_a_clip_again(world: World) -> None:
    """Overwritten by mistake, then put right: the store holds the first bytes, with the first etag on S3."""
    a, b = (Upload(KEY, etag, 1, "north", "cam1", MORNING) for etag in "ab")
    assert [register_uploads(world.database, [upload]).superseded for upload in (a, b, a, a)] == [0, 1, 1, 0]
    assert world.states() == {"superseded": 2, "in_progress": 1}
    assert register_uploads(world.database, [b, a, b]).new == 1  # one tick saw both; the last is what is there
    assert world.rows("SELECT etag FROM cv.clips WHERE state = 'in_progress'") == [("b",)]


def test_the_same_bytes_written_again_to_a_folder_are_the_same_clip(world: World, tmp_path: Path) -> None:
    clip = short_clip(tmp_path / "a.mp4")
    key = world.upload(clip, MORNING)
    first = world.platform.restricted.head(key)
    world.ingest()
    world.run("raw_clips")
    time.sleep(0.01)
    world.upload(clip, MORNING)
    second = world.platform.restricted.head(key)
    assert first is not None
    assert second is not None
    assert first.etag != second.etag
    assert (world.ingest().new, world.ingest().new) == (0, 0)
    assert world.rows("SELECT other_etags FROM cv.clips") == [([second.etag],)]
    assert world.states() == {"in_progress": 1}
    assert world.platform.restricted.head(key) is None  # the vault has these bytes


def test_a_listing_goes_round_in_bounded_ticks(world: World) -> None:
    for n in range(7):
        put(world, upload_key("north", "cam1", MORNING + timedelta(minutes=n)), b"x")
    ticks = [ingest_listing(world.platform, limit=3) for _ in range(3)]
    assert [(tick.seen, tick.new, tick.wrapped) for tick in ticks] == [(3, 3, False), (3, 3, False), (1, 1, True)]
    put(world, upload_key("north", "cam1", MORNING - timedelta(minutes=1)), b"late")  # sorts before all others
    assert ingest_listing(world.platform, limit=3).new == 1
    # A limit met exactly is no end yet; the tick after it finds that.
    assert [ingest_listing(world.platform, limit=5).wrapped for _ in range(2)] == [False, True]


def test_ten_thousand_uploads_register_in_one_tick(world: World) -> None:
    """No time is asserted; the suite's own limit of a test's seconds holds."""
    uploads = [
        Upload(f"raw/{n}", "e", 1, f"s{n % 8}", f"cam{n % 96}", MORNING + timedelta(seconds=n)) for n in range(10_000)
    ]
    assert register_uploads(world.database, uploads).new == 10_000
    assert register_uploads(world.database, uploads).repeated == 10_000
    assert world.rows("SELECT count(*) FROM cv.stages") == [(50_000,)]


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("raw/readme.txt", "key_unreadable"),
        ("raw/north/cam1/2026/03/01/clip.mp4", "key_unreadable"),
        ("raw/north/cam 1/2026/03/01/20260301T080000Z.mp4", "key_unreadable"),
        (f"raw/north/{'c' * 51}/2026/03/01/20260301T080000Z.mp4", "key_unreadable"),
        ("raw/north/../2026/03/01/20260301T080000Z.mp4", "key_unreadable"),
        ("raw/north/cam1/2026/03/01/20260301T080000Z.mp4\n", "key_unreadable"),
        ("raw/north/cam1/2026/03/01/20260301T080000Z.exe", "type_unknown"),
        ("raw/north/cam1/2026/02/30/20260230T080000Z.mp4", "time_unreadable"),
        ("raw/north/cam1/2026/03/01/20260301T250000Z.mp4", "time_unreadable"),
        ("raw/north/cam1/2026/03/01/20260301T235960Z.mp4", "time_unreadable"),
        ("raw/north/cam1/2026/03/02/20260301T080000Z.mp4", "time_contradicts"),
        ("raw/north/cam1/٢٠٢٦/٠٣/٠١/٢٠٢٦٠٣٠١T٠٨٠٠٠٠Z.mp4", "time_unreadable"),
        ("raw/north/cam1/1970/01/01/19700101T000000Z.mp4", "before_first_day"),
        ("raw/north/cam1/2026/03/01/20260301T120501Z.mp4", "in_the_future"),
        ("raw/north/cam1/2026/03/01/20260301T120459.999Z.mp4", None),
        ("raw/north/cam1/2026/03/01/20260301T080000.123456Z.MKV", None),
    ],
)
def test_keys_and_clocks(key: str, code: str | None) -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    upload = upload_from(key, "e", 5, start=start, now=now, max_clock_skew_s=300, max_bytes=10)
    assert (upload.problem and upload.problem[0]) == code
    if upload.problem is not None:
        assert key not in upload.problem[1]
        assert "cam1" not in upload.problem[1]
        assert "\n" not in upload.problem[1]
        assert len(upload.problem[1]) < 150


def test_sizes(world: World) -> None:
    limits = {"start": datetime(2024, 1, 1, tzinfo=UTC), "now": datetime.now(UTC), "max_clock_skew_s": 0.0}
    codes = [upload_from(KEY, "e", size, max_bytes=10, **limits).problem for size in (0, 10, 11)]  # type: ignore[arg-type]
    assert [problem and problem[0] for problem in codes] == ["empty_file", None, "too_large"]


def test_a_camera_of_another_site_is_quarantined(world: World) -> None:
    put(world, KEY, b"x")
    put(world, upload_key("south", "cam1", MORNING), b"x")
    assert world.ingest().quarantined == 1
    [clip] = quarantined(world.database)
    assert (clip.site_id, clip.code) == ("south", "camera_of_other_site")
    assert world.rows("SELECT site_id FROM cv.cameras") == [("north",)]
    assert balance(world.database).balances


def test_odd_names_in_a_folder_stop_nobody(world: World, tmp_path: Path) -> None:
    folder = world.platform.restricted.folder
    assert folder is not None
    put(world, KEY, b"x")
    raw = os.fsencode(folder / "raw")
    names = [b"a\nb.mp4", b"\xff\xfe.mp4", b"100%.mp4", "é ü.mp4".encode(), b"back\\slash.mp4", b"~", b"x#y.mp4"]
    for name in names:
        Path(os.fsdecode(raw + b"/" + name)).write_bytes(b"x")
    os.symlink(folder / "raw", folder / "raw" / "loop")
    os.symlink("/nonexistent", folder / "raw" / "dangling")
    (folder / "raw" / "half.mp4#1").write_bytes(b"being written")
    long = folder / "raw" / "/".join(["d" * 250] * 5)
    long.mkdir(parents=True)
    (long / "clip.mp4").write_bytes(b"x")
    done = world.ingest()
    assert (done.new, done.quarantined) == (len(names) + 2, len(names) + 1)
    assert world.ingest().new == 0
    assert {clip.code for clip in quarantined(world.database)} == {"key_unreadable"}
    keys = [key for (key,) in world.rows("SELECT upload_key FROM cv.clips WHERE state = 'quarantined'")]
    assert max(len(key.encode()) for key in keys) <= 1024
    for name in ("a\nb.mp4", "100%.mp4", "back\\slash.mp4"):  # retention can delete what it could not read
        world.platform.restricted.delete([f"raw/{name}"])
        assert not (folder / "raw" / name).exists()


def test_a_listing_tells_what_head_tells(world: World) -> None:
    put(world, KEY, b"four")
    [listed] = world.platform.restricted.list("raw")
    headed = world.platform.restricted.head(KEY)
    assert headed is not None
    assert (listed.key, listed.size_bytes, listed.etag) == (headed.key, headed.size_bytes, headed.etag)


def test_notifications_over_http(s3_world: World, s3_server: S3Server) -> None:
    s3 = s3_server.client()
    odd = "raw/north/cam1/2026/03/01/a b+c%20ü.mp4"  # quoted in the notification
    big = upload_key("north", "cam1", MORNING + timedelta(hours=1))
    s3.put_object(Bucket=s3_server.restricted_bucket, Key=KEY, Body=b"x")
    s3.put_object(Bucket=s3_server.restricted_bucket, Key=odd, Body=b"x")
    s3.put_object(Bucket=s3_server.restricted_bucket, Key="elsewhere/x.mp4", Body=b"x")
    part = {"Bucket": s3_server.restricted_bucket, "Key": big}
    upload_id = s3.create_multipart_upload(**part)["UploadId"]
    etag = s3.upload_part(**part, UploadId=upload_id, PartNumber=1, Body=b"y" * 100)["ETag"]
    s3.complete_multipart_upload(
        **part, UploadId=upload_id, MultipartUpload={"Parts": [{"ETag": etag, "PartNumber": 1}]}
    )
    done = ingest_notifications(s3_world.platform, limit=100)
    assert (done.new, done.quarantined) == (3, 1)
    found = s3_world.rows("SELECT upload_key, etag, size_bytes FROM cv.clips ORDER BY 1")
    listed = [(info.key, info.etag, info.size_bytes) for info in s3_world.platform.restricted.list("raw")]
    assert found == sorted(listed)
    assert ingest_notifications(s3_world.platform, limit=100).new == 0  # the queue is empty
    assert reconcile_uploads(s3_world.platform).new == 0


def test_a_restored_notification_brings_nothing_erased_back(s3_world: World, s3_server: S3Server) -> None:
    store, sqs = s3_world.platform.restricted, s3_server.client("sqs")
    store.put_bytes(KEY, b"faces")
    [told] = sqs.receive_message(QueueUrl=s3_server.queue_url, VisibilityTimeout=0)["Messages"]
    assert ingest_notifications(s3_world.platform, limit=100).new == 1
    [(clip_id,)] = s3_world.rows("SELECT clip_id FROM cv.clips")
    request = requests.receive(s3_world.database, ErasureScope("clip", clip_id=clip_id), reference="case 1", by="clerk")
    erasure.preview(s3_world.platform, request)
    requests.approve(s3_world.database, request, by="officer")
    assert erasure.execute(s3_world.platform, request, actor="job") == "executed"
    assert store.head(KEY) is None
    for restored in (False, True):  # the message alone; then with its object, as from a backup
        if restored:
            store.put_bytes(KEY, b"faces")
            lose_notifications(s3_server)
        sqs.send_message(QueueUrl=s3_server.queue_url, MessageBody=told["Body"])
        assert ingest_notifications(s3_world.platform, limit=100).new == 0
        assert reconcile_uploads(s3_world.platform).new == 0
        assert store.present([KEY]) == 0
        assert s3_world.rows("SELECT state FROM cv.clips") == [("erased",)]


def lose_notifications(server: S3Server) -> None:
    """Take all messages off the queue. (SQS purges only once a minute.)"""
    sqs = server.client("sqs")
    while messages := sqs.receive_message(QueueUrl=server.queue_url, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            sqs.delete_message(QueueUrl=server.queue_url, ReceiptHandle=message["ReceiptHandle"])


def message(key: str, etag: str | None, size: int | None, name: str = "ObjectCreated:Put") -> str:
    """An S3 event notification."""
    entry = {"key": key, "eTag": etag, "size": size}
    return json.dumps(
        {"Records": [{"eventName": name, "s3": {"object": {k: v for k, v in entry.items() if v is not None}}}]}
    )


def test_notifications_late_twice_and_out_of_order(s3_world: World, s3_server: S3Server) -> None:
    s3, sqs = s3_server.client(), s3_server.client("sqs")

    def tell(body: str) -> None:
        sqs.send_message(QueueUrl=s3_server.queue_url, MessageBody=body)

    old = s3.put_object(Bucket=s3_server.restricted_bucket, Key=KEY, Body=b"old")["ETag"].strip('"')
    new = s3.put_object(Bucket=s3_server.restricted_bucket, Key=KEY, Body=b"newer")["ETag"].strip('"')
    lose_notifications(s3_server)
    tell(message(KEY, new, 5))
    assert ingest_notifications(s3_world.platform, limit=100).new == 1
    for body in (message(KEY, old, 3), message(KEY, new, 5), message(KEY, old, 3)):
        tell(body)
        ingest_notifications(s3_world.platform, limit=100)
    assert s3_world.rows("SELECT etag, state FROM cv.clips") == [(new, "in_progress")]
    # Both in one batch, the older last; without size or etag; deleted since.
    gone = upload_key("north", "cam1", MORNING + timedelta(minutes=5))
    terse = upload_key("north", "cam1", MORNING + timedelta(minutes=6))
    s3.put_object(Bucket=s3_server.restricted_bucket, Key=terse, Body=b"terse")
    lose_notifications(s3_server)
    for body in (message(KEY, new, 5), message(KEY, old, 3), message(terse, None, None), message(gone, None, 7)):
        tell(body)
    assert ingest_notifications(s3_world.platform, limit=100).new == 1
    assert s3_world.rows("SELECT size_bytes FROM cv.clips WHERE upload_key = %s", terse) == [(5,)]


def test_messages_that_are_none_are_dropped(s3_world: World, s3_server: S3Server) -> None:
    """A queue takes messages from anyone: one that cannot be registered must not come back for ever."""
    sqs = s3_server.client("sqs")
    bodies = [
        "no json",
        "[]",
        "null",
        '{"Records": 5}',
        '{"Records": [null, {"eventName": 5}]}',
        json.dumps({"Event": "s3:TestEvent"}),
        message("raw/nul%00.mp4", "e", 1),
        message("raw/half%ED%A0%80.mp4", "e", 1),
        message("raw/x.mp4", "e\x00", 1),
        message("raw/y.mp4", "e", 10**30),
        message("raw/z.mp4", "e", -1),
        message("raw//empty.mp4", None, 1),
        message("raw/deleted.mp4", "e", 1, name="ObjectRemoved:Delete"),
        json.dumps({"Message": message("raw/" + "k" * 3000, "e", 1)}),
        message(KEY, "abc", 9),
    ]
    for body in bodies:
        sqs.send_message(QueueUrl=s3_server.queue_url, MessageBody=body)
    done = ingest_notifications(s3_world.platform, limit=100)
    assert s3_world.rows("SELECT count(*) FROM cv.clips WHERE upload_key = %s", KEY) == [(1,)]
    attributes = sqs.get_queue_attributes(
        QueueUrl=s3_server.queue_url,
        AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
    )["Attributes"]
    assert set(attributes.values()) == {"0"}
    assert done.new == done.quarantined + 1


def test_lost_notifications_are_found_by_reconciling(s3_world: World, s3_server: S3Server) -> None:
    s3 = s3_server.client()
    for n in range(3):
        s3.put_object(
            Bucket=s3_server.restricted_bucket, Key=upload_key("north", "cam1", MORNING + timedelta(hours=n)), Body=b"x"
        )
    for key in ("raw//twice.mp4", "raw/./dot.mp4", "raw/../up.mp4"):  # S3 takes them; a path library does not
        s3.put_object(Bucket=s3_server.restricted_bucket, Key=key, Body=b"x")
    lose_notifications(s3_server)
    assert ingest_notifications(s3_world.platform, limit=100).seen == 0
    found = reconcile_uploads(s3_world.platform)
    assert (found.new, found.quarantined) == (6, 3)
    assert reconcile_uploads(s3_world.platform).new == 0
    s3_world.platform.restricted.delete(["raw//twice.mp4", "raw/./dot.mp4"])
    assert [info.key for info in s3_world.platform.restricted.list("raw") if "2026" not in info.key] == [
        "raw/../up.mp4"
    ]


def test_a_queue_is_named_or_the_call_says_so(world: World) -> None:
    with pytest.raises(ValueError, match="CV_PLATFORM_SQS_QUEUE_URL"):
        ingest_notifications(world.platform, limit=1)


def test_upload_key_is_the_inverse_of_parse_key() -> None:
    at = datetime(2026, 3, 1, 23, 59, 59, 250_000, tzinfo=UTC)
    parsed = parse_key(upload_key("a-b", "c_d.1", at, "mkv"))
    assert (parsed.site_id, parsed.camera_id, parsed.captured_at) == ("a-b", "c_d.1", at)
    with pytest.raises(ValueError, match="no upload key"):
        upload_key("a/b", "c", at)
