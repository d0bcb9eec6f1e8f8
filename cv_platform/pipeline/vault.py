"""From the upload to the vault: sealed first, told to the ledger, and only then is the plain upload removed.

A crash in between leaves both; whoever comes next finishes it: the stage's next attempt, ingest when it meets the
object again, or `remove_sealed_uploads`.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import psycopg

from cv_platform import faults
from cv_platform.pipeline.outputs import upload_sealed
from cv_platform.pipeline.platform import Platform
from cv_platform.storage.ledger.model import Claim
from cv_platform.storage.ledger.vault import keep_in_vault, remove_upload, uploads_to_remove
from cv_platform.storage.object_info import ObjectInfo


def seal_upload(platform: Platform, claim: Claim, path: Path, sha256: str, upload: ObjectInfo | None) -> str:
    """Put a clip's raw bytes into the vault and remove the upload that they came from; returns the vault's key.

    Args:
        path, sha256: the bytes as they were read.
        upload: what the store said of the object that they were read from.

    Raises:
        StaleClaim: the claim is lost.
        KeyDestroyed, KeyEncryptionKeyError: as `put_sealed`.
    """
    output = upload_sealed(platform, claim, "restricted", "vault", path, kind="raw", suffix="")
    faults.point("vault.before_keep")
    keep_in_vault(
        platform.database,
        claim,
        key=output.key,
        sha256=sha256,
        stored=output.stored,
        etag="" if upload is None else upload.etag,
    )
    faults.point("vault.before_removal")
    remove_plain_upload(platform, claim.clip.clip_id)
    return output.key


def remove_plain_upload(platform: Platform, clip_id: uuid.UUID, *, etag: str | None = None) -> bool:
    """Remove a clip's upload whose bytes are sealed; False where that was not to be, or did not succeed now.

    Args:
        etag: as `remove_upload`.
    """
    try:
        return remove_upload(platform.database, clip_id, platform.restricted.delete_unchanged, etag=etag)
    except psycopg.Error:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a store says: it stays due, and must not hold up the clip
        platform.log.warning("an upload that is sealed could not be removed yet: %s", type(error).__name__)
        return False


def remove_sealed_uploads(platform: Platform, *, limit: int = 10_000) -> int:
    """Remove plain uploads that are sealed and whose removal was broken off; returns how many were."""
    due = uploads_to_remove(platform.database, limit=limit)
    return sum(remove_plain_upload(platform, clip_id) for clip_id in due)
