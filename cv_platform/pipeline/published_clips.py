"""Published clips in the clear, for those who may see them: whole, or a range of their bytes."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from cv_platform.pipeline.outputs import CERTIFICATE_SUFFIX, is_as_written
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.sealing import read_sealed_range, unseal_to_file
from cv_platform.storage.sealed import SealBroken


class NotPublished(LookupError):
    """The clip is not published, or its published object is not there yet."""


@dataclass(frozen=True)
class PublishedFile:
    """A published clip that was written in the clear.

    Attributes:
        sha256: of its bytes; the ledger's and the certificate's.
        bytes: its size.
        certificate: the text of its certificate.
    """

    sha256: str
    bytes: int
    certificate: str


def fetch_published(platform: Platform, clip_id: uuid.UUID, path: Path) -> PublishedFile:
    """Write a published clip in the clear to `path`.

    Raises:
        NotPublished: there is nothing to write.
        KeyDestroyed: its key was destroyed.
        SealBroken: the object or its certificate is not what was published; nothing is left at `path`.
        ObjectMissing: clip or certificate are not in the store.
    """
    stable_key, sha256, size, noted = _published(platform, clip_id)
    certificate = platform.cold.get_bytes(stable_key + CERTIFICATE_SUFFIX)
    if not is_as_written(certificate, noted):
        raise SealBroken("the certificate is not the one that was written when the clip was published")
    if unseal_to_file(platform, platform.cold, stable_key, path, clip_id, "blurred") != sha256:
        path.unlink()
        raise SealBroken("the published object is another clip than the ledger says")
    return PublishedFile(sha256, size, certificate.decode())


def read_published_range(platform: Platform, clip_id: uuid.UUID, *, start: int, length: int) -> bytes:
    """`length` bytes of a published clip from `start`, as a player asks for them; fewer at its end.

    Reads and decrypts only the chunks that hold them. Raises as `fetch_published`.
    """
    stable_key, _, size, _ = _published(platform, clip_id)
    return read_sealed_range(platform, platform.cold, stable_key, size, clip_id, "blurred", start=start, length=length)


def _published(platform: Platform, clip_id: uuid.UUID) -> tuple[str, str, int, str | None]:
    with platform.database.transaction() as connection:
        row = connection.execute(
            "SELECT published_key, published_sha256, published_bytes, certificate_sha256 FROM cv.clips"
            " WHERE clip_id = %s AND state = 'published' AND copied_sha256 = published_sha256",
            [clip_id],
        ).fetchone()
    if row is None:
        raise NotPublished(f"clip {clip_id} is not published; `cv-platform clips list` shows those that are")
    return row[0], row[1], row[2], row[3]
