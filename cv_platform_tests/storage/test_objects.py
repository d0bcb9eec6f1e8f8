"""Object stores: the same on a folder and on S3 over HTTP."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cv_platform.storage.objects import ObjectMissing, ObjectStore
from cv_platform_tests.conftest import S3Server


@pytest.fixture(params=["folder", "s3", "s3 with prefix"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store."""
    if request.param == "folder":
        return ObjectStore((tmp_path / "store with space").as_uri())
    server: S3Server = request.getfixturevalue("s3_server")
    prefix = "/a/b" if request.param == "s3 with prefix" else ""
    return ObjectStore(f"s3://{server.bucket}{prefix}", endpoint_url=server.endpoint_url)


def test_bytes_come_back(store: ObjectStore, tmp_path: Path) -> None:
    data = b"frame" * 2_000_000  # above the size of one part
    source = tmp_path / "source"
    source.write_bytes(data)
    put = store.put_file("raw/a b/ü.mp4", source)
    assert put.size_bytes == len(data)
    assert store.get_bytes("raw/a b/ü.mp4") == data
    sha256 = hashlib.sha256(data).hexdigest()
    assert store.sha256("raw/a b/ü.mp4") == sha256
    assert store.download("raw/a b/ü.mp4", tmp_path / "copy") == sha256
    assert (tmp_path / "copy").read_bytes() == data
    head = store.head("raw/a b/ü.mp4")
    assert head is not None
    assert (head.key, head.size_bytes, head.etag) == ("raw/a b/ü.mp4", len(data), put.etag)


def test_what_is_missing_is_said_in_one_way(store: ObjectStore, tmp_path: Path) -> None:
    assert store.head("nope") is None
    for call in (
        lambda: store.get_bytes("nope"),
        lambda: store.sha256("nope"),
        lambda: store.copy("nope", "x"),
        lambda: store.download("nope", tmp_path / "x"),
    ):
        with pytest.raises(ObjectMissing) as caught:
            call()
        assert "nope" not in str(caught.value)
    store.delete(["nope"])
    assert list(store.list("nope")) == []


def test_a_copy_replaces_and_deletion_removes(store: ObjectStore) -> None:
    store.put_bytes("a", b"new")
    store.put_bytes("b/c", b"old")
    store.copy("a", "b/c")
    assert store.get_bytes("b/c") == b"new"
    store.delete(["a", "b/c"])
    assert store.head("b/c") is None


def test_listings_are_in_order_and_go_on_behind_a_key(store: ObjectStore) -> None:
    keys = ["raw/a.mp4", "raw/a/1.mp4", "raw/a/b/2.mp4", "raw/a-b/3.mp4", "raw/a0", "raw/é.mp4", "raw/Z.mp4"]
    for key in [*keys, "rawer/x.mp4", "other"]:
        store.put_bytes(key, key.encode())
    found = [info.key for info in store.list("raw", chunk_size=2)]
    assert found == sorted(keys)
    for n, key in enumerate(found):
        assert [info.key for info in store.list("raw", after=key)] == found[n + 1 :]
    assert [info.key for info in store.list("raw", after="raw/a/")] == [key for key in found if key > "raw/a/"]
    assert [info.size_bytes for info in store.list("raw")] == [len(key.encode()) for key in found]


def test_links(store: ObjectStore) -> None:
    store.put_bytes("previews/x.jpg", b"picture")
    link = store.link("previews/x.jpg", expires_in=timedelta(minutes=5))
    if store.folder is not None:
        assert link.startswith("file:///")
        return
    import urllib.request

    assert "X-Amz-Expires=300" in link
    with urllib.request.urlopen(link, timeout=10) as answer:
        assert answer.read() == b"picture"


def test_a_folder_is_its_owners_alone(tmp_path: Path) -> None:
    ObjectStore((tmp_path / "store").as_uri())
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("url", ["gs:", "/folder", "http://x/y", "s3://", ""])
def test_a_url_that_is_none_says_what_is_allowed(url: str) -> None:
    with pytest.raises(ValueError, match=r"allowed: file:///folder, s3://bucket/prefix"):
        ObjectStore(url)


