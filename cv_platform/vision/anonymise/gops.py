"""Which groups of pictures of an H.264 clip may be copied bit by bit; any doubt means that none is.

A group may be copied where it starts with an IDR (by its NAL units, not by the container's flag), holds nothing but
slices of one generation of parameter sets and one sample description, shows nothing that is hidden, and both
detectors saw nothing in it, not even faintly: the first on each of its frames, the second on its IDR and at least
once a second.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import av
import av.error

from cv_platform.vision.anonymise import h264
from cv_platform.vision.anonymise.sightings import Scan
from cv_platform.vision.anonymise.source import FrameReader, Geometry
from cv_platform.vision.video.limits import ClipLimits, ClipRejected
from cv_platform.vision.video.probe import open_clip

_DROPPED = (h264.SEI, h264.AUD, 10, 11, 12)
"""NAL units that do not matter to the pictures: SEI, delimiter, ends of sequence and stream, filler."""
_MOST_REORDER = 2
PROFILES = {66: "baseline", 77: "main", 100: "high"}


@dataclass(frozen=True)
class Gop:
    """Frames `first` to `last` in order of display; packets `start` to `end - 1` in order of decoding."""

    first: int
    last: int
    start: int
    end: int


@dataclass
class GopMap:
    """An H.264 clip that can be cut between its groups.

    Attributes:
        config: its parameter sets.
        sps: the one SPS, parsed.
        gops: all of them, in order.
        pts, dts: of each packet, in ticks, in order of decoding.
    """

    config: h264.AvcConfig
    sps: h264.Sps
    gops: list[Gop] = field(default_factory=list)
    pts: list[int] = field(default_factory=list)
    dts: list[int] = field(default_factory=list)


def map_gops(path: Path, reader: FrameReader, found: Scan, limits: ClipLimits) -> GopMap | None:
    """The clip's groups, or None where anything about it gives reason for doubt.

    Args:
        path: the clip.
        reader: the one that scanned it.
        found: the scan.
        limits: for reading.
    """
    geometry = reader.geometry
    if geometry is None or reader.codec != "h264" or not geometry.exact or not reader.packets.complete:
        return None
    if reader.damaged or reader.left_out or reader.resized:
        return None
    try:
        return _map(path, geometry, found, limits)
    except (ValueError, IndexError, av.error.FFmpegError, ClipRejected):
        return None


def _map(path: Path, geometry: Geometry, found: Scan, limits: ClipLimits) -> GopMap | None:
    with open_clip(path, limits=limits) as clip:
        config = h264.AvcConfig.parse(bytes(clip.stream.codec_context.extradata or b""))
        time_base = clip.stream.time_base
        if time_base is None or time_base.denominator != geometry.timescale:
            return None
        iso = clip.container.format.name.startswith("mov")
        if clip.structure.sample_descriptions != (1 if iso else 0):
            return None
        if len(config.sps) != 1 or not config.pps:
            return None
        if len({h264.pps_ids(pps)[0] for pps in config.pps}) != len(config.pps):
            return None  # of two under one id, which holds depends on where a player starts
        sps = h264.Sps.parse(config.sps[0])
        if not _supported(sps, config, geometry):
            return None
        groups = GopMap(config, sps)
        order = {tick: index for index, tick in enumerate(found.ticks)}
        starts: list[int] = []
        pictures: list[int] = []
        for packet in clip.packets():
            if not packet.size:
                continue
            nals = slices_of(bytes(packet), config)
            if nals is None or packet.pts is None or packet.dts is None or packet.is_corrupt or packet.is_discard:
                return None
            if packet.has_sidedata("new_extradata"):
                return None  # another sample description, or other parameter sets
            if h264.nal_type(nals[0]) == h264.IDR:
                starts.append(len(groups.pts))
            elif not starts:
                return None
            tick = packet.pts * time_base.numerator
            if tick not in order:
                return None
            pictures.append(order[tick])
            groups.pts.append(tick)
            groups.dts.append(packet.dts * time_base.numerator)
    if sorted(pictures) != list(range(found.frames)) or groups.dts != sorted(set(groups.dts)):
        return None
    if any(d > p for d, p in zip(groups.dts, groups.pts, strict=True)):
        return None
    for start, end in zip(starts, [*starts[1:], len(pictures)], strict=True):
        shown = pictures[start:end]
        # closed: what is decoded in a group is shown in one piece, and the IDR first
        if shown[0] != min(shown) or max(shown) - min(shown) + 1 != len(shown):
            return None
        groups.gops.append(Gop(min(shown), max(shown), start, end))
    return groups


def _supported(sps: h264.Sps, config: h264.AvcConfig, geometry: Geometry) -> bool:
    """Whether x264 can make groups that stand beside this clip's: profile, chroma, depth, reordering, size."""
    width = sps.width_mbs * 16 - 2 * (sps.crop[0] + sps.crop[1])
    height = sps.height_mbs * 16 - 2 * (sps.crop[2] + sps.crop[3])
    return (
        config.profile in PROFILES
        and (sps.chroma, sps.depth, sps.depth_chroma) == (1, 8, 8)
        and sps.frame_mbs_only
        and not sps.gaps_allowed
        and (width, height) == (geometry.width, geometry.height)
        # Only the encoder's padding is cropped: nobody looked at what lies beyond, and a player may show it.
        and (sps.width_mbs, sps.height_mbs) == (-(-width // 16), -(-height // 16))
        and reorder_depth(sps) <= _MOST_REORDER
        and all(h264.pps_ids(pps)[1] == sps.id for pps in config.pps)
    )


def reorder_depth(sps: h264.Sps) -> int:
    """How many pictures may be held back before one is shown; unknown counts as more than we take."""
    if sps.reorder is not None:
        return sps.reorder
    return 0 if sps.profile == 66 else _MOST_REORDER


def slices_of(sample: bytes, config: h264.AvcConfig) -> list[bytes] | None:
    """The slices of a sample; None where it holds anything besides that matters, such as other parameter sets."""
    nals = h264.split_lengths(sample, config.length_size) if config.length_size else h264.split_annexb(sample)
    slices = []
    for nal in nals:
        kind = h264.nal_type(nal)
        if kind in h264.VCL:
            slices.append(nal)
        elif kind == h264.SPS or kind == h264.PPS:
            if nal not in (*config.sps, *config.pps):
                return None
        elif kind not in _DROPPED:
            return None
    kinds = {h264.nal_type(nal) for nal in slices}
    return slices if len(kinds) == 1 else None


def clean_gops(groups: GopMap, found: Scan, touched: set[int], *, timescale: int, verified: bool) -> list[bool]:
    """Which groups may be copied.

    Args:
        groups: of the clip.
        found: what both detectors saw, down to their low thresholds.
        touched: frames in which something is hidden.
        timescale: ticks a second of the scan.
        verified: whether a second detector was used at all; without one nothing is copied.
    """
    if not verified:
        return [False] * len(groups.gops)
    dirty = touched | {f for seen in (found.detected, found.verified) for f, s in seen.items() if len(s)}
    looked, ticks = sorted(found.verified), [*found.ticks, found.ticks[-1]]

    def close(one: int, other: int) -> bool:
        """By the frames' own times: what a container declares as its rate may be wrong."""
        return other == one + 1 or ticks[other] - ticks[one] <= timescale

    clean = []
    for gop in groups.gops:
        inside = looked[bisect_left(looked, gop.first) : bisect_right(looked, gop.last)]
        marks = [*inside, gop.last + 1]
        often = gop.first in found.verified and all(close(a, b) for a, b in pairwise(marks))
        detected = all(f in found.detected for f in range(gop.first, gop.last + 1))
        clean.append(often and detected and not any(f in dirty for f in range(gop.first, gop.last + 1)))
    return clean
