"""raw_clips: the upload goes sealed into the vault, and is a clip that can be processed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb

from cv_platform.pipeline.kept_away import refuse_erased
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.sealing import unseal_to_file
from cv_platform.pipeline.stage import ClipRefused, Finished
from cv_platform.pipeline.vault import seal_upload
from cv_platform.settings import Settings
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.held import is_replaced
from cv_platform.storage.ledger.model import RAW_CLIPS, Claim, Clip
from cv_platform.storage.object_info import ObjectInfo
from cv_platform.storage.objects import ObjectMissing
from cv_platform.storage.sealed import SealBroken

if TYPE_CHECKING:
    from cv_platform.vision.video.limits import ClipLimits


class InputChanged(Exception):
    """The object under the clip's key is not what was registered; its new content is a clip of its own."""


@dataclass(frozen=True)
class RawFile:
    """A clip's raw bytes in the work root.

    Attributes:
        vault_key: the sealed object that they came from, or None:
        upload: what the store says of the plain upload that they came from.
    """

    path: Path
    sha256: str
    vault_key: str | None
    upload: ObjectInfo | None


def clip_limits(settings: Settings) -> ClipLimits:
    """What a clip may be at most, from the settings."""
    from cv_platform.vision.video.limits import ClipLimits

    return ClipLimits(
        max_bytes=settings.max_clip_bytes,
        max_duration_s=settings.max_clip_duration_s,
        max_pixels=settings.max_clip_pixels,
        decode_timeout_s=settings.decode_timeout_s,
    )


@contextmanager
def raw_file(platform: Platform, claim: Claim) -> Iterator[RawFile]:
    """The clip's raw bytes as a file in the work root; gone afterwards.

    From the vault; at the first stage, before the vault has them, from the upload.

    Raises:
        ClipRefused: the object is gone or damaged.
        InputChanged: the object holds other bytes than those that were read first.
        KeyDestroyed, KeyEncryptionKeyError: as `unseal_object`.
    """
    vault_key, expected = claim.inputs.get(RAW_CLIPS, (None, None))
    with platform.scratch() as folder:
        path, upload = folder / "clip", None
        try:
            if vault_key is not None:
                sha256 = unseal_to_file(platform, platform.restricted, vault_key, path, claim.clip.clip_id, "raw")
            elif claim.stage == RAW_CLIPS:
                upload, sha256 = platform.restricted.fetch(claim.clip.upload_key, path)
            else:
                raise ClipRefused("raw_expired", "its raw clip is past its term; upload it again")
        except ObjectMissing:
            raise ClipRefused("object_missing", "the uploaded object is not in the store any more") from None
        except SealBroken:
            raise ClipRefused("raw_damaged", "its sealed raw clip is not what was written; upload it again") from None
        if sha256 != (expected or claim.clip.content_sha256 or sha256):
            raise InputChanged("the object under the clip's key holds other bytes than were registered")
        yield RawFile(path, sha256, vault_key, upload)


@dataclass(frozen=True)
class RawClips:
    """Seals a clip's bytes, probes it and keeps its facts."""

    version: str
    stage: str = RAW_CLIPS

    def work(self, platform: Platform, claim: Claim, lost: Event) -> Finished:
        """See `ClipStage.work`."""
        from cv_platform.vision.video.limits import ClipRejected
        from cv_platform.vision.video.sandbox import probe_clip_sandboxed

        with raw_file(platform, claim) as raw:
            refuse_erased(platform, claim.clip, sha256=raw.sha256, duration_s=0.0)
            _refuse_replaced(platform, claim.clip, raw.upload)
            # Before anything looks into it: a clip that is refused lies sealed too, and is replayed from there.
            vault_key = raw.vault_key or seal_upload(platform, claim, raw.path, raw.sha256, raw.upload)
            try:
                facts = probe_clip_sandboxed(raw.path, limits=clip_limits(platform.settings))
            except ClipRejected as rejected:
                raise ClipRefused(rejected.reason_code, rejected.message) from None
            refuse_erased(platform, claim.clip, sha256=raw.sha256, duration_s=float(facts.duration_s or 0.0))

        def write(connection: Connection) -> None:
            # Never shorter than before: rows lie on the days of what was seen, and are deleted by them.
            connection.execute(
                "UPDATE cv.clips SET facts = %s, duration_s = greatest(duration_s, %s) WHERE clip_id = %s",
                [Jsonb(facts.as_dict()), float(facts.duration_s or 0.0), claim.clip.clip_id],
            )

        return Finished(
            output_key=vault_key,
            output_sha256=raw.sha256,
            store="restricted",
            counts={
                "bytes": claim.clip.size_bytes,
                "duration_s": float(facts.duration_s or 0.0),
                "width": facts.width,
                "height": facts.height,
            },
            write=write,
        )


def _refuse_replaced(platform: Platform, clip: Clip, upload: ObjectInfo | None) -> None:
    """A held clip's bytes were overwritten before they were sealed: what lies there now is another clip's."""
    if upload is None:
        return
    with platform.database.transaction() as connection:
        if is_replaced(connection, clip.clip_id, upload.etag):
            raise ClipRefused(
                "upload_replaced", "other content came under its key before it was sealed; that is a clip of its own"
            )
