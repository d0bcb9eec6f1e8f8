"""JPEG shards on the device: read, decoded by nvJPEG in batches, and handed on as RGB tensors; and encoded likewise.

nvJPEG's pixels differ from the processor's decoder by a few levels, as any two decoders' do. Needs torchvision.
"""

from __future__ import annotations

import io
import json
import mmap
import threading
import zlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cv_platform.vision.detectors.base import ShardPicture
from cv_platform.vision.gpu.lost import DeviceLost, telling_loss
from cv_platform.vision.gpu.stream import Item, detect_streams
from cv_platform.vision.jpeg import jpeg_size
from cv_platform.vision.video.shards import ShardFrame, read_shard

if TYPE_CHECKING:
    from cv_platform.vision.detections import Detections
    from cv_platform.vision.detectors.torch_backend import TorchDetector

_BLOCK: Final = 512
_MOST_PIXELS: Final = 4096 * 4096


class _Stored(NamedTuple):
    """A frame of a shard, by its number (`ShardFrame.index`), its JPEG file where it lies."""

    number: int
    pts_s: Fraction
    width: int
    height: int
    jpeg: memoryview


def shard_frames(shard: bytes | mmap.mmap) -> Iterator[ShardFrame]:
    """The frames of a shard that lies in memory; the same as `shards.read_shard` gives, several times faster.

    Raises:
        ValueError: as `read_shard`.
    """
    for frame in _stored(shard):
        yield ShardFrame(*frame[:4], bytes(frame.jpeg))


