"""What the outermost boxes of a file tell before any decoder sees it: cut short, encrypted, a still picture.

FFmpeg decodes encrypted samples to noise, and reads a file that was cut short as a shorter clip, without a word; the
structure says so. Reads a few headers only, seeks over the rest, and trusts no length: each is held against the
file's own size, and the number of boxes looked at is bounded.

Sources: ISO/IEC 14496-12 (boxes), its §8.12 and 23001-7 (`encv`), RFC 8794 and 9559 (EBML, Matroska), RIFF (1991).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

_MAX_BOXES = 100_000
_MAX_INDEX_BYTES = 64 * 2**20
_ISO_TOP = {b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"styp", b"sidx", b"uuid", b"meta", b"mfra"}
_ISO_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}
_STILL_BRANDS = {b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1"}
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = 0x18538067


@dataclass(frozen=True)
class ContainerStructure:
    """What the file's structure says of it.

    `sample_descriptions` is the largest number of them that a track of an ISO file has; 0 where its index is too
    large to be looked at, and in other formats.
    """

    truncated: bool = False
    encrypted: bool = False
    still_picture: bool = False
    sample_descriptions: int = 0


def inspect_structure(file: BinaryIO, size: int) -> ContainerStructure:
    """Read the structure of an ISO (MP4, MOV), Matroska or RIFF (AVI) file; of others nothing is known.

    Args:
        file: opened for reading bytes, seekable.
        size: its length in bytes.
    """
    file.seek(0)
    head = file.read(12)
    if head[4:8] in _ISO_TOP:
        return _inspect_iso(file, size)
    if head[:4] == _EBML:
        return ContainerStructure(truncated=_matroska_is_cut(file, size))
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        (declared,) = struct.unpack("<I", head[4:8])
        # 0 and 2³²−1 are what a recorder leaves that never came to close its file
        return ContainerStructure(truncated=declared not in (0, 0xFFFFFFFF) and declared + 8 > size)
    return ContainerStructure()


def _inspect_iso(file: BinaryIO, size: int) -> ContainerStructure:
    position, truncated, encrypted, still = 0, False, False, False
    seen: set[bytes] = set()
    descriptions = 0
    for _ in range(_MAX_BOXES):
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            break
        length, kind = struct.unpack(">I4s", header[:8])
        header_bytes = 8
        if length == 1 and len(header) == 16:
            (length,) = struct.unpack(">Q", header[8:])
            header_bytes = 16
        elif length == 0:
            length = size - position
        if length < header_bytes or kind not in _ISO_TOP:
            break  # no box: trailing bytes, or a file that lies; the demuxer has the last word
        seen.add(kind)
        if position + length > size:
            truncated = kind in {b"mdat", b"moov", b"moof"}
            break
        if kind == b"ftyp":
            still = header[8:12] in _STILL_BRANDS
        elif kind == b"moov" and length <= _MAX_INDEX_BYTES:
            file.seek(position + header_bytes)
            encrypted, descriptions = _descriptions(memoryview(file.read(length - header_bytes)))
        position += length
    # an index is written last by most recorders: media without one is a recording that was cut off
    truncated = truncated or (b"mdat" in seen and not seen & {b"moov", b"moof", b"meta"})
    return ContainerStructure(truncated, encrypted, still, descriptions)


def _descriptions(boxes: memoryview) -> tuple[bool, int]:
    """Whether a sample description within is of an encrypted video track, and the most that one track has."""
    todo, looked_at = [boxes], 0
    encrypted, most = False, 0
    while todo:
        part = todo.pop()
        position = 0
        while position + 8 <= len(part) and looked_at < _MAX_BOXES:
            looked_at += 1
            length, kind = struct.unpack(">I4s", part[position : position + 8])
            if length < 8:
                break
            body = part[position + 8 : position + length]
            if kind in _ISO_PARENTS:
                todo.append(body)
            elif kind == b"stsd" and len(body) >= 8:
                most = max(most, int.from_bytes(body[4:8], "big"))
                todo.append(body[8:])
            encrypted |= kind == b"encv"
            position += length
    return encrypted, most


def _matroska_is_cut(file: BinaryIO, size: int) -> bool:
    """Whether the first segment declares more bytes than there are; one of unknown length (a live one) is not cut."""
    file.seek(4)
    header_length = _ebml_number(file)
    if header_length is None:
        return False
    file.seek(header_length, 1)
    if int.from_bytes(file.read(4), "big") != _SEGMENT:
        return False
    length = _ebml_number(file)
    return length is not None and file.tell() + length > size


def _ebml_number(file: BinaryIO) -> int | None:
    """The next variable-length number; None where it is absent or stands for 'unknown'."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    extra = 8 - first[0].bit_length()
    rest = file.read(extra)
    if len(rest) < extra:
        return None
    bits = 7 * (extra + 1)
    value = int.from_bytes(first + rest, "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
