from __future__ import annotations

import hashlib
import io
import json
import tarfile
from fractions import Fraction

import numpy as np
import pytest

from cv_platform.vision.video.decode import SampledFrame
from cv_platform.vision.video.shards import ShardWriter, read_shard


def frames(count=3):
    rng = np.random.default_rng(7)
    for i in range(count):
        image = np.repeat(np.repeat(rng.integers(0, 255, (6, 8 + i, 1), np.uint8), 8, 0), 8, 1)
        yield SampledFrame(i, Fraction(i * 1001, 30_000), np.repeat(image, 3, 2))


def written(count=3, **options) -> bytes:
    file = io.BytesIO()
    with ShardWriter(file, **options) as writer:
        for frame in frames(count):
            writer.add(frame)
    assert writer.frames == count
    return file.getvalue()


def test_frames_come_back_with_exact_times_and_sizes() -> None:
    for frame, kept in zip(frames(), read_shard(written(jpeg_quality=100)), strict=True):
        assert (kept.index, kept.pts_s) == (frame.index, frame.pts_s)
        assert (kept.height, kept.width) == frame.image.shape[:2]
        assert np.abs(kept.image().astype(int) - frame.image).mean() < 2


def test_the_same_frames_give_the_same_bytes() -> None:
    assert hashlib.sha256(written()).digest() == hashlib.sha256(written()).digest()


def test_members_follow_the_webdataset_convention() -> None:
    with tarfile.open(fileobj=io.BytesIO(written(2))) as tar:
        assert tar.getnames() == ["00000000.jpg", "00000000.json", "00000001.jpg", "00000001.json"]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar.getmembers()} == {(0, 0, 0, "", 0o600)}
        facts = json.load(tar.extractfile("00000001.json"))
    assert facts == {"index": 1, "pts_s": 1001 / 30_000, "pts": "1001/30000", "width": 72, "height": 48}


def test_a_shard_streams_from_a_pipe() -> None:
    class Pipe(io.RawIOBase):
        def __init__(self, content: bytes) -> None:
            self._inner = io.BytesIO(content)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            return self._inner.readinto(buffer)

    assert [frame.index for frame in read_shard(io.BufferedReader(Pipe(written())))] == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, written()[:2000], written()[:700]])
def test_what_is_no_whole_shard_is_refused(content) -> None:
    with pytest.raises(ValueError, match="shard"):
        list(read_shard(content))


def test_a_picture_of_another_size_than_the_facts_is_refused() -> None:
    kept = next(iter(read_shard(written())))
    with pytest.raises(ValueError, match="expected"):
        type(kept)(kept.index, kept.pts_s, kept.width + 1, kept.height, kept.jpeg).image()


def test_an_empty_shard_is_a_whole_one() -> None:
    assert list(read_shard(written(0))) == []


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_outside_the_range_is_refused(quality) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        ShardWriter(io.BytesIO(), jpeg_quality=quality)