def _stored(shard: bytes | mmap.mmap) -> Iterator[_Stored]:
    """As `shard_frames`, nothing copied.

    Python's tar reader costs more a frame than nvJPEG does. A shard that is not of the plain form that
    `shards.ShardWriter` writes (ustar, regular files, no extensions) is read by `read_shard` instead.
    """
    view, position, end = memoryview(shard), 0, len(shard)
    picture: tuple[bytes, memoryview] | None = None
    given = 0
    while position + _BLOCK <= end:
        header = bytes(view[position : position + _BLOCK])
        if header[0] == 0:
            break
        plain = header[257:262] == b"ustar" and header[156:157] in (b"0", b"\0") and header[345] == 0
        if not plain or not _sums_up(header):
            whole = shard if isinstance(shard, bytes) else io.BytesIO(shard)
            for frame in islice(read_shard(whole), given, None):
                yield _Stored(frame.index, frame.pts_s, frame.width, frame.height, memoryview(frame.jpeg))
            return
        stem, _, kind = header[:100].rstrip(b"\0").rpartition(b".")
        size = int(header[124:136].rstrip(b"\0 "), 8)
        start = position + _BLOCK
        if start + size > end:
            break
        content = view[start : start + size]
        position = start + -(-size // _BLOCK) * _BLOCK
        if kind == b"jpg":
            picture = (stem, content)
        elif kind == b"json":
            if picture is None or picture[0] != stem:
                raise ValueError(f"the shard holds facts for frame {stem.decode()} without its picture before them")
            facts = json.loads(bytes(content))
            yield _Stored(
                int(facts["index"]), Fraction(facts["pts"]), int(facts["width"]), int(facts["height"]), picture[1]
            )
            given += 1
            picture = None
    else:
        raise ValueError("the shard is damaged or cut short: it has no end")
    if picture is not None or header[0] != 0:
        raise ValueError("the shard is damaged or cut short")


def _sums_up(header: bytes) -> bool:
    """Whether the header's bytes, its checksum read as spaces, sum up to it.

    The lower half of Adler-32 is one more than that sum, modulo 65,521: told in C, where a sum in Python took longer
    than all else that is done for a frame.
    """
    stored = header[148:156].strip(b"\0 ")
    if not stored.isdigit():
        return False
    summed = zlib.adler32(header[:148] + b" " * 8 + header[156:]) & 0xFFFF
    return (int(stored, 8) + 1) % 65521 == summed


def decode_jpegs(
    files: Sequence[bytes | memoryview], *, device: str = "cuda", max_pixels: int = _MOST_PIXELS
) -> list[Tensor]:
    """Decode JPEG files in one batch; on a GPU when this returns they are whole, whatever stream reads them.

    Args:
        files: each one whole JPEG file.
        device: where to; "cpu" decodes there.
        max_pixels: the most that one may declare, width × height; checked before the device sees it.

    Returns:
        uint8 (3, H, W) each, RGB.

    Raises:
        ValueError: a file is no JPEG, is damaged, or declares too many pixels.
        DeviceLost: a CUDA error: end the process.
    """
    for file in files:
        height, width = jpeg_size(file)
        if not 0 < height * width <= max_pixels:
            raise ValueError(
                f"the JPEG file declares {width}×{height}, {width * height:,} pixels; allowed is 1 to {max_pixels:,}"
            )
    from torchvision.io import ImageReadMode, decode_jpeg

    stream = _decoding_stream(device)
    try:
        with telling_loss(), torch.cuda.stream(stream):
            try:
                return list(decode_jpeg(_side_by_side(files, device), mode=ImageReadMode.RGB, device=device))
            finally:
                if stream is not None:
                    # also where a file is refused: the device may still read others, and their memory is used again.
                    # Not the stream as a whole: another thread may have begun its own batch there since.
                    done = torch.cuda.Event()
                    done.record(stream)
                    done.synchronize()
    except (DeviceLost, torch.cuda.OutOfMemoryError):
        raise
    except RuntimeError:
        raise ValueError("a picture of the batch is no JPEG or is damaged") from None


def _side_by_side(files: Sequence[bytes | memoryview], device: str) -> list[Tensor]:
    """The files as tensors, copied into this thread's block of memory: valid until its next call."""
    ends = np.cumsum([len(file) for file in files]).tolist()
    whole = _block(ends[-1] if ends else 0, device)
    block = whole.numpy()
    for file, end in zip(files, ends, strict=True):
        block[end - len(file) : end] = np.frombuffer(file, np.uint8)
    return [whole[end - len(file) : end] for file, end in zip(files, ends, strict=True)]


_blocks = threading.local()


def _block(size: int, device: str) -> Tensor:
    """At least `size` bytes, kept for the thread's next batch.

    Page-locked where a GPU reads them, which then needs no copy of its own; and used again, since touching fresh pages
    costs more than copying the files.
    """
    locked = torch.device(device).type == "cuda"
    kept: Tensor | None = getattr(_blocks, "locked" if locked else "plain", None)
    if kept is None or len(kept) < size:
        kept = torch.empty(1 << max(size - 1, _BLOCK).bit_length(), dtype=torch.uint8, pin_memory=locked)
        setattr(_blocks, "locked" if locked else "plain", kept)
    return kept


_streams: dict[torch.device, Any] = {}
_streams_lock = threading.Lock()


def _decoding_stream(device: str) -> Any:
    """The one stream on which pictures are decoded; None on the processor.

    Not torch's default stream: a batch of tensors waits for all that has been submitted there, so the network would
    wait for the next batch's decoding instead of running beside it.
    """
    where = torch.device(device)
    if where.type != "cuda":
        return None
    with _streams_lock:
        if where not in _streams:
            _streams[where] = torch.cuda.Stream(where)
        return _streams[where]


def shard_items(shard: bytes | mmap.mmap, *, device: str = "cuda", batch: int = 32) -> Iterator[list[Item]]:
    """A shard's frames, decoded, a batch at once, as `stream.detect_streams` takes them.

    Where the device's memory does not suffice for a batch, its halves are decoded one after the other.

    Raises:
        ValueError: as `shard_frames` and `decode_jpegs`; a picture of another size than the shard says.
    """
    frames = _stored(shard)
    while chunk := list(islice(frames, batch)):
        items = []
        for frame, picture in zip(chunk, _decoded([frame.jpeg for frame in chunk], device), strict=True):
            if tuple(picture.shape) != (3, frame.height, frame.width):
                raise ValueError(
                    f"frame {frame.number} holds a picture of shape {tuple(picture.shape)}; "
                    f"expected (3, {frame.height}, {frame.width})"
                )
            items.append(Item(frame.number, frame.pts_s, picture))
        yield items


def _decoded(files: list[memoryview], device: str) -> list[Tensor]:
    try:
        return decode_jpegs(files, device=device)
    except torch.cuda.OutOfMemoryError:
        if len(files) == 1:
            raise
        middle = len(files) // 2
        return _decoded(files[:middle], device) + _decoded(files[middle:], device)


def detect_in_shard(
    detector: TorchDetector, shard: BinaryIO, *, device: str
) -> Generator[tuple[ShardPicture, Detections]]:
    """See `detectors.base.ShardDetector`: a batch is decoded while the one before it is in the network.

    Args:
        detector: used by the caller's thread alone.
        shard: a file of the disk; read through its mapping, so that hours of frames take no memory.
        device: where the detector runs.

    Raises:
        ValueError: as `shard_items`.
        DeviceLost: a CUDA error: end the process.
    """
    mapped = mmap.mmap(shard.fileno(), 0, access=mmap.ACCESS_READ)
    sizes: deque[tuple[int, int]] = deque()

    def items(source: mmap.mmap) -> Iterator[list[Item]]:
        for chunk in shard_items(source, device=device, batch=detector.batch_size):
            for item in chunk:
                assert isinstance(item.picture, Tensor)
                sizes.append((item.picture.shape[2], item.picture.shape[1]))
            yield chunk

    with closing(detect_streams([mapped], items, detector, streams=1, prefetch=2)) as told:
        for found in told:
            if found.error is not None:
                raise found.error
            if found.detections is not None:
                yield ShardPicture(found.pts_s, *sizes.popleft()), found.detections


def encode_jpegs(pictures: Sequence[Tensor], *, quality: int = 92) -> list[bytes]:
    """Encode pictures of a shard where they lie, on the device (nvJPEG) or on the processor.

    Args:
        pictures: uint8 (3, H, W) each, RGB.
        quality: 1 to 100.
    """
    from torchvision.io import encode_jpeg

    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}; allowed is 1 to 100")
    return [file.cpu().numpy().tobytes() for file in encode_jpeg(list(pictures), quality=quality)]
