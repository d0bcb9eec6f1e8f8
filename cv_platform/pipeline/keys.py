"""Upload keys: what a camera says of a clip in the object's name.

`raw/{site}/{camera_id}/{YYYY}/{MM}/{DD}/{YYYYMMDDTHHMMSS[.fff]Z}.{mp4|mkv|avi|…}`; what does not parse is quarantined.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cv_platform.storage.ledger.registration import Upload

RAW_PREFIX: Final = "raw"
EXTENSIONS: Final = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "ts", "mpg", "mpeg", "flv", "3gp", "wmv", "dav")

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,49}"
_KEY = re.compile(
    rf"raw/(?P<site>{_NAME})/(?P<camera>{_NAME})/(?P<folder>\d{{4}}/\d{{2}}/\d{{2}})/"
    rf"(?P<stamp>\d{{8}}T\d{{6}}(?:\.\d{{1,6}})?)Z\.(?P<extension>[A-Za-z0-9]{{2,5}})"
)


@dataclass(frozen=True)
class KeyRejected(Exception):
    """A key that is not one of an upload."""

    code: str
    reason: str


@dataclass(frozen=True)
class UploadKey:
    """What a key says."""

    site_id: str
    camera_id: str
    captured_at: datetime


def parse_key(key: str) -> UploadKey:
    """Read a key. Raises KeyRejected with a reason that names nothing of the key."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise KeyRejected(
            "key_unreadable", "its key is not raw/{site}/{camera_id}/{YYYY}/{MM}/{DD}/{YYYYMMDDTHHMMSS[.fff]Z}.{type}"
        )
    if found["extension"].lower() not in EXTENSIONS:
        raise KeyRejected("type_unknown", f"its key ends in no type of video; allowed: {', '.join(EXTENSIONS)}")
    stamp = found["stamp"]
    try:
        pattern = "%Y%m%dT%H%M%S.%f" if "." in stamp else "%Y%m%dT%H%M%S"
        captured_at = datetime.strptime(stamp, pattern).replace(tzinfo=UTC)
    except ValueError:
        raise KeyRejected("time_unreadable", "the capture time in its key is no time that exists") from None
    if captured_at.strftime("%Y/%m/%d") != found["folder"]:
        raise KeyRejected("time_contradicts", "the day of its folder is not the day of its capture time (UTC)")
    return UploadKey(found["site"], found["camera"], captured_at)


def upload_key(site_id: str, camera_id: str, captured_at: datetime, extension: str = "mp4") -> str:
    """The key to upload a clip under. Raises ValueError where site or camera make none that parses."""
    at = captured_at.astimezone(UTC)
    fraction = f".{at.microsecond // 1000:03d}" if at.microsecond else ""
    key = f"raw/{site_id}/{camera_id}/{at:%Y/%m/%d}/{at:%Y%m%dT%H%M%S}{fraction}Z.{extension}"
    try:
        parse_key(key)
    except KeyRejected as rejected:
        raise ValueError(
            f"{key!r} is no upload key: {rejected.reason}; site and camera: letters, digits, '_', '-', '.', at most 50"
        ) from None
    return key


def upload_from(
    key: str, etag: str, size_bytes: int, *, start: datetime, now: datetime, max_clock_skew_s: float, max_bytes: int
) -> Upload:
    """An object under the raw prefix as an upload to register, with its problem where it has one.

    Args:
        start: first capture time that is accepted.
        now: the present; a capture time more than `max_clock_skew_s` behind it is a camera with a wrong clock.
        max_bytes: largest object that is accepted.
    """
    try:
        parsed = parse_key(key)
    except KeyRejected as rejected:
        return Upload(key, etag, size_bytes, problem=(rejected.code, rejected.reason))
    problem: tuple[str, str] | None = None
    if parsed.captured_at < start:
        problem = ("before_first_day", f"its capture time lies before {start:%Y-%m-%d}, the first day accepted")
    elif parsed.captured_at > now + timedelta(seconds=max_clock_skew_s):
        problem = ("in_the_future", "its capture time lies in the future; check the camera's clock")
    elif size_bytes == 0:
        problem = ("empty_file", "the file is empty; upload the clip again")
    elif size_bytes > max_bytes:
        problem = (
            "too_large",
            f"the file has {size_bytes / 2**20:,.0f} MiB; at most {max_bytes / 2**20:,.0f} MiB are accepted",
        )
    return Upload(key, etag, size_bytes, parsed.site_id, parsed.camera_id, parsed.captured_at, problem)
