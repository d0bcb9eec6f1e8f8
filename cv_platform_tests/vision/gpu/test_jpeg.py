"""Shards read without Python's tar reader are the same shards, whole or damaged."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'cv-platform[torch]'")

from cv_platform.vision.gpu import jpeg  # noqa: E402
from cv_platform.vision.gpu.jpeg import _side_by_side, decode_jpegs, shard_frames  # noqa: E402
from cv_platform.vision.jpeg import jpeg_size  # noqa: E402
from cv_platform.vision.video.decode import SampledFrame  # noqa: E402
from cv_platform.vision.video.shards import ShardWriter, read_shard  # noqa: E402


def shard(frames: int = 3) -> bytes:
    file, rng = io.BytesIO(), np.random.default_rng(0)
    with ShardWriter(file) as writer:
        for n in range(frames):
            writer.add(SampledFrame(n, Fraction(n, 7), rng.integers(0, 256, (20 + n, 30, 3), dtype=np.uint8)))
    return file.getvalue()


def test_the_same_frames_as_the_tar_reader_gives() -> None:
    assert list(shard_frames(shard())) == list(read_shard(shard()))


def test_another_form_of_tar_is_read_too() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(shard())) as plain, tarfile.open(fileobj=file, mode="w") as other:
        for member in plain:
            member.pax_headers = {"comment": "x" * 200}
            other.addfile(member, plain.extractfile(member))
    assert list(shard_frames(file.getvalue())) == list(read_shard(shard()))


@pytest.mark.parametrize("keep", [512, 700, 2000, -1536])
def test_a_shard_cut_short_is_refused(keep: int) -> None:
    with pytest.raises(ValueError, match=r"cut short|damaged"):
        list(shard_frames(shard()[:keep].rstrip(b"\0") if keep < 0 else shard()[:keep]))


def test_files_lie_side_by_side() -> None:
    files = [frame.jpeg for frame in shard_frames(shard())]
    for some in (files, files[:1], files * 3):  # less than there was room for, and more
        assert [bytes(tensor.numpy()) for tensor in _side_by_side(some, "cpu")] == some
    assert _side_by_side([], "cpu") == []


def test_threads_lay_files_into_blocks_of_their_own() -> None:
    files = [frame.jpeg for frame in shard_frames(shard())]
    ours = _side_by_side(files, "cpu")
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(_side_by_side, files[::-1], "cpu").result()
    assert [bytes(tensor.numpy()) for tensor in ours] == files
    assert [bytes(tensor.numpy()) for tensor in theirs] == files[::-1]


@pytest.mark.parametrize("stored", [b"0000000\0", b"777777\0 ", b"notanum\0"])
def test_a_header_that_does_not_sum_up_is_left_to_the_tar_reader(stored: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        list(shard_frames(shard()[:148] + stored + shard()[156:]))


def test_what_is_no_jpeg_or_too_large_never_reaches_the_decoder() -> None:
    file = next(shard_frames(shard())).jpeg
    with pytest.raises(ValueError, match="allowed is a JPEG file"):
        decode_jpegs([file, b"GIF89a"], device="cpu")
    with pytest.raises(ValueError, match=r"declares 30×20, 600 pixels; allowed is 1 to 599"):
        decode_jpegs([file], device="cpu", max_pixels=599)


def test_out_of_memory_decodes_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def scarce(files: list[memoryview], *, device: str) -> list[torch.Tensor]:
        sizes.append(len(files))
        if len(files) > 2:
            raise torch.cuda.OutOfMemoryError
        return [torch.zeros((3, *jpeg_size(file)), dtype=torch.uint8) for file in files]

    monkeypatch.setattr(jpeg, "decode_jpegs", scarce)
    (items,) = jpeg.shard_items(shard(7), batch=8)
    assert [item.index for item in items] == list(range(7))
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    monkeypatch.setattr(
        jpeg, "decode_jpegs", lambda files, device: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError())
    )
    with pytest.raises(torch.cuda.OutOfMemoryError):
        next(jpeg.shard_items(shard(7), batch=8))
