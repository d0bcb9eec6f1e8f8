"""H.264 bitstreams: NAL units, parameter sets, avcC. Source: ITU-T H.264 (08/2021), sections 7.3 and annex E."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

SLICE: Final = 1
IDR: Final = 5
SEI: Final = 6
SPS: Final = 7
PPS: Final = 8
AUD: Final = 9
VCL: Final = (SLICE, IDR)
_START = re.compile(rb"\x00\x00\x01")
_HIGH_PROFILES: Final = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)


def nal_type(nal: bytes) -> int:
    """The NAL unit's type, 0..31."""
    return nal[0] & 31


def split_annexb(data: bytes) -> list[bytes]:
    """NAL units of a byte stream with start codes, without them and without trailing zeros."""
    starts = [m.end() for m in _START.finditer(data)]
    ends = [s - 3 for s in starts[1:]] + [len(data)] * bool(starts)
    return [nal for s, e in zip(starts, ends, strict=True) if (nal := data[s:e].rstrip(b"\0"))]


def split_lengths(data: bytes, length_size: int) -> list[bytes]:
    """NAL units of an MP4 sample, each behind its length. ValueError where the lengths do not add up."""
    nals, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + length_size], "big")
        at += length_size
        if size == 0:
            continue
        if at + size > len(data):
            raise ValueError("a NAL unit ends after its sample")
        nals.append(data[at : at + size])
        at += size
    return nals


@dataclass(frozen=True)
class AvcConfig:
    """An AVCDecoderConfigurationRecord."""

    profile: int
    compatibility: int
    level: int
    length_size: int
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]

    @classmethod
    def parse(cls, data: bytes) -> AvcConfig:
        """From avcC, or from parameter sets behind start codes. ValueError where it is neither."""
        if len(data) < 7:
            raise ValueError("no avcC: fewer than 7 bytes")
        if data[0] != 1:
            nals = split_annexb(data)
            sps = tuple(n for n in nals if nal_type(n) == SPS)
            pps = tuple(n for n in nals if nal_type(n) == PPS)
            if not sps or not pps or len(sps[0]) < 4:
                raise ValueError("no parameter sets in the codec's configuration")
            return cls(sps[0][1], sps[0][2], sps[0][3], 0, sps, pps)
        at = 5
        sets: list[list[bytes]] = []
        for mask in (31, 255):
            if at >= len(data):
                raise ValueError("avcC ends early")
            count = data[at] & mask
            at += 1
            found = []
            for _ in range(count):
                size = int.from_bytes(data[at : at + 2], "big")
                if size == 0 or at + 2 + size > len(data):
                    raise ValueError("avcC ends early")
                found.append(data[at + 2 : at + 2 + size])
                at += 2 + size
            sets.append(found)
        return cls(data[1], data[2], data[3], (data[4] & 3) + 1, tuple(sets[0]), tuple(sets[1]))

    def dump(self) -> bytes:
        """As avcC with 4-byte lengths; high profiles get the chroma and depth bytes of their first SPS."""
        out = bytes([1, self.profile, self.compatibility, self.level, 0xFF, 0xE0 | len(self.sps)])
        for sps in self.sps:
            out += struct.pack(">H", len(sps)) + sps
        out += bytes([len(self.pps)])
        for pps in self.pps:
            out += struct.pack(">H", len(pps)) + pps
        if self.profile in (100, 110, 122, 144):
            first = Sps.parse(self.sps[0])
            out += bytes([0xFC | first.chroma, 0xF8 | (first.depth - 8), 0xF8 | (first.depth_chroma - 8), 0])
        return out


class BitReader:
    """Reads bits and Exp-Golomb codes of a NAL unit's payload, emulation prevention taken out."""

    def __init__(self, payload: bytes) -> None:
        self._data = payload.replace(b"\x00\x00\x03", b"\x00\x00")
        self._at = 0

    def bits(self, count: int) -> int:
        value = 0
        for _ in range(count):
            byte = self._at >> 3
            if byte >= len(self._data):
                raise ValueError("a parameter set ends early")
            value = value << 1 | (self._data[byte] >> (7 - (self._at & 7))) & 1
            self._at += 1
        return value

    def ue(self) -> int:
        zeros = 0
        while not self.bits(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("an Exp-Golomb code is too long")
        return (1 << zeros) - 1 + (self.bits(zeros) if zeros else 0)

    def se(self) -> int:
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)


