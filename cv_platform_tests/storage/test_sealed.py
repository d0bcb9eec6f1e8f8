"""Sealed files open with their key and owner, in ranges too, and with nothing else."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cv_platform.storage import sealed
from cv_platform.storage.sealed import CHUNK_BYTES, HEADER_BYTES, SealBroken, new_key, plain_size, seal, sealed_size

KEY = bytes(range(32))
STRIDE = CHUNK_BYTES + 16
SIZES = [0, 1, 15, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 17]


def sealed_bytes(data: bytes, key: bytes = KEY, owner: str = "clip/raw") -> bytes:
    target = io.BytesIO()
    digest = seal(io.BytesIO(data), target, key, owner)
    assert digest == hashlib.sha256(target.getvalue()).hexdigest()
    return target.getvalue()


def opened(data: bytes, key: bytes = KEY, owner: str = "clip/raw") -> bytes:
    target = io.BytesIO()
    sealed.unseal(io.BytesIO(data), target, key, owner)
    return target.getvalue()


def pattern(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_sealed_comes_back(size: int) -> None:
    data = pattern(size)
    box = sealed_bytes(data)
    assert opened(box) == data
    assert len(box) == sealed_size(size)
    assert plain_size(len(box)) == size
    assert size < 16 or data[:16] not in box


def test_two_seals_of_the_same_bytes_share_nothing() -> None:
    assert sealed_bytes(pattern(100))[HEADER_BYTES:] != sealed_bytes(pattern(100))[HEADER_BYTES:]


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("a bit flipped", lambda box: box[:-5] + bytes([box[-5] ^ 1]) + box[-4:]),
        ("cut inside a chunk", lambda box: box[:-1]),
        ("the last chunk dropped", lambda box: box[: HEADER_BYTES + 2 * STRIDE]),
        ("the first chunk dropped", lambda box: box[:HEADER_BYTES] + box[HEADER_BYTES + STRIDE :]),
        (
            "two chunks swapped",
            lambda box: (
                box[:HEADER_BYTES]
                + box[HEADER_BYTES + STRIDE : HEADER_BYTES + 2 * STRIDE]
                + box[HEADER_BYTES : HEADER_BYTES + STRIDE]
                + box[HEADER_BYTES + 2 * STRIDE :]
            ),
        ),
        ("a chunk repeated", lambda box: box + box[HEADER_BYTES : HEADER_BYTES + STRIDE]),
        ("the header's prefix changed", lambda box: box[:14] + bytes([box[14] ^ 1]) + box[15:]),
        ("the header's chunk size changed", lambda box: box[:8] + (2048).to_bytes(4, "big") + box[12:]),
        ("no seal at all", lambda box: b"\0" * len(box)),
        ("nothing", lambda box: b""),
        ("the header alone", lambda box: box[:HEADER_BYTES]),
    ],
)
def test_any_change_is_noticed(what: str, change: object) -> None:
    box = sealed_bytes(pattern(2 * CHUNK_BYTES + 100))
    changed = change(box)  # type: ignore[operator]
    assert changed != box, what
    with pytest.raises(SealBroken):
        opened(changed)


def test_another_key_or_owner_opens_nothing() -> None:
    box = sealed_bytes(b"secret")
    with pytest.raises(SealBroken):
        opened(box, key=new_key())
    with pytest.raises(SealBroken):
        opened(box, owner="another clip/raw")


@settings(max_examples=60, deadline=None)
@given(size=st.sampled_from(SIZES), start=st.integers(0, 4 * CHUNK_BYTES), length=st.integers(0, 2 * CHUNK_BYTES))
def test_a_range_is_the_same_as_of_the_whole(size: int, start: int, length: int) -> None:
    data = pattern(size)
    box = sealed_bytes(data)
    touched: list[tuple[int, int]] = []

    def read(at: int, count: int) -> bytes:
        touched.append((at, count))
        return box[at : at + count]

    assert (
        sealed.unseal_range(read, len(box), KEY, "clip/raw", start=start, length=length) == data[start : start + length]
    )
    read_bytes = sum(count for _, count in touched)
    assert read_bytes <= HEADER_BYTES + (length // CHUNK_BYTES + 2) * STRIDE


def test_a_range_of_a_changed_chunk_is_refused_and_of_its_neighbours_is_not() -> None:
    data = pattern(3 * CHUNK_BYTES)
    box = bytearray(sealed_bytes(data))
    box[HEADER_BYTES + STRIDE + 5] ^= 1

    def read(at: int, count: int) -> bytes:
        return bytes(box[at : at + count])

    with pytest.raises(SealBroken):
        sealed.unseal_range(read, len(box), KEY, "clip/raw", start=CHUNK_BYTES, length=10)
    assert sealed.unseal_range(read, len(box), KEY, "clip/raw", start=0, length=10) == data[:10]


def test_files_are_private_and_gone_after_an_error(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "plain").write_bytes(pattern(CHUNK_BYTES + 5))
    sealed.seal_file(folder / "plain", folder / "box", KEY, "clip/raw")
    assert (folder / "box").stat().st_mode & 0o777 == 0o600
    digest = sealed.unseal_file(folder / "box", folder / "again", KEY, "clip/raw")
    assert digest == hashlib.sha256(pattern(CHUNK_BYTES + 5)).hexdigest()
    with pytest.raises(SealBroken):
        sealed.unseal_file(folder / "box", folder / "broken", new_key(), "clip/raw")
    assert not (folder / "broken").exists()
