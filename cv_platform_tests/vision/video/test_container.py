from __future__ import annotations

import io
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_platform.vision.video.container import ContainerStructure, inspect_structure


def box(kind: bytes, content: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + len(content) if length is None else length, kind) + content


def sample_description(entry: bytes) -> bytes:
    stsd = box(b"stsd", struct.pack(">II", 0, 1) + box(entry, b"\0" * 78))
    return box(b"moov", box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", stsd)))))


FTYP = box(b"ftyp", b"isom\0\0\0\0")
EBML = b"\x1a\x45\xdf\xa3\x83abc"
SEGMENT = b"\x18\x53\x80\x67"
SOUND = ContainerStructure()

CASES = {
    "whole mp4": (FTYP + sample_description(b"avc1") + box(b"mdat", b"x" * 50), SOUND),
    "media cut off": (
        FTYP + sample_description(b"avc1") + box(b"mdat", b"x" * 50)[:-1],
        ContainerStructure(truncated=True),
    ),
    "index cut off": (
        FTYP + box(b"mdat", b"x" * 50) + sample_description(b"avc1")[:-5],
        ContainerStructure(truncated=True),
    ),
    "index never written": (FTYP + box(b"mdat", b"x" * 50), ContainerStructure(truncated=True)),
    "media to the end of the file": (FTYP + sample_description(b"avc1") + box(b"mdat", b"x", length=0), SOUND),
    "64-bit length": (FTYP + sample_description(b"avc1") + struct.pack(">I4sQ", 1, b"mdat", 20) + b"1234", SOUND),
    "64-bit length that lies": (
        FTYP + sample_description(b"avc1") + struct.pack(">I4sQ", 1, b"mdat", 2**60) + b"1234",
        ContainerStructure(truncated=True),
    ),
    "bytes after the end": (FTYP + sample_description(b"avc1") + box(b"mdat", b"x") + b"\xff" * 40, SOUND),
    "box that never advances": (FTYP + sample_description(b"avc1") + box(b"free", length=1) + b"\0" * 8, SOUND),
    "encrypted video": (FTYP + sample_description(b"encv") + box(b"mdat", b"x"), ContainerStructure(encrypted=True)),
    "encrypted sound only": (FTYP + sample_description(b"enca") + box(b"mdat", b"x"), SOUND),
    "still picture": (box(b"ftyp", b"avif\0\0\0\0") + box(b"meta", b"x" * 9), ContainerStructure(still_picture=True)),
    "whole avi": (b"RIFF" + struct.pack("<I", 8) + b"AVI abcd", SOUND),
    "avi cut off": (b"RIFF" + struct.pack("<I", 9) + b"AVI abcd", ContainerStructure(truncated=True)),
    "avi never closed": (b"RIFF" + struct.pack("<I", 0) + b"AVI abcd", SOUND),
    "whole matroska": (EBML + SEGMENT + b"\x84abcd", SOUND),
    "matroska cut off": (EBML + SEGMENT + b"\x85abcd", ContainerStructure(truncated=True)),
    "live matroska": (EBML + SEGMENT + b"\xffabcd", SOUND),
    "live matroska, eight bytes": (EBML + SEGMENT + b"\x01" + b"\xff" * 7 + b"abcd", SOUND),
    "neither": (b"GIF89a......", SOUND),
    "nothing": (b"", SOUND),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_structure_tells(name) -> None:
    content, expected = CASES[name]
    described = 0 if name == "index cut off" else content.count(b"stsd")
    assert inspect_structure(io.BytesIO(content), len(content)) == replace(expected, sample_descriptions=described)


def test_sample_descriptions_are_counted() -> None:
    stsd = box(b"stsd", struct.pack(">II", 0, 2) + box(b"avc1", b"\0" * 78) * 2)
    content = FTYP + box(b"moov", box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", stsd))))) + box(b"mdat", b"x")
    assert inspect_structure(io.BytesIO(content), len(content)).sample_descriptions == 2


@given(
    start=st.sampled_from([b"", FTYP, EBML, EBML + SEGMENT, b"RIFF", FTYP + struct.pack(">I4s", 64, b"moov")]),
    rest=st.binary(max_size=300),
)
def test_no_bytes_make_it_fail_or_run_on(start, rest) -> None:
    content = start + rest
    inspect_structure(io.BytesIO(content), len(content))


def test_boxes_nested_without_end_are_given_up_on() -> None:
    content = b""
    for _ in range(20_000):
        content = struct.pack(">I4s", 8, b"moov") + content
    inspect_structure(io.BytesIO(FTYP + content), len(FTYP + content))
