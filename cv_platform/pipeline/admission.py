"""Which uploads may enter by the settings now in force; and clips that were refused, let in once they may.

A clip that failed at a stage goes back to the start as it is. One that was refused when it was registered is judged
anew: a limit was raised, the first day moved back, or the moment that its camera's clock gave has come.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from datetime import time as clock

from cv_platform.pipeline.keys import upload_from
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.registration import Upload, admit, refused_uploads
from cv_platform.storage.ledger.withdrawal import replay


def judge(settings: Settings, key: str, etag: str, size_bytes: int, *, now: datetime) -> Upload:
    """An object under the raw prefix as an upload, with its problem where the settings do not accept it."""
    return upload_from(
        key,
        etag,
        size_bytes,
        start=datetime.combine(settings.partitions_start, clock(), UTC),
        now=now,
        max_clock_skew_s=settings.max_clock_skew_s,
        max_bytes=settings.max_clip_bytes,
    )


def replay_clips(database: Database, settings: Settings, clip_ids: Iterable[uuid.UUID]) -> int:
    """Put quarantined clips back to the start of the graph; returns how many were.

    Left alone: what is not quarantined, what is held back by a legal hold, what came by a key that no reading makes
    sense of or from a camera of another site, and what the settings still refuse.
    """
    wanted = set(clip_ids)
    now = datetime.now(UTC)
    accepted = {
        clip_id: upload
        for clip_id, (key, etag, size_bytes) in refused_uploads(database, wanted).items()
        if (upload := judge(settings, key, etag, size_bytes, now=now)).problem is None
    }
    return admit(database, accepted) + replay(database, wanted)
