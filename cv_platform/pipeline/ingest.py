"""Uploads become clips: from S3's notifications where there is a queue, and from listings of the raw prefix.

Listings go round: each tick reads on from where the last one stopped and begins anew at the end, so that a key which
sorts before others (a late clip) is found too, memory is bounded, and nothing depends on notifications, which get lost.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

from cv_platform.governance import audit
from cv_platform.pipeline.admission import judge
from cv_platform.pipeline.keys import RAW_PREFIX
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.vault import remove_plain_upload
from cv_platform.storage.ledger.registration import (
    KnownContent,
    Registered,
    known_contents,
    note_etag,
    register_uploads,
)
from cv_platform.storage.ledger.uploads import read_cursor, write_cursor
from cv_platform.storage.ledger.vault import sealed_or_gone
from cv_platform.storage.object_info import ObjectInfo
from cv_platform.storage.objects import ObjectMissing

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient

TICK_S: Final = 30.0
"""A sensor's tick has 60 s; reading stops here and goes on in the next."""
_CHUNK: Final = 1000
_MAX_KEY_BYTES: Final = 1024
"""S3's own limit, and what an index can hold."""


@dataclass(frozen=True)
class Ingested:
    """What one tick did."""

    seen: int = 0
    new: int = 0
    superseded: int = 0
    quarantined: int = 0
    wrapped: bool = False
    """Whether the listing reached its end: everything that was there has been looked at."""

    def __add__(self, other: Ingested) -> Ingested:
        return Ingested(
            self.seen + other.seen,
            self.new + other.new,
            self.superseded + other.superseded,
            self.quarantined + other.quarantined,
            self.wrapped or other.wrapped,
        )


def ingest_listing(platform: Platform, *, limit: int) -> Ingested:
    """Register what the next `limit` objects of the raw prefix hold that is new."""
    deadline = time.monotonic() + TICK_S
    after = read_cursor(platform.database, RAW_PREFIX)
    infos = islice(platform.restricted.list(RAW_PREFIX, after=after), limit)
    total = Ingested()
    while time.monotonic() < deadline:
        chunk = list(islice(infos, _CHUNK))
        done = register_objects(platform, chunk)
        wrapped = len(chunk) < _CHUNK and total.seen + len(chunk) < limit
        total += Ingested(len(chunk), done.new, done.superseded, done.quarantined, wrapped)
        if wrapped or chunk:
            write_cursor(platform.database, RAW_PREFIX, None if wrapped else chunk[-1].key)
        if len(chunk) < _CHUNK:
            break
    return total


def reconcile_uploads(platform: Platform) -> Ingested:
    """Look at every object of the raw prefix once, and register what notifications and earlier listings missed."""
    total = Ingested()
    infos = platform.restricted.list(RAW_PREFIX)
    while chunk := list(islice(infos, platform.settings.max_uploads_per_tick)):
        registered = register_objects(platform, chunk)
        total += Ingested(len(chunk), registered.new, registered.superseded, registered.quarantined)
        platform.progress(total.seen, 0)
    return total


def ingest_notifications(platform: Platform, *, limit: int) -> Ingested:
    """Register what S3's event notifications tell of, at most `limit` of them; each is deleted after the commit."""
    queue_url = platform.settings.sqs_queue_url
    if queue_url is None:
        raise ValueError("CV_PLATFORM_SQS_QUEUE_URL is empty; set it, or let the raw prefix be listed")
    client = _sqs(platform)
    total = Ingested()
    deadline = time.monotonic() + TICK_S
    while total.seen < limit and time.monotonic() < deadline:
        handles: list[str] = []
        told: dict[str, ObjectInfo] = {}
        doubtful: set[str] = set()
        while len(told) < min(1000, limit - total.seen) and time.monotonic() < deadline:
            messages = client.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get(
                "Messages", []
            )
            if not messages:
                break
            for message in messages:
                handles.append(message["ReceiptHandle"])
                for info in _created(message["Body"]):
                    if not info.etag or (info.key in told and told[info.key].etag != info.etag):
                        doubtful.add(info.key)
                    told[info.key] = info
        if not handles:
            break
        # Notifications come late, twice and out of order: where they contradict each other or the ledger, the store
        # is asked.
        doubtful |= known_contents(platform.database, told).keys()
        asked = (platform.restricted.head(key) if key in doubtful else info for key, info in told.items())
        present = [info for info in asked if info is not None]
        registered = register_objects(platform, present)
        for start in range(0, len(handles), 10):
            client.delete_message_batch(
                QueueUrl=queue_url,
                Entries=[{"Id": str(n), "ReceiptHandle": h} for n, h in enumerate(handles[start : start + 10])],
            )
        total += Ingested(max(len(told), 1), registered.new, registered.superseded, registered.quarantined)
    return total


