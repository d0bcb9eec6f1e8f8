"""A small MP4 writer: one H.264 track, faststart, exact timing, and nothing else in the file.

Why our own: the output must hold several parameter sets in one sample description, reuse the source's dts slots and
carry no metadata at all; a general muxer decides all three by itself. Source: ISO/IEC 14496-12 and 14496-15.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

IDENTITY_MATRIX = (65536, 0, 0, 0, 65536, 0, 0, 0, 1073741824)


@dataclass(frozen=True)
class VideoFormat:
    """What the sample description says about the pictures.

    Attributes:
        width, height: coded size in pixels (before rotation).
        timescale: ticks a second of every time below.
        matrix: display matrix, nine 16.16 / 2.30 numbers as in `tkhd`.
        aspect: sample aspect ratio, or None.
        colour: (primaries, transfer, matrix, full range) as in ISO/IEC 23091-2, or None.
    """

    width: int
    height: int
    timescale: int
    matrix: tuple[int, ...] = IDENTITY_MATRIX
    aspect: tuple[int, int] | None = None
    colour: tuple[int, int, int, bool] | None = None


@dataclass
class Mp4Writer:
    """Samples go to a temporary file beside the destination; `finish` writes the real one.

    Args:
        destination: written only by `finish`.
        video: see `VideoFormat`.
    """

    destination: Path
    video: VideoFormat
    sizes: array[int] = field(default_factory=lambda: array("I"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    pts: array[int] = field(default_factory=lambda: array("q"))
    syncs: array[int] = field(default_factory=lambda: array("I"))
    _file: BinaryIO | None = None

    @property
    def samples_path(self) -> Path:
        return self.destination.with_name(self.destination.name + ".samples")

    def add(self, nals: Iterable[bytes], *, dts: int, pts: int, sync: bool) -> None:
        """Append one access unit (NAL units without start codes). dts must rise; pts must not precede dts."""
        if self.dts and dts <= self.dts[-1]:
            raise ValueError(f"dts {dts} does not follow {self.dts[-1]}; allowed are rising decode times")
        if self._file is None:
            self._file = open(self.samples_path, "xb")  # noqa: SIM115 - closed by finish or discard
        size = 0
        for nal in nals:
            self._file.write(struct.pack(">I", len(nal)))
            self._file.write(nal)
            size += 4 + len(nal)
        if not size:
            raise ValueError("a sample holds no NAL unit; allowed is one access unit with at least one slice")
        self.sizes.append(size)
        self.dts.append(dts)
        self.pts.append(pts)
        if sync:
            self.syncs.append(len(self.dts))

    def discard(self) -> None:
        """Remove what was written so far."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.samples_path.unlink(missing_ok=True)

    def finish(self, avcc: bytes, *, last_duration: int) -> None:
        """Write the file: ftyp, moov, mdat. `last_duration` is the last frame's, in ticks."""
        if self._file is None or not self.sizes:
            raise ValueError("no sample was added; an MP4 needs at least one")
        self._file.flush()
        data_size = self._file.tell()
        ftyp = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso2avc1mp41")
        # Offsets in stco/co64 depend on moov's size, which does not depend on their values.
        moov_size = len(self._moov(avcc, 0, last_duration))
        header = 16 if data_size + 16 > 0xFFFFFFFF else 8
        moov = self._moov(avcc, len(ftyp) + moov_size + header, last_duration)
        with open(self.destination, "xb") as out:
            out.write(ftyp)
            out.write(moov)
            if header == 16:
                out.write(struct.pack(">I4sQ", 1, b"mdat", data_size + 16))
            else:
                out.write(struct.pack(">I4s", data_size + 8, b"mdat"))
            with open(self.samples_path, "rb") as samples:
                while chunk := samples.read(1 << 20):
                    out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        self.discard()

    def _moov(self, avcc: bytes, offset: int, last_duration: int) -> bytes:
        v = self.video
        first_dts = self.dts[0]
        first_pts = min(self.pts)
        media_duration = self.dts[-1] + last_duration - first_dts
        presented = max(self.pts) + last_duration - first_pts
        lead = max(0, first_pts)
        width, height = v.width, v.height
        shown_width = width if v.aspect is None else max(1, round(width * v.aspect[0] / v.aspect[1]))
        edits = [(presented, first_pts - first_dts)]
        if lead:
            edits.insert(0, (lead, -1))
        elst = b"".join(struct.pack(">QqHH", duration, start, 1, 0) for duration, start in edits)
        tkhd = (
            struct.pack(">QQIIQ", 0, 0, 1, 0, lead + presented)
            + bytes(8)
            + struct.pack(">hhhH", 0, 0, 0, 0)
            + struct.pack(">9i", *v.matrix)
            + struct.pack(">II", (shown_width << 16) & 0xFFFFFFFF, height << 16)
        )
        mvhd = (
            struct.pack(">QQIQ", 0, 0, v.timescale, lead + presented)
            + struct.pack(">IH", 0x10000, 0x100)
            + bytes(10)
            + struct.pack(">9i", *IDENTITY_MATRIX)
            + bytes(24)
            + struct.pack(">I", 2)
        )
        mdhd = struct.pack(">QQIQ", 0, 0, v.timescale, media_duration) + struct.pack(">HH", 0x55C4, 0)
        entry = bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HH", width, height)
        entry += struct.pack(">IIIH", 0x480000, 0x480000, 0, 1) + bytes(32) + struct.pack(">Hh", 24, -1)
        extra = _box(b"avcC", avcc)
        if v.colour is not None:
            primaries, transfer, matrix, full = v.colour
            extra += _box(b"colr", b"nclx", struct.pack(">HHHB", primaries, transfer, matrix, 0x80 if full else 0))
        if v.aspect is not None:
            extra += _box(b"pasp", struct.pack(">II", *v.aspect))
        stsd = _full(b"stsd", 0, 0, struct.pack(">I", 1), _box(b"avc1", entry, extra))
        durations = [b - a for a, b in zip(self.dts, self.dts[1:], strict=False)] + [last_duration]
        offsets = [p - d for p, d in zip(self.pts, self.dts, strict=True)]
        stts = _full(b"stts", 0, 0, _runs(durations, ">II"))
        ctts = _full(b"ctts", 1 if min(offsets) < 0 else 0, 0, _runs(offsets, ">Ii")) if any(offsets) else b""
        stss = _full(b"stss", 0, 0, struct.pack(">I", len(self.syncs)), _big_endian(self.syncs))
        stsc = _full(b"stsc", 0, 0, struct.pack(">IIII", 1, 1, len(self.sizes), 1))
        stsz = _full(b"stsz", 0, 0, struct.pack(">II", 0, len(self.sizes)), _big_endian(self.sizes))
        co64 = _full(b"co64", 0, 0, struct.pack(">IQ", 1, offset))
        dref = _full(b"dref", 0, 0, struct.pack(">I", 1), _full(b"url ", 0, 1))
        minf = _box(
            b"minf",
            _full(b"vmhd", 0, 1, bytes(8)),
            _box(b"dinf", dref),
            _box(b"stbl", stsd, stts, stss, ctts, stsc, stsz, co64),
        )
        hdlr = _full(b"hdlr", 0, 0, bytes(4), b"vide", bytes(12), b"\0")
        mdia = _box(b"mdia", _full(b"mdhd", 1, 0, mdhd), hdlr, minf)
        edts = _box(b"edts", _full(b"elst", 1, 0, struct.pack(">I", len(edits)), elst))
        return _box(b"moov", _full(b"mvhd", 1, 0, mvhd), _box(b"trak", _full(b"tkhd", 1, 3, tkhd), edts, mdia))


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def _full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def _runs(values: list[int], layout: str) -> bytes:
    runs: list[list[int]] = []
    for value in values:
        if runs and runs[-1][1] == value:
            runs[-1][0] += 1
        else:
            runs.append([1, value])
    return struct.pack(">I", len(runs)) + b"".join(struct.pack(layout, *run) for run in runs)


def _big_endian(values: array[int]) -> bytes:
    copy = array("I", values)
    copy.byteswap()
    return copy.tobytes()
