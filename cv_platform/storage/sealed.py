"""Sealed files: bytes encrypted in chunks with one key, readable in ranges, so that destroying the key destroys them.

The STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár, "Online authenticated-encryption and its nonce-reuse
misuse-resistance", CRYPTO 2015) over AES-256-GCM: each chunk's nonce holds a random prefix, the chunk's number and
whether it is the last, so that chunks cannot be reordered, dropped, repeated or cut off unseen. What the bytes belong
to is authenticated too: an object moved to another clip does not open.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC: Final = b"CVSEAL1\n"
CHUNK_BYTES: Final = 256 * 1024
KEY_BYTES: Final = 32
_TAG = 16
_PREFIX = 7
_HEADER = struct.Struct(f">8sI{_PREFIX}s")
HEADER_BYTES: Final = _HEADER.size
_MAX_CHUNKS = 2**32


class SealBroken(Exception):
    """The bytes are not what was sealed, or the key or owner is another."""


class RangeReader(Protocol):
    """Reads part of a sealed object."""

    def __call__(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer at the end."""


def new_key() -> bytes:
    """A fresh key."""
    return os.urandom(KEY_BYTES)


def sealed_size(plain_bytes: int, *, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Bytes of a sealed file that holds so many."""
    chunks = max(1, -(-plain_bytes // chunk_bytes))
    return HEADER_BYTES + plain_bytes + chunks * _TAG


def plain_size(sealed_bytes: int, *, chunk_bytes: int = CHUNK_BYTES) -> int:
    """The inverse of `sealed_size`. Raises SealBroken for a size that no sealed file has."""
    body = sealed_bytes - HEADER_BYTES
    chunks = max(1, -(-body // (chunk_bytes + _TAG)))
    plain = body - chunks * _TAG
    if plain < 0 or sealed_size(plain, chunk_bytes=chunk_bytes) != sealed_bytes:
        raise SealBroken(f"{sealed_bytes} bytes are no sealed file: it was cut short")
    return plain


def sealed_chunks(source: BinaryIO, key: bytes, owner: str) -> Iterator[bytes]:
    """All of `source`, encrypted, a header and then a chunk at a time.

    Args:
        source: open for reading bytes.
        key: 32 bytes, for this owner alone.
        owner: what the bytes belong to, such as clip and kind; needed again to open them.
    """
    prefix = os.urandom(_PREFIX)
    header = _HEADER.pack(MAGIC, CHUNK_BYTES, prefix)
    aead, associated = AESGCM(key), header + owner.encode()
    yield header
    chunk = source.read(CHUNK_BYTES)
    number = 0
    while True:
        following = source.read(CHUNK_BYTES)
        if number >= _MAX_CHUNKS:
            raise ValueError("the file is too large to be sealed under one key")
        yield aead.encrypt(_nonce(prefix, number, last=not following), chunk, associated)
        if not following:
            return
        chunk, number = following, number + 1


def seal(source: BinaryIO, target: BinaryIO, key: bytes, owner: str) -> str:
    """Write `sealed_chunks` to `target`; returns the sha256 of the sealed bytes, hex."""
    digest = hashlib.sha256()
    for chunk in sealed_chunks(source, key, owner):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def unseal(source: BinaryIO, target: BinaryIO, key: bytes, owner: str) -> str:
    """Decrypt all of `source` into `target`; returns the sha256 of the plain bytes, hex. Raises SealBroken.

    What was written before an error is of chunks that are authentic; the caller discards it.
    """
    chunk_bytes, prefix, header = _read_header(source.read(HEADER_BYTES))
    aead, associated = AESGCM(key), header + owner.encode()
    digest = hashlib.sha256()
    chunk = source.read(chunk_bytes + _TAG)
    number = 0
    while True:
        following = source.read(chunk_bytes + _TAG)
        plain = _open(aead, prefix, number, chunk, associated, last=not following)
        digest.update(plain)
        target.write(plain)
        if not following:
            return digest.hexdigest()
        chunk, number = following, number + 1


def unseal_range(read: RangeReader, sealed_bytes: int, key: bytes, owner: str, *, start: int, length: int) -> bytes:
    """Decrypt `length` plain bytes from `start`: reads only the chunks that hold them. Raises SealBroken."""
    chunk_bytes, prefix, header = _read_header(read(0, HEADER_BYTES))
    total = plain_size(sealed_bytes, chunk_bytes=chunk_bytes)
    end = min(start + length, total)
    if start < 0 or start >= end:
        return b""
    aead, associated = AESGCM(key), header + owner.encode()
    last_chunk = max(0, (total - 1) // chunk_bytes)
    first, final = start // chunk_bytes, (end - 1) // chunk_bytes
    stride = chunk_bytes + _TAG
    body = read(HEADER_BYTES + first * stride, (final - first + 1) * stride)
    plain = b"".join(
        _open(
            aead,
            prefix,
            number,
            body[(number - first) * stride : (number - first + 1) * stride],
            associated,
            last=number == last_chunk,
        )
        for number in range(first, final + 1)
    )
    offset = start - first * chunk_bytes
    return plain[offset : offset + end - start]


def is_sealed(head: bytes) -> bool:
    """Whether bytes begin like a sealed file."""
    return head[: len(MAGIC)] == MAGIC


def seal_file(source: Path, target: Path, key: bytes, owner: str) -> str:
    """`seal` on files; the target is readable by this user alone."""
    return _on_files(seal, source, target, key, owner)


def unseal_file(source: Path, target: Path, key: bytes, owner: str) -> str:
    """`unseal` on files; the target is readable by this user alone, and gone after an error."""
    return _on_files(unseal, source, target, key, owner)


def _on_files(
    work: Callable[[BinaryIO, BinaryIO, bytes, str], str], source: Path, target: Path, key: bytes, owner: str
) -> str:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as writing, source.open("rb") as reading:
            return work(reading, writing, key, owner)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _read_header(header: bytes) -> tuple[int, bytes, bytes]:
    if len(header) != HEADER_BYTES or not is_sealed(header):
        raise SealBroken("the bytes do not begin like a sealed file")
    _, chunk_bytes, prefix = _HEADER.unpack(header)
    if not 1024 <= chunk_bytes <= 2**26:
        raise SealBroken(f"the header names chunks of {chunk_bytes} bytes; it was changed")
    return chunk_bytes, prefix, header


def _nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    return prefix + struct.pack(">IB", number, last)


def _open(aead: AESGCM, prefix: bytes, number: int, chunk: bytes, associated: bytes, *, last: bool) -> bytes:
    try:
        return aead.decrypt(_nonce(prefix, number, last=last), chunk, associated)
    except (InvalidTag, ValueError):
        raise SealBroken(f"chunk {number} is not what was sealed, or key or owner is another") from None