def test_a_purge_takes_every_object_under_a_prefix_and_no_neighbour(store: ObjectStore) -> None:
    for key in ("vault/a/1", "vault/a/2", "vault/ab/1", "vault/x", "vault/x.json"):
        store.put_bytes(key, b"x")
    assert store.present(["vault/a/", "vault/x"]) == 3
    assert store.purge(["vault/a/", "vault/x", "vault/none", "vault/nothing/"]).objects == 3
    assert store.present(["vault/a/", "vault/x"]) == 0
    assert [info.key for info in store.list("vault")] == ["vault/ab/1", "vault/x.json"]


def test_a_purge_takes_what_a_killed_writer_began(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path.as_uri())
    store.put_bytes("raw/x.mp4", b"whole")
    for name in ("x.mp4#1", "x.mp4.json"):
        (tmp_path / "raw" / name).write_bytes(b"part")
    store.purge(["raw/x.mp4"])
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["x.mp4.json"]


def test_bytes_are_read_in_parts(store: ObjectStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000  # above the size of one part
    store.put_chunks("a/x", (data[n : n + 300_000] for n in range(0, len(data), 300_000)))
    assert store.get_bytes("a/x") == data
    assert store.get_range("a/x", 1000, 50) == data[1000:1050]
    assert store.get_range("a/x", len(data) - 10, 50) == data[-10:]
    opened = store.open("a/x")
    assert opened.info == store.head("a/x")
    reader = io.BufferedReader(opened, 1 << 16)
    assert reader.read(70_001) == data[:70_001]
    assert reader.read() == data[70_001:]
    info, digest = store.fetch("a/x", tmp_path / "copy")
    assert (info, digest) == (store.head("a/x"), hashlib.sha256(data).hexdigest())
    for call in (lambda: store.open("nope"), lambda: store.get_range("nope", 0, 1)):
        with pytest.raises(ObjectMissing):
            call()


def test_chunks_that_end_in_an_error_leave_nothing(store: ObjectStore) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 6_000_000
        raise RuntimeError("the key was destroyed meanwhile")

    with pytest.raises(RuntimeError):
        store.put_chunks("a/x", broken())
    assert store.head("a/x") is None
    assert list(store.list("a")) == []


def test_only_content_that_is_unchanged_is_deleted(store: ObjectStore) -> None:
    store.put_bytes("raw/x", b"old")
    old = store.head("raw/x")
    assert old is not None
    store.put_bytes("raw/x", b"newer")
    assert not store.delete_unchanged("raw/x", old.etag)
    assert store.get_bytes("raw/x") == b"newer"
    newer = store.head("raw/x")
    assert newer is not None
    assert store.delete_unchanged("raw/x", newer.etag)
    assert store.head("raw/x") is None
    assert store.delete_unchanged("raw/x", newer.etag)  # it is gone, however that came about


def test_parts_of_uploads_that_never_ended_are_swept(store: ObjectStore, s3_server: S3Server) -> None:
    store.put_bytes("raw/a.mp4", b"whole")
    if store.folder is not None:
        for name in ("b.mp4#1", "c.mp4#22", "d#.mp4"):
            (store.folder / "raw" / name).write_bytes(b"faces")
        os.utime(store.folder / "raw" / "b.mp4#1", (0, 0))
        kept = {"raw/a.mp4", "raw/d#.mp4"}
    else:
        s3 = s3_server.client()
        prefix = store.url.removeprefix(f"s3://{s3_server.bucket}").strip("/")
        for key in ("raw/b.mp4", "elsewhere/b.mp4"):
            s3.create_multipart_upload(Bucket=s3_server.bucket, Key=f"{prefix}/{key}".lstrip("/"))
        kept = {"raw/a.mp4"}
    # What is being written now stays. (This S3 says of every upload that it began in 2010.)
    assert store.sweep_unfinished("raw", older_than=timedelta(days=1)) == 1
    assert store.sweep_unfinished("raw", older_than=timedelta(days=-1)) == (store.folder is not None)
    assert {info.key for info in store.list("raw")} == kept
