"""What was erased and comes back as a clip: it is erased again before anything is made of it."""

from __future__ import annotations

from datetime import timedelta

from cv_platform.governance import audit
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.stage import ClaimLost
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger import erasures
from cv_platform.storage.ledger.clip_keys import destroy_keys
from cv_platform.storage.ledger.days import mark_dirty
from cv_platform.storage.ledger.held import is_held
from cv_platform.storage.ledger.model import Clip
from cv_platform.storage.ledger.tombstones import (
    any_tombstone,
    is_erased_content,
    is_erased_interval,
)
from cv_platform.storage.ledger.withdrawal import discard_objects


def refuse_erased(platform: Platform, clip: Clip, *, sha256: str, duration_s: float) -> None:
    """Erase a clip that came back: its bytes were erased before, or it reaches into an interval that was.

    Args:
        sha256: of its plain bytes.
        duration_s: its length as far as it is known.

    Raises:
        ClaimLost: it was; nothing is left of it to work on.
    """
    end = clip.captured_at + timedelta(seconds=duration_s)

    def work(connection: Connection) -> str | None:
        if not any_tombstone(connection):
            return None
        erased = is_erased_content(connection, sha256) or is_erased_interval(
            connection, clip.site_id, clip.camera_id, clip.captured_at, end
        )
        if not erased or is_held(connection, clip.clip_id):
            return None
        trace = erasures.trace_clip(connection, clip.clip_id)
        if trace is None:
            return None
        destroy_keys(connection, [clip.clip_id])
        mark_dirty(connection, erasures.erase_clip(connection, clip.clip_id))
        # Where this process is killed before it deletes them, the collector does.
        discard_objects(connection, "restricted", [key for key in trace.keys["restricted"] if not key.endswith("/")])
        audit.append(connection, actor="raw_clips", action="erasure.kept_away", details={"clip": clip.clip_id})
        return trace.upload_key

    upload_key = platform.database.transact(work)
    if upload_key is None:
        return
    platform.restricted.purge([upload_key, *erasures.objects_of(clip.clip_id)["restricted"]])
    with platform.database.transaction() as connection:
        erasures.forget_upload(connection, upload_key)
    raise ClaimLost
