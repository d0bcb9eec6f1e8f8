"""Sealed objects of clips: encrypted on the way to the store, decrypted on the way back, under the clip's own key.

Whoever destroys the key has destroyed the object, with all of its copies.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from cv_platform.pipeline.platform import Platform
from cv_platform.storage import sealed
from cv_platform.storage.ledger.vault import StoredObject
from cv_platform.storage.objects import ObjectStore

Kind = Literal["raw", "frames", "blurred"]
_ONE_REQUEST = 8 * 2**20
"""Bytes up to which an object is sealed in memory and stored by one request; above, S3 takes it in parts."""


def owner_of(clip_id: uuid.UUID, kind: Kind) -> str:
    """What a sealed object belongs to; it opens as nothing else."""
    return f"{clip_id}/{kind}"


def put_sealed(
    platform: Platform, store: ObjectStore, key: str, path: Path, clip_id: uuid.UUID, kind: Kind
) -> StoredObject:
    """Seal a file into an object, without a copy on disk; the clip's key is made where it has none yet.

    Raises:
        KeyDestroyed: the clip's key is destroyed; nothing is stored.
        KeyEncryptionKeyError: no clip's key can be opened.
    """
    digest = hashlib.sha256()
    size = 0
    clip_key = platform.keys.key_for(clip_id)

    def chunks() -> Iterator[bytes]:
        nonlocal size
        with path.open("rb") as file:
            for chunk in sealed.sealed_chunks(file, clip_key, owner_of(clip_id, kind)):
                digest.update(chunk)
                size += len(chunk)
                yield chunk

    if path.stat().st_size <= _ONE_REQUEST:
        store.put_bytes(key, b"".join(chunks()))
    else:
        store.put_chunks(key, chunks())
    return StoredObject(size, digest.hexdigest())


def unseal_object(
    platform: Platform, store: ObjectStore, key: str, target: BinaryIO, clip_id: uuid.UUID, kind: Kind
) -> str:
    """Write an object in the clear to `target`; returns the sha256 of the plain bytes, hex.

    Raises:
        ObjectMissing: there is none.
        KeyDestroyed: nobody can read it any more.
        SealBroken: it is not what was sealed. What was written is to be discarded.
        KeyEncryptionKeyError: no clip's key can be opened.
    """
    clip_key = platform.keys.open(clip_id)
    with io.BufferedReader(store.open(key), sealed.CHUNK_BYTES) as reader:
        return sealed.unseal(reader, target, clip_key, owner_of(clip_id, kind))


def unseal_to_file(platform: Platform, store: ObjectStore, key: str, path: Path, clip_id: uuid.UUID, kind: Kind) -> str:
    """As `unseal_object`, to a file, which is gone after an error."""
    try:
        with path.open("wb") as file:
            return unseal_object(platform, store, key, file, clip_id, kind)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def read_sealed_range(
    platform: Platform,
    store: ObjectStore,
    key: str,
    plain_bytes: int,
    clip_id: uuid.UUID,
    kind: Kind,
    *,
    start: int,
    length: int,
) -> bytes:
    """`length` plain bytes of a sealed object from `start`: only the chunks that hold them are read and decrypted.

    Args:
        plain_bytes: size of the whole in the clear.

    Raises:
        As `unseal_object`.
    """
    return sealed.unseal_range(
        lambda at, count: store.get_range(key, at, count),
        sealed.sealed_size(plain_bytes),
        platform.keys.open(clip_id),
        owner_of(clip_id, kind),
        start=start,
        length=length,
    )
