"""A picture for the UI: frames of one clip that was just published, as an expiring, erasable object."""

from __future__ import annotations

from cv_platform.governance.keys import KeyDestroyed
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.published_clips import NotPublished, fetch_published
from cv_platform.pipeline.publishing import publish_due, write_preview
from cv_platform.storage.ledger.model import Scope
from cv_platform.storage.ledger.published import published_clips
from cv_platform.storage.objects import ObjectMissing
from cv_platform.storage.sealed import SealBroken

_FRAMES = 4
_WIDTH = 480


def publish_and_preview(platform: Platform, scope: Scope, *, new: bool) -> str | None:
    """Make the copies that are due; where something new was published, a preview of the newest clip.

    Returns:
        A link for a browser; None where there is nothing to show. A preview that fails is none: it must not fail a run.
    """
    publish_due(platform, scope)
    if not new:
        return None
    for clip in published_clips(platform.database, scope.capture_date, sites=scope.sites, limit=1):
        with platform.scratch() as folder:
            path = folder / "published.mp4"
            try:
                fetch_published(platform, clip.clip_id, path)
                from cv_platform.vision.video.contact_sheet import contact_sheet

                picture = contact_sheet(path, frames=_FRAMES, width=_WIDTH)
            except (NotPublished, ObjectMissing, SealBroken, KeyDestroyed, ValueError, OSError) as error:
                platform.log.warning("no preview: %s", type(error).__name__)
                return None
        return write_preview(platform, clip.clip_id, picture)
    return None
