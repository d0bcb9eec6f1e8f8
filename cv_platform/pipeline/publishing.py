"""Publishing is the ledger's commit, then a copy on the store's side from the fenced key to the stable one.

The copy is repeated until it matches what the ledger says. A worker that comes late finds that the ledger names another
digest, and copies that one: whatever it wrote is put right before it goes on.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from obstore.exceptions import BaseError

from cv_platform import faults
from cv_platform.pipeline.outputs import CERTIFICATE_SUFFIX
from cv_platform.pipeline.platform import Platform
from cv_platform.storage.ledger.model import Scope
from cv_platform.storage.ledger.published import (
    DueCopy,
    due_copies,
    garbage,
    note_copied,
    note_preview,
    older_sources,
    preview_stands,
    put_off_garbage,
    redo_publication,
    remove_garbage,
)
from cv_platform.storage.objects import ObjectMissing, ObjectStore

_TRY_AGAIN_S: Final = 600.0


def publish_due(platform: Platform, scope: Scope, *, limit: int = 10_000) -> int:
    """Copy published clips whose stable key does not hold what the ledger says; returns how many were copied."""
    copied = 0
    for _ in range(limit):
        due = due_copies(platform.database, scope, limit=100)
        if not due:
            break
        copied += sum(_publish(platform, copy) for copy in due)
    return copied


def _publish(platform: Platform, copy: DueCopy) -> bool:
    """Make one copy; True where the stable key now holds what the ledger says."""
    # What is older goes first: whoever was stopped before copying it finds nothing when it goes on.
    for key in older_sources(platform.database, copy):
        remove_garbage(platform.database, "cold", key, platform.cold.delete)
    faults.point("publish.before_copy")
    try:
        platform.cold.copy(copy.source_key + CERTIFICATE_SUFFIX, copy.stable_key + CERTIFICATE_SUFFIX)
        platform.cold.copy(copy.source_key, copy.stable_key)
    except ObjectMissing:
        # Withdrawn or published anew between the two steps, or lost; the ledger says which.
        done = redo_publication(platform.database, copy)
        if done != "nothing":
            platform.log.error(
                "publish: clip %s: the object to publish is not in the store; %s",
                copy.clip_id,
                "it is made again" if done == "again" else "the clip is quarantined",
            )
        return False
    faults.point("publish.after_copy")
    return note_copied(platform.database, copy)


def write_preview(platform: Platform, clip_id: uuid.UUID, picture: bytes) -> str | None:
    """Store a picture cut from a published clip as an expiring, erasable object.

    Returns:
        A link for a browser; None where the clip was withdrawn meanwhile.
    """
    key = f"previews/{uuid.uuid4()}.jpg"
    term = platform.policy.default_rules.keep.previews
    if not note_preview(platform.database, clip_id, key, expires_at=datetime.now(UTC) + term):
        return None
    platform.cold.put_bytes(key, picture)
    if not preview_stands(platform.database, key):
        platform.cold.delete([key])
        return None
    return platform.cold.link(key, expires_in=timedelta(days=7))


def collect_garbage(platform: Platform, *, limit: int = 10_000) -> int:
    """Delete objects that nothing points at any more; returns how many."""
    deleted = 0
    for store, key in garbage(platform.database, limit=limit):
        target = platform.cold if store == "cold" else platform.restricted
        try:
            deleted += remove_garbage(platform.database, store, key, target.delete, etag_of=partial(_etag_of, target))
        except (OSError, BaseError) as error:
            put_off_garbage(platform.database, store, key, delay_s=_TRY_AGAIN_S)
            platform.log.warning("an object could not be deleted, will be tried again: %s", type(error).__name__)
    return deleted


def _etag_of(store: ObjectStore, key: str) -> str | None:
    info = store.head(key)
    return None if info is None else info.etag
