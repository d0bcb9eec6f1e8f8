"""JPEG shards on the device: read, decoded by nvJPEG in batches, and handed on as RGB tensors; and written likewise.

nvJPEG's pixels differ from the processor's decoder by a few levels, as any two decoders' do. Needs torchvision.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import Final

import numpy as np
import torch
from torch import Tensor

from cv_platform.vision.gpu.stream import Item
from cv_platform.vision.jpeg import jpeg_size
from cv_platform.vision.video.shards import ShardFrame, read_shard

_BLOCK: Final = 512
_MOST_PIXELS: Final = 4096 * 4096


def shard_frames(shard: bytes) -> Iterator[ShardFrame]:
    """The frames of a shard that lies in memory; the same as `shards.read_shard` gives, several times faster.

    Python's tar reader costs more a frame than nvJPEG does. A shard that is not of the plain form that
    `shards.ShardWriter` writes (ustar, regular files, no extensions) is read by `read_shard` instead.

    Raises:
        ValueError: as `read_shard`.
    """
    view, position, end = memoryview(shard), 0, len(shard)
    picture: tuple[bytes, bytes] | None = None
    given = 0
    while position + _BLOCK <= end:
        header = bytes(view[position : position + _BLOCK])
        if header[0] == 0:
            break
        plain = header[257:262] == b"ustar" and header[156:157] in (b"0", b"\0") and header[345] == 0
        if not plain or not _sums_up(header):
            yield from islice(read_shard(shard), given, None)
            return
        stem, _, kind = header[:100].rstrip(b"\0").rpartition(b".")
        size = int(header[124:136].rstrip(b"\0 "), 8)
        start = position + _BLOCK
        if start + size > end:
            break
        content = bytes(view[start : start + size])
        position = start + -(-size // _BLOCK) * _BLOCK
        if kind == b"jpg":
            picture = (stem, content)
        elif kind == b"json":
            if picture is None or picture[0] != stem:
                raise ValueError(f"the shard holds facts for frame {stem.decode()} without its picture before them")
            facts = json.loads(content)
            yield ShardFrame(
                int(facts["index"]), Fraction(facts["pts"]), int(facts["width"]), int(facts["height"]), picture[1]
            )
            given += 1
            picture = None
    else:
        raise ValueError("the shard is damaged or cut short: it has no end")
    if picture is not None or header[0] != 0:
        raise ValueError("the shard is damaged or cut short")


def _sums_up(header: bytes) -> bool:
    stored = header[148:156].strip(b"\0 ")
    return stored.isdigit() and int(stored, 8) == sum(header) - sum(header[148:156]) + 8 * 0x20


def decode_jpegs(files: Sequence[bytes], *, device: str = "cuda", max_pixels: int = _MOST_PIXELS) -> list[Tensor]:
    """Decode JPEG files in one batch.

    Args:
        files: each one whole JPEG file.
        device: where to; "cpu" decodes there.
        max_pixels: the most that one may declare, width × height; checked before the device sees it.

    Returns:
        uint8 (3, H, W) each, RGB.

    Raises:
        ValueError: a file is no JPEG, is damaged, or declares too many pixels.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    for file in files:
        height, width = jpeg_size(file)
        if not 0 < height * width <= max_pixels:
            raise ValueError(
                f"the JPEG file declares {width}×{height}, {width * height:,} pixels; allowed is 1 to {max_pixels:,}"
            )
    raw = [torch.from_numpy(np.frombuffer(file, np.uint8).copy()) for file in files]
    try:
        pictures = list(decode_jpeg(raw, mode=ImageReadMode.RGB, device=device))
        if pictures and pictures[0].is_cuda:
            torch.cuda.current_stream(pictures[0].device).synchronize()  # whoever reads them does so on another stream
        return pictures
    except RuntimeError as error:
        if "CUDA error" in str(error):
            raise
        raise ValueError("a picture of the batch is no JPEG or is damaged") from None


def shard_items(shard: bytes, *, device: str = "cuda", batch: int = 32) -> Iterator[list[Item]]:
    """A shard's frames, decoded, a batch at once, as `stream.detect_streams` takes them.

    Raises:
        ValueError: as `shard_frames` and `decode_jpegs`; a picture of another size than the shard says.
    """
    frames = shard_frames(shard)
    while chunk := list(islice(frames, batch)):
        items = []
        for frame, picture in zip(chunk, decode_jpegs([frame.jpeg for frame in chunk], device=device), strict=True):
            if tuple(picture.shape) != (3, frame.height, frame.width):
                raise ValueError(
                    f"frame {frame.index} holds a picture of shape {tuple(picture.shape)}; "
                    f"expected (3, {frame.height}, {frame.width})"
                )
            items.append(Item(frame.index, frame.pts_s, picture))
        yield items


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
