"""What a stage makes of a clip, as an object: told to the ledger, then uploaded, then pointed at by the commit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cv_platform.pipeline.platform import Platform
from cv_platform.storage.ledger.commits import note_object
from cv_platform.storage.ledger.model import Claim

CERTIFICATE_SUFFIX = ".certificate.json"


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