def register_objects(platform: Platform, infos: Sequence[ObjectInfo]) -> Registered:
    """Register objects of the raw prefix; those that the ledger knows cost one read."""
    settings = platform.settings
    now = datetime.now(UTC)
    infos = [replace(info, key=_ledger_key(info.key)) for info in infos]
    known = known_contents(platform.database, [info.key for info in infos])
    uploads = []
    again: list[tuple[uuid.UUID, ObjectInfo]] = []
    for info in infos:
        contents = known.get(info.key, [])
        seen = next((c for c in contents if c.current and info.etag in c.etags), None)
        if seen is None and (seen := _same_content(platform, info, contents)) is not None:
            note_etag(platform.database, seen.clip_id, info.etag)
        if seen is not None:
            again.append((seen.clip_id, info))
            continue
        uploads.append(judge(settings, info.key, info.etag, info.size_bytes, now=now))
    _remove_sealed(platform, again)
    registered = register_uploads(platform.database, uploads)
    if registered.erased:
        # What was erased does not come back: neither into the ledger nor as an object.
        platform.restricted.purge(registered.erased)
        platform.log.warning("%d uploads were of what is erased; they are deleted", len(registered.erased))
        audit.record(
            platform.database,
            actor="ingest",
            action="erasure.kept_away",
            details={"uploads": len(registered.erased)},
        )
    return registered


def _remove_sealed(platform: Platform, again: Sequence[tuple[uuid.UUID, ObjectInfo]]) -> None:
    """Remove objects whose content is sealed already: uploaded once more, or their removal was broken off."""
    needless = sealed_or_gone(platform.database, [clip_id for clip_id, _ in again]) if again else set()
    for clip_id, info in again:
        if clip_id in needless:
            remove_plain_upload(platform, clip_id, etag=info.etag)


def _same_content(platform: Platform, info: ObjectInfo, contents: Iterable[KnownContent]) -> KnownContent | None:
    """A content of the key that was not replaced, where an object with another etag holds its very bytes.

    A folder's etag changes when the same bytes are written again, and so does that of a multipart upload.
    """
    candidates = [c for c in contents if c.current and c.sha256 is not None and c.size_bytes == info.size_bytes]
    if not candidates:
        return None
    try:
        sha256 = platform.restricted.sha256(info.key)
    except ObjectMissing:
        return None  # gone since; its clip will say so
    return next((content for content in candidates if content.sha256 == sha256), None)


def _ledger_key(key: str) -> str:
    """The key as the ledger holds it: one that is too long to be indexed is cut, and told by its digest."""
    data = key.encode()
    if len(data) <= _MAX_KEY_BYTES:
        return key
    digest = hashlib.sha256(data).hexdigest()
    return f"{data[: _MAX_KEY_BYTES - 80].decode(errors='ignore')}…{digest}"


def _storable(text: str) -> bool:
    """Whether PostgreSQL takes it: no object can have such a key, but a queue takes messages from anyone."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _created(body: str) -> list[ObjectInfo]:
    """The objects under the raw prefix whose creation a message tells of; other messages tell of none."""
    try:
        event: Any = json.loads(body)
        if isinstance(event.get("Message"), str):  # S3 → SNS → SQS wraps once more
            event = json.loads(event["Message"])
        records = event.get("Records", [])
    except (ValueError, AttributeError):
        return []
    infos = []
    for record in records if isinstance(records, list) else []:
        try:
            if not record["eventName"].removeprefix("s3:").startswith("ObjectCreated:"):
                continue
            entry = record["s3"]["object"]
            key = unquote_plus(entry["key"])
            # Where either is missing the store is asked.
            size, etag = entry.get("size"), str(entry.get("eTag", "")).strip('"')
            if key.startswith(f"{RAW_PREFIX}/") and _storable(key) and _storable(etag):
                sure = isinstance(size, int) and 0 <= size < 2**60
                infos.append(ObjectInfo(key, size if sure else 0, etag if sure else "", datetime.now(UTC)))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return infos


def _sqs(platform: Platform) -> SQSClient:
    import boto3

    return boto3.client("sqs", region_name=platform.settings.s3_region, endpoint_url=platform.settings.s3_endpoint_url)
