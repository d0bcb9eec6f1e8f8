"""PostgreSQL's extended hash functions over NumPy columns.

They are those that hash partitioning is built on, so they give the same number in every version; the algorithm is Bob
Jenkins' lookup3 with a 64-bit seed. With them a checksum can be made of rows in PostgreSQL by a query and of the same
rows in a file by other code, neither of which has seen what the other did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]

_START: Final = 0x9E3779B9 + 3923095
_LOW: Final = np.uint64(0xFFFFFFFF)


def hash_bytes(data: npt.NDArray[np.uint8], seeds: Hashes) -> Hashes:
    """`hash_bytes_extended` of N rows of L bytes each, (N, L), under N seeds."""
    n, length = data.shape
    a, b, c = _seeded(length, seeds)
    at = 0
    while length - at >= 12:
        words = _words(data[:, at : at + 12])
        a, b, c = _mix(a + words[:, 0], b + words[:, 1], c + words[:, 2])
        at += 12
    if at < length:
        rest = np.zeros((n, 12), np.uint8)
        # The lowest byte of the third word is kept for the length.
        rest[:, : min(8, length - at)] = data[:, at : at + 8]
        rest[:, 9 : 9 + max(0, length - at - 8)] = data[:, at + 8 :]
        words = _words(rest)
        a, b, c = a + words[:, 0], b + words[:, 1], c + words[:, 2]
    return _final(a, b, c)


def hash_int4(values: npt.NDArray[Any], seeds: Hashes) -> Hashes:
    """`hashint4extended`, and `hashint2extended`: small integers hash as int4 do."""
    a, b, c = _seeded(4, seeds)
    return _final(a + values.astype(np.int32).view(np.uint32), b, c)


def hash_int8(values: npt.NDArray[np.int64], seeds: Hashes) -> Hashes:
    """`hashint8extended`, and so `timestamp_hash_extended` of microseconds since 2000."""
    bits = values.view(np.uint64)
    low, high = (bits & _LOW).astype(np.uint32), (bits >> np.uint64(32)).astype(np.uint32)
    a, b, c = _seeded(4, seeds)
    return _final(a + (low ^ np.where(values >= 0, high, ~high)), b, c)


def hash_float4(values: npt.NDArray[np.float32], seeds: Hashes) -> Hashes:
    """`hashfloat4extended`: as float8; either zero gives the seed."""
    wide = values.astype(np.float64)
    a, b, c = _seeded(8, seeds)
    bits = wide.view(np.uint64)
    hashed = _final(a + (bits & _LOW).astype(np.uint32), b + (bits >> np.uint64(32)).astype(np.uint32), c)
    return np.where(wide == 0.0, seeds, hashed)


def hash_float4_arrays(values: npt.NDArray[np.float32], seeds: Hashes) -> Hashes:
    """`hash_array_extended` of N arrays of K floats each, (N, K)."""
    result = np.ones(len(values), np.uint64)
    for k in range(values.shape[1]):
        result = (result << np.uint64(5)) - result + hash_float4(np.ascontiguousarray(values[:, k]), seeds)
    return result


def hash_texts(values: Sequence[bytes], seeds: Hashes) -> Hashes:
    """`hashtextextended` of N texts (UTF-8, a collation that is deterministic)."""
    found = np.empty(len(values), np.uint64)
    lengths = np.fromiter((len(value) for value in values), np.int64, len(values))
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        joined = np.frombuffer(b"".join(values[int(row)] for row in rows), np.uint8).reshape(len(rows), int(length))
        found[rows] = hash_bytes(joined, seeds[rows])
    return found


def _words(data: npt.NDArray[np.uint8]) -> Words:
    return np.ascontiguousarray(data).view("<u4")


def _seeded(length: int, seeds: Hashes) -> tuple[Words, Words, Words]:
    start = np.full(len(seeds), (_START + length) & 0xFFFFFFFF, np.uint32)
    a, b, c = _mix(start + (seeds >> np.uint64(32)).astype(np.uint32), start + (seeds & _LOW).astype(np.uint32), start)
    plain = seeds == 0  # without a seed nothing is mixed
    if plain.any():
        a, b, c = np.where(plain, start, a), np.where(plain, start, b), np.where(plain, start, c)
    return a, b, c


def _rot(x: Words, k: int) -> Words:
    return (x << np.uint32(k)) | (x >> np.uint32(32 - k))


def _mix(a: Words, b: Words, c: Words) -> tuple[Words, Words, Words]:
    for k in (4, 6, 8, 16, 19, 4):
        a = (a - c) ^ _rot(c, k)
        c = c + b
        a, b, c = b, c, a
    return a, b, c


def _final(a: Words, b: Words, c: Words) -> Hashes:
    for k in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - _rot(b, k)
        a, b, c = b, c, a
    # Seven turns of three leave them one step round: what is `c` stands in `b`, what is `b` in `a`.
    return (a.astype(np.uint64) << np.uint64(32)) | b.astype(np.uint64)
