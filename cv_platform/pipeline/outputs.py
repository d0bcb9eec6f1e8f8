"""What a stage makes of a clip, as an object: told to the ledger, then uploaded, then pointed at by the commit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.sealing import Kind, put_sealed
from cv_platform.storage.ledger.commits import note_object
from cv_platform.storage.ledger.model import Claim
from cv_platform.storage.ledger.vault import StoredObject

CERTIFICATE_SUFFIX = ".certificate.json"


def is_as_written(certificate: bytes, sha256: str | None) -> bool:
    """Whether a certificate read back has the digest that the ledger noted; one from before it noted any passes."""
    return sha256 in (None, hashlib.sha256(certificate).hexdigest())


@dataclass(frozen=True)
class SealedOutput:
    """An output that was sealed and uploaded."""

    key: str
    stored: StoredObject


def upload_output(
    platform: Platform,
    claim: Claim,
    store: Literal["restricted", "cold"],
    folder: str,
    path: Path,
    *,
    suffix: str,
    certificate: str | None = None,
) -> str:
    """Upload a file under a key that only this claim writes to; returns the key.

    Args:
        folder: first part of the key.
        suffix: end of the key, such as ".tar".
        certificate: stored beside it.

    An upload that no commit follows, as when this process is killed, is collected.
    """
    key = claim.object_key(folder, suffix)
    note_object(platform.database, store, key)
    target = platform.restricted if store == "restricted" else platform.cold
    if certificate is not None:
        target.put_bytes(key + CERTIFICATE_SUFFIX, certificate.encode())
    target.put_file(key, path)
    return key


def upload_sealed(
    platform: Platform,
    claim: Claim,
    store: Literal["restricted", "cold"],
    folder: str,
    path: Path,
    *,
    kind: Kind,
    suffix: str,
    certificate: str | None = None,
) -> SealedOutput:
    """As `upload_output`, sealed with the clip's key; the certificate stays in the clear.

    Raises:
        KeyDestroyed, KeyEncryptionKeyError: as `put_sealed`.
    """
    key = claim.object_key(folder, suffix)
    note_object(platform.database, store, key)
    target = platform.restricted if store == "restricted" else platform.cold
    if certificate is not None:
        target.put_bytes(key + CERTIFICATE_SUFFIX, certificate.encode())
    return SealedOutput(key, put_sealed(platform, target, key, path, claim.clip.clip_id, kind))
