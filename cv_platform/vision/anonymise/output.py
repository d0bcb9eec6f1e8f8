"""The second pass: hide, encode, write; and the third: read what was written and hold it against what was meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from cv_platform.vision.anonymise.encoding import AccessUnit, Encoder
from cv_platform.vision.anonymise.failures import AnonymisationFailed
from cv_platform.vision.anonymise.flow import Consumer, Prefetched
from cv_platform.vision.anonymise.hiding import Hider, Plane, ZoneCheck, planes
from cv_platform.vision.anonymise.mp4 import Mp4Writer, VideoFormat
from cv_platform.vision.anonymise.policy import AnonymisePolicy
from cv_platform.vision.anonymise.regions import HidingPlan, Region
from cv_platform.vision.anonymise.sightings import Scan
from cv_platform.vision.anonymise.source import ClipFrame, FrameReader, Geometry
from cv_platform.vision.video.limits import ClipLimits

_CHECK_THREADS = 2
_DEPTH = 8
_CELLS = (4, 4)
_TOLERANCE = 14.0
_RINGING_PX = 8
_LEAST_CORE_PX = 8
_USUAL_CRF = 23
_CELL_TOLERANCE = 14.0
_MORE_DETAIL = 8.0
_LEAST_CELL_PX = 8.0
_PLAIN_CELL_TOLERANCE = 5.0
_MORE_DETAIL_THAN_NONE = 1.0
_FINE_CELLS = (8, 8)
_LEAST_DIFFERENCE = 2.0
_HIDDEN_SHARE = 0.5
_LEAST_COLOUR_DIFFERENCE = 4.0
_HIDDEN_COLOUR_SHARE = 0.35


@dataclass(frozen=True, eq=False)
class Signature:
    """How a hidden region looks: its luma in 4×4 cells, each plane in 8×8.

    Attributes:
        coarse: level of each, uint8.
        levels, detail: the same, and the deviation within each, of what is no nearer to the region's edges than a block
            of the codec's reaches; None in a small region.
        cell_px: shorter side of such a cell.
        fine: levels of 8×8 cells of each plane, uint8 (3, 8, 8).
        bare: what those were before the region was hidden; None where it is not known.
    """

    coarse: Plane
    fine: Plane
    levels: npt.NDArray[np.float16] | None
    detail: npt.NDArray[np.float16] | None
    cell_px: float = 0.0
    bare: Plane | None = None


@dataclass
class WrittenClip:
    """What was written, for the check.

    Attributes:
        ticks: of each frame.
        signatures: by frame, of each hidden region.
        copied: first and last frame of each group that was copied.
        gops_copied, gops_encoded: groups of pictures.
    """

    ticks: list[int] = field(default_factory=list)
    signatures: dict[int, list[tuple[Region, Signature]]] = field(default_factory=dict)
    copied: list[tuple[int, int]] = field(default_factory=list)
    gops_copied: int = 0
    gops_encoded: int = 0


def write_clip(
    reader: FrameReader,
    destination: Path,
    *,
    plan: HidingPlan,
    hider: Hider,
    found: Scan,
    policy: AnonymisePolicy,
    progress: Callable[[int], None] | None = None,
) -> WrittenClip:
    """Decode again, hide, encode all, write an MP4 without metadata.

    Raises:
        AnonymisationFailed: encoding failed, or the clip decodes to other frames than were scanned.
    """
    geometry = plan.geometry
    written = WrittenClip()
    writer = Mp4Writer(destination, video_format(geometry))

    def emit(unit: AccessUnit) -> None:
        nals, pts, dts, idr = unit
        writer.add(nals, pts=pts, dts=dts, sync=idr)
        written.gops_encoded += idr

    encoder = Encoder(geometry, policy, emit)

    def encode(frame: ClipFrame) -> None:
        encoder.add(frame.picture, frame.tick)

    try:
        with Prefetched(reader, depth=_DEPTH) as frames, Consumer(encode, depth=_DEPTH) as encoding:
            for frame in frames:
                check_same(frame, found)
                regions = plan.regions(frame.index)
                bare = fine_levels(frame.picture, regions)
                picture = hider.hide(frame.picture, regions)
                written.ticks.append(frame.tick)
                if regions:
                    written.signatures[frame.index] = signatures(picture, regions, bare)
                encoding.put(ClipFrame(frame.index, frame.tick, picture))
                if progress is not None:
                    progress(frame.index + 1)
        if len(written.ticks) != found.frames:
            raise AnonymisationFailed("unstable_decode")
        encoder.finish()
        writer.finish(encoder.config.dump(), last_duration=geometry.frame_ticks)
    except BaseException:
        writer.discard()
        raise
    return written


def check_output(
    path: Path,
    written: WrittenClip,
    found: Scan,
    *,
    timescale: int,
    crf: int,
    zones: ZoneCheck | None,
    source: FrameReader | None,
    limits: ClipLimits,
    should_stop: Callable[[], bool],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Decode the whole output: same frames at the same times, every hidden region hidden, copied frames identical.

    Args:
        path, written, found: what was written, and what was meant.
        timescale: ticks a second of `written`; the file may have others.
        crf: x264's, as it was written.
        zones: what is hidden in every frame, or None.
        source: a fresh reader of the clip, where groups were copied; else None.
        limits, should_stop, progress: as elsewhere.

    Raises:
        AnonymisationFailed: `proof_failed` where anything differs.
    """
    seen = 0
    copied = {f for first, last in written.copied for f in range(first, last + 1)}
    shift = min(0, written.ticks[0])  # an MP4 cannot start before zero
    reader = FrameReader(path, limits=limits, should_stop=should_stop, threads=_CHECK_THREADS)
    with (
        Prefetched(reader, depth=_DEPTH) as frames,
        Prefetched(source if source is not None and copied else [], depth=_DEPTH) as originals,
    ):
        for frame in frames:
            seen += 1
            assert reader.geometry is not None
            meant_tick = (
                (written.ticks[frame.index] - shift) * reader.geometry.timescale if seen <= found.frames else -1
            )
            if frame.tick * timescale != meant_tick:
                raise AnonymisationFailed("proof_failed", "the output's frames are not the clip's")
            ours = planes(frame.picture)
            original = next(originals) if copied else None
            if original is not None and frame.index in copied:
                theirs = planes(original.picture)
                if not all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)):
                    raise AnonymisationFailed("proof_failed", "a copied frame is not the clip's")
            if zones is not None and not zones.hidden(ours[0], _PLAIN_CELL_TOLERANCE * _coarser(crf)):
                raise AnonymisationFailed("proof_failed", "a zone that is always hidden is not")
            for region, meant in written.signatures.get(frame.index, ()):
                if not still_hidden(signature(ours, region), meant, crf=crf):
                    raise AnonymisationFailed("proof_failed")
            if progress is not None:
                progress(frame.index + 1)
    if seen != found.frames or reader.damaged:
        raise AnonymisationFailed("proof_failed", "the output does not decode to as many frames as the clip")