@dataclass(frozen=True)
class Sps:
    """What we need of a sequence parameter set."""

    id: int
    profile: int
    level: int
    chroma: int
    depth: int
    depth_chroma: int
    ref_frames: int
    width_mbs: int
    height_mbs: int
    crop: tuple[int, int, int, int]
    frame_mbs_only: bool
    gaps_allowed: bool
    colour: tuple[int, int, int, int] | None
    reorder: int | None
    bufferings: int | None

    @classmethod
    def parse(cls, nal: bytes) -> Sps:
        """ValueError where it is no SPS or ends early."""
        if nal_type(nal) != SPS:
            raise ValueError("not an SPS")
        r = BitReader(nal[1:])
        profile = r.bits(8)
        r.bits(8)
        level = r.bits(8)
        sps_id = r.ue()
        chroma, depth, depth_chroma = 1, 8, 8
        if profile in _HIGH_PROFILES:
            chroma = r.ue()
            if chroma == 3:
                r.bits(1)
            depth, depth_chroma = 8 + r.ue(), 8 + r.ue()
            r.bits(1)
            if r.bits(1):
                for i in range(8 if chroma != 3 else 12):
                    if r.bits(1):
                        _skip_scaling_list(r, 16 if i < 6 else 64)
        r.ue()
        order = r.ue()
        if order == 0:
            r.ue()
        elif order == 1:
            r.bits(1)
            r.se()
            r.se()
            for _ in range(min(r.ue(), 256)):
                r.se()
        ref_frames = r.ue()
        gaps = bool(r.bits(1))
        width_mbs, height_mbs = r.ue() + 1, r.ue() + 1
        frame_only = bool(r.bits(1))
        if not frame_only:
            r.bits(1)
        r.bits(1)
        crop = (r.ue(), r.ue(), r.ue(), r.ue()) if r.bits(1) else (0, 0, 0, 0)
        colour: tuple[int, int, int, int] | None = None
        reorder = bufferings = None
        if r.bits(1):
            colour, reorder, bufferings = _vui(r)
        return cls(
            sps_id, profile, level, chroma, depth, depth_chroma, ref_frames, width_mbs, height_mbs, crop, frame_only,
            gaps, colour, reorder, bufferings,
        )  # fmt: skip


def pps_ids(nal: bytes) -> tuple[int, int]:
    """(pic_parameter_set_id, seq_parameter_set_id) of a PPS."""
    if nal_type(nal) != PPS:
        raise ValueError("not a PPS")
    r = BitReader(nal[1:])
    return r.ue(), r.ue()


def slice_pps_id(nal: bytes) -> tuple[int, int, int]:
    """(first_mb_in_slice, slice_type modulo 5, pic_parameter_set_id) of a slice."""
    r = BitReader(nal[1:40])
    return r.ue(), r.ue() % 5, r.ue()


def _skip_scaling_list(r: BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + r.se()) % 256
        last = following or last


def _vui(r: BitReader) -> tuple[tuple[int, int, int, int] | None, int | None, int | None]:
    if r.bits(1) and r.bits(8) == 255:
        r.bits(32)
    if r.bits(1):
        r.bits(1)
    colour: tuple[int, int, int, int] | None = None
    if r.bits(1):
        r.bits(3)
        full = r.bits(1)
        colour = (r.bits(8), r.bits(8), r.bits(8), full) if r.bits(1) else (2, 2, 2, full)
    if r.bits(1):
        r.ue()
        r.ue()
    if r.bits(1):
        r.bits(32)
        r.bits(32)
        r.bits(1)
    hrd = 0
    for _ in range(2):
        if r.bits(1):
            hrd = 1
            count = r.ue() + 1
            r.bits(8)
            for _ in range(min(count, 32)):
                r.ue()
                r.ue()
                r.bits(1)
            r.bits(20)
    if hrd:
        r.bits(1)
    r.bits(1)
    reorder = buffering = None
    if r.bits(1):
        r.bits(1)
        for _ in range(4):
            r.ue()
        reorder, buffering = r.ue(), r.ue()
    return colour, reorder, buffering
