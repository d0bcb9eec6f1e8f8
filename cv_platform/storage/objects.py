"""Object stores: a local folder or S3, by one URL. What only S3 has is in `bucket.py`."""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import obstore
from obstore.exceptions import InvalidPathError
from obstore.store import LocalStore, S3Store

from cv_platform.storage.bucket import Bucket
from cv_platform.storage.object_info import ObjectInfo, Purged, etag_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from obstore.store import ClientConfig


# What `obstore` says to a key such as `raw//x`, which S3 takes.
_ODD_KEY = (InvalidPathError, ValueError, TypeError)


class ObjectMissing(LookupError):
    """There is no object under that key."""


class ObjectReader(io.RawIOBase):
    """An object's bytes in order, as a file for reading.

    Attributes:
        info: what the store said when it was opened; the bytes are of that content, whatever comes under the key.
    """

    def __init__(self, info: ObjectInfo, chunks: Iterator[Any]) -> None:
        self.info = info
        self._chunks = chunks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`."""
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        target = memoryview(buffer)
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


class ObjectStore:
    """Objects under one URL.

    Args:
        url: `file:///folder` or `s3://bucket[/prefix]`.
        endpoint_url: S3 endpoint where it is not Amazon's.
        region: S3 region.
        access_key_id, secret_access_key: S3 credentials; None takes the usual AWS_* variables or the node's role.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None = None,
        region: str = "us-east-1",
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        parsed = urlparse(url)
        self._store: Any
        self._bucket: Bucket | None = None
        self.folder: Path | None = None
        if parsed.scheme == "file":
            self.folder = Path(unquote(parsed.path))
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # raw clips show faces
            # Clean-up of empty folders races with writers that have just made them.
            self._store = LocalStore(self.folder, mkdir=True, automatic_cleanup=False)
        elif parsed.scheme == "s3" and parsed.netloc:
            options: dict[str, Any] = {"region": region}
            if endpoint_url:
                options |= {"endpoint": endpoint_url, "virtual_hosted_style_request": False}
            if access_key_id and secret_access_key:
                options |= {"access_key_id": access_key_id, "secret_access_key": secret_access_key}
            client: ClientConfig = {"allow_http": (endpoint_url or "").startswith("http://")}
            prefix = parsed.path.strip("/")
            self._store = S3Store(parsed.netloc, prefix=prefix or None, client_options=client, **options)
            self._bucket = Bucket(
                parsed.netloc,
                prefix,
                {
                    "endpoint_url": endpoint_url,
                    "region_name": region,
                    "aws_access_key_id": access_key_id,
                    "aws_secret_access_key": secret_access_key,
                },
            )
        else:
            raise ValueError(
                f"object store URL has scheme {parsed.scheme!r}; allowed: file:///folder, s3://bucket/prefix"
            )

    def __repr__(self) -> str:
        return f"ObjectStore({self.url!r})"

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        """Store a file's bytes under `key`, whole or not at all."""
        with path.open("rb") as stream:
            result = obstore.put(self._store, key, stream)
        return ObjectInfo(key, path.stat().st_size, etag_of(result.get("e_tag")), datetime.now().astimezone())

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store bytes under `key`, whole or not at all."""
        obstore.put(self._store, key, data)

    def put_locked(self, key: str, data: bytes, *, until: datetime) -> bool:
        """Store bytes that nobody may delete or replace until a moment.

        Returns:
            Whether the store sees to that: a bucket with Object Lock does, by its mode COMPLIANCE; others only store.
        """
        if self._bucket is not None and self._bucket.put_locked(key, data, until=until):
            return True
        self.put_bytes(key, data)
        return False

    def get_bytes(self, key: str) -> bytes:
        """The object's bytes. Raises ObjectMissing."""
        try:
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            raise ObjectMissing("no such object in the store") from None

    def put_chunks(self, key: str, chunks: Iterable[bytes]) -> None:
        """Store bytes as they come under `key`, whole or not at all, also where `chunks` raises."""
        obstore.put(self._store, key, iter(chunks))

    def open(self, key: str) -> ObjectReader:
        """The object for reading from its beginning. Raises ObjectMissing."""
        try:
            found = obstore.get(self._store, key)
            return ObjectReader(_info(found.meta), iter(found.stream(min_chunk_size=4 * 2**20)))
        except FileNotFoundError:
            raise ObjectMissing("no such object in the store") from None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes of the object from `start`, which lies within it; fewer at its end. Raises ObjectMissing."""
        try:
            return bytes(obstore.get_range(self._store, key, start=start, length=length))
        except FileNotFoundError:
            raise ObjectMissing("no such object in the store") from None

    def download(self, key: str, path: Path) -> str:
        """Write the object to `path`; returns the sha256 of its bytes, hex. Raises ObjectMissing."""
        return self.fetch(key, path)[1]

    def fetch(self, key: str, path: Path) -> tuple[ObjectInfo, str]:
        """As `download`; returns also what the store says of the very content that was written."""
        digest = hashlib.sha256()
        try:
            found = obstore.get(self._store, key)
            with path.open("wb") as target:
                for chunk in found.stream(min_chunk_size=4 * 2**20):
                    data = memoryview(chunk)
                    digest.update(data)
                    target.write(data)
        except FileNotFoundError:
            raise ObjectMissing("no such object in the store") from None
        return _info(found.meta), digest.hexdigest()

    def sha256(self, key: str) -> str:
        """The sha256 of the object's bytes, hex. Raises ObjectMissing."""
        digest = hashlib.sha256()
        try:
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=4 * 2**20):
                digest.update(memoryview(chunk))
        except FileNotFoundError:
            raise ObjectMissing("no such object in the store") from None
        return digest.hexdigest()

    def head(self, key: str) -> ObjectInfo | None:
        """What the store says of the object; None where there is none."""
        try:
            return _info(obstore.head(self._store, key))
        except (FileNotFoundError, *_ODD_KEY):
            return None

    def copy(self, source: str, target: str) -> None:
        """Copy on the store's side. Raises ObjectMissing."""
        try:
            obstore.copy(self._store, source, target)
        except FileNotFoundError:
            raise ObjectMissing("no such object in the store") from None

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are no error."""
        for key in keys:
            try:
                obstore.delete(self._store, key)
            except FileNotFoundError:
                continue
            except _ODD_KEY:
                self._delete_odd(key)

    def delete_unchanged(self, key: str, etag: str) -> bool:
        """Delete the object if it still is the content with that etag; returns whether that content is gone.

        On S3 with versions, each version of that content is deleted by its id: nothing can come between. Without them
        the store is asked to compare once more (`If-Match`); one that does not know that deletes right after our look,
        and a folder always does: content that replaces the old one in those moments would be lost with it.
        """
        found = self.head(key)
        if found is None or found.etag != etag:
            return found is None
        if self.folder is not None:
            (self.folder / key).unlink(missing_ok=True)
            return True
        return self._s3().delete_unchanged(key, etag)

    def purge(self, keys: Iterable[str]) -> Purged:
        """Delete objects for good: on S3 every version and every delete marker of theirs.

        Args:
            keys: keys, and prefixes that end in `/`, under which everything goes.

        A version under Object Lock cannot be deleted before its term; it is counted, and told apart.
        """
        total = Purged()
        for key in keys:
            total += self._purge_in_folder(key) if self.folder is not None else self._s3().purge(key)
        return total

    def present(self, keys: Iterable[str]) -> int:
        """Objects and versions that are there under keys, and under prefixes that end in `/`; markers are none."""
        found = 0
        for key in keys:
            if self.folder is None:
                found += sum(not marker for _, _, marker in self._s3().versions(key))
            elif key.endswith("/"):
                found += sum(1 for _ in self.list(key.rstrip("/")))
            else:
                found += self.head(key) is not None
        return found

    def _purge_in_folder(self, key: str) -> Purged:
        assert self.folder is not None
        path = self.folder / key
        if ".." in path.parts:
            return Purged()
        if key.endswith("/"):
            there = [found for found in path.rglob("*") if found.is_file()]
            shutil.rmtree(path, ignore_errors=True)
        else:
            # Beside it may lie what a killed writer began: `name#1`.
            there = [path, *path.parent.glob(f"{glob.escape(path.name)}#*")]
            there = [found for found in there if found.is_file()]
            for found in there:
                found.unlink(missing_ok=True)
        whole = sum(not _BEING_WRITTEN.fullmatch(found.name) for found in there)
        return Purged(whole, whole)

    def sweep_unfinished(self, prefix: str, *, older_than: timedelta) -> int:
        """Delete what writers that are gone began under the folder `prefix` and never ended; returns how many.

        No listing shows these parts: in a folder files like `name#1`, on S3 multipart uploads.

        Args:
            older_than: since a part was last written, on S3 since its upload began; longer than any upload takes.
        """
        before = datetime.now(UTC) - older_than
        return self._sweep_folder(prefix, before) if self.folder is not None else self._s3().sweep(prefix, before)

    def _sweep_folder(self, prefix: str, before: datetime) -> int:
        assert self.folder is not None
        swept = 0
        for folder, _, names in os.walk(self.folder / prefix):
            for path in (Path(folder, name) for name in names if _BEING_WRITTEN.fullmatch(name)):
                try:
                    if path.lstat().st_mtime < before.timestamp():
                        path.unlink()
                        swept += 1
                except FileNotFoundError:
                    continue  # its writer has just ended
        return swept

    def list(self, prefix: str, *, after: str | None = None, chunk_size: int = 1000) -> Iterator[ObjectInfo]:
        """Objects whose keys start with the folder `prefix`, behind the key `after`, in order of key.

        Not by `obstore`: it gives up on the whole listing where one key is odd (`raw//x`, a line break, not UTF-8), and
        whoever may upload could stop all ingest so.
        """
        if self.folder is not None:
            root = self.folder / prefix
            yield from _walk(root, f"{prefix.strip('/')}/", after) if root.is_dir() else ()
            return
        yield from self._s3().list(prefix, after=after, chunk_size=chunk_size)

    def _delete_odd(self, key: str) -> None:
        """Delete an object whose key `obstore` does not take."""
        if self.folder is None:
            self._s3().delete(key)
            return
        path = self.folder / key
        if ".." not in path.parts:
            path.unlink(missing_ok=True)

    def bucket(self) -> tuple[S3Client, str, str]:
        """boto3's client, the bucket, and what stands before every key; only where this is S3."""
        bucket = self._s3()
        return bucket.client(), bucket.name, bucket.base

    def _s3(self) -> Bucket:
        assert self._bucket is not None
        return self._bucket

    def link(self, key: str, *, expires_in: timedelta) -> str:
        """An address for a person's browser: a signed URL on S3, a file URL for a folder."""
        if self.folder is not None:
            return (self.folder / key).resolve().as_uri()
        return str(obstore.sign(self._store, "GET", key, expires_in))


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], etag_of(meta["e_tag"]), meta["last_modified"])


_BEING_WRITTEN = re.compile(r".+#\d+")


def _walk(folder: Path, prefix: str, after: str | None) -> Iterator[ObjectInfo]:
    """A folder's files in order of key; folders that lie before `after` are not opened."""
    try:
        with os.scandir(folder) as found:
            entries = [(entry, entry.is_dir(follow_symlinks=False)) for entry in found]
    except FileNotFoundError:
        return
    for entry, is_folder in sorted(entries, key=lambda pair: pair[0].name + "/" * pair[1]):
        # A name that is no UTF-8 is told with escapes: it is no upload key, but it must be seen.
        key = prefix + os.fsencode(entry.name).decode("utf-8", "backslashreplace")
        if is_folder:
            if after is None or f"{key}/" > after or after.startswith(f"{key}/"):
                yield from _walk(folder / entry.name, f"{key}/", after)
        elif (after is None or key > after) and not _BEING_WRITTEN.fullmatch(entry.name) and entry.is_file():
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            # As obstore's `head` says it.
            etag = f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"
            yield ObjectInfo(key, status.st_size, etag, datetime.fromtimestamp(status.st_mtime, UTC))