def check_same(frame: ClipFrame, found: Scan) -> None:
    """A clip that decodes differently the second time was not examined: refuse it."""
    if frame.index >= found.frames or frame.tick != found.ticks[frame.index]:
        raise AnonymisationFailed("unstable_decode")


def video_format(geometry: Geometry) -> VideoFormat:
    """The sample description for a clip of this geometry."""
    return VideoFormat(
        geometry.width, geometry.height, geometry.timescale, geometry.matrix, geometry.aspect, geometry.colour
    )


def fine_levels(picture: VideoFrame, regions: Sequence[Region]) -> list[Plane]:
    """Levels of 8×8 cells of each region and plane: to be asked before the picture is hidden."""
    return [_fine(planes(picture), region) for region in regions]


def signatures(picture: VideoFrame, regions: Sequence[Region], bare: Sequence[Plane]) -> list[tuple[Region, Signature]]:
    """How the hidden regions of a picture look, and looked before they were hidden (`fine_levels`)."""
    yuv = planes(picture)
    return [(r, replace(signature(yuv, r), bare=before)) for r, before in zip(regions, bare, strict=True)]


def _fine(yuv: tuple[Plane, Plane, Plane], r: Region) -> Plane:
    half = (slice(r.y1 // 2, r.y2 // 2), slice(r.x1 // 2, r.x2 // 2))
    parts = (yuv[0][r.y1 : r.y2, r.x1 : r.x2], yuv[1][half], yuv[2][half])
    cells = [cv2.resize(np.ascontiguousarray(part), _FINE_CELLS, interpolation=cv2.INTER_AREA) for part in parts]
    return np.asarray(np.stack(cells), np.uint8)


def signature(yuv: tuple[Plane, Plane, Plane], region: Region) -> Signature:
    """How the region looks now: survives encoding, does not survive a face left bare."""
    part = np.ascontiguousarray(yuv[0][region.y1 : region.y2, region.x1 : region.x2])
    coarse = np.asarray(cv2.resize(part, _CELLS, interpolation=cv2.INTER_AREA), np.uint8)
    fine = _fine(yuv, region)
    core = np.ascontiguousarray(part[_RINGING_PX:-_RINGING_PX, _RINGING_PX:-_RINGING_PX], np.float32)
    if min(core.shape) < _LEAST_CORE_PX:
        return Signature(coarse, fine, None, None)
    levels = cv2.resize(core, _CELLS, interpolation=cv2.INTER_AREA)
    squares = cv2.resize(core * core, _CELLS, interpolation=cv2.INTER_AREA)
    detail = np.sqrt(np.maximum(squares - levels * levels, 0))
    cell_px = min(core.shape) / _CELLS[0]
    return Signature(coarse, fine, levels.astype(np.float16), detail.astype(np.float16), cell_px)


def still_hidden(seen: Signature, meant: Signature, *, crf: int) -> bool:
    """Whether a region of the output looks as it was written, up to what encoding at this crf changes.

    On the whole its levels agree; away from its edges, over which the codec's blocks carry what lies around it, every
    cell's level does, and no cell shows detail that was not there: a dark face over black differs in little else.
    And in 8×8 cells it looks more like what was written than like what was there: a small region is all edges, and
    over a blurred one little else differs.
    """
    coarser = _coarser(crf)
    if float(np.abs(seen.coarse.astype(np.int16) - meant.coarse).mean()) > _TOLERANCE:
        return False
    if meant.bare is not None:
        light, colour = (_LEAST_DIFFERENCE, _HIDDEN_SHARE), (_LEAST_COLOUR_DIFFERENCE, _HIDDEN_COLOUR_SHARE)
        for plane, (least, share) in enumerate((light, colour, colour)):
            if not _is_hidden(seen.fine[plane], meant.fine[plane], meant.bare[plane], least * coarser, share):
                return False
    if seen.levels is None or seen.detail is None or meant.levels is None or meant.detail is None:
        return seen.levels is meant.levels
    plain = not meant.detail.any() and float(np.ptp(meant.levels)) == 0
    if not plain and meant.cell_px < _LEAST_CELL_PX:
        return True
    most_away = (_PLAIN_CELL_TOLERANCE if plain else _CELL_TOLERANCE) * coarser
    away = np.abs(seen.levels.astype(np.float32) - meant.levels)
    more = seen.detail.astype(np.float32) - meant.detail
    # motion carries a little of what is outside into a cell or two; a bare face shows in most
    everywhere = not plain or float(more.mean()) <= _MORE_DETAIL_THAN_NONE * coarser
    return bool((away <= most_away).all() and (more <= _MORE_DETAIL * coarser).all() and everywhere)


def _coarser(crf: int) -> float:
    """How much more encoding at this crf changes than at the usual one."""
    return float(2 ** (max(0, crf - _USUAL_CRF) / 6))  # x264's quantiser doubles every six steps


def _is_hidden(seen: Plane, meant: Plane, bare: Plane, least: float, share: float) -> bool:
    """Whether cells went at least this share of the way from what was there to what was written.

    Yes, too, where that way is too short to tell: what encoding changes could hide a step or make one.
    """
    was = bare.astype(np.float32)
    way = meant - was
    power = float((way * way).mean())
    return power < least * least or float(((seen - was) * way).mean()) >= share * power
