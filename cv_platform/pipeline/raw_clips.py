"""raw_clips: the upload is what it says, and is a clip that can be processed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb

from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.stage import ClipRefused, Finished
from cv_platform.settings import Settings
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.model import RAW_CLIPS, Claim, Clip
from cv_platform.storage.objects import ObjectMissing

if TYPE_CHECKING:
    from cv_platform.vision.video.limits import ClipLimits


class InputChanged(Exception):
    """The object under the clip's key is not what was registered; its new content is a clip of its own."""


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
def raw_file(platform: Platform, clip: Clip) -> Iterator[tuple[Path, str]]:
    """The clip's raw bytes as a file in the work root, with their sha256; gone afterwards.

    Raises:
        ClipRefused: the object is gone.
        InputChanged: the object holds other bytes than those that were read first.
    """
    with platform.scratch() as folder:
        path = folder / "clip"
        try:
            sha256 = platform.restricted.download(clip.upload_key, path)
        except ObjectMissing:
            raise ClipRefused("object_missing", "the uploaded object is not in the store any more") from None
        if clip.content_sha256 is not None and sha256 != clip.content_sha256:
            raise InputChanged("the object under the clip's key holds other bytes than were registered")
        yield path, sha256


@dataclass(frozen=True)
class RawClips:
    """Probes a clip and keeps its facts."""

    version: str
    stage: str = RAW_CLIPS

    def work(self, platform: Platform, claim: Claim, lost: Event) -> Finished:
        """See `ClipStage.work`."""
        from cv_platform.vision.video.limits import ClipRejected
        from cv_platform.vision.video.sandbox import probe_clip_sandboxed

        with raw_file(platform, claim.clip) as (path, sha256):
            try:
                facts = probe_clip_sandboxed(path, limits=clip_limits(platform.settings))
            except ClipRejected as rejected:
                raise ClipRefused(rejected.reason_code, rejected.message) from None

        def write(connection: Connection) -> None:
            # Never shorter than before: rows lie on the days of what was seen, and are deleted by them.
            connection.execute(
                "UPDATE cv.clips SET facts = %s, duration_s = greatest(duration_s, %s), content_sha256 = %s"
                " WHERE clip_id = %s",
                [Jsonb(facts.as_dict()), float(facts.duration_s or 0.0), sha256, claim.clip.clip_id],
            )

        return Finished(
            counts={
                "bytes": claim.clip.size_bytes,
                "duration_s": float(facts.duration_s or 0.0),
                "width": facts.width,
                "height": facts.height,
            },
            write=write,
        )
