"""Surgical output: groups of pictures in which nothing is hidden are copied, only the others are encoded again.

One sample description holds the source's parameter sets and the encoder's under other ids; decode times are the
source's own slots. Whoever calls this decodes the result and holds it against the source (`output.check_output`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import av.error
from av.video.frame import VideoFrame

from cv_platform.vision.anonymise import h264
from cv_platform.vision.anonymise.encoding import AccessUnit, Encoder
from cv_platform.vision.anonymise.failures import AnonymisationFailed
from cv_platform.vision.anonymise.gops import PROFILES, Gop, GopMap, reorder_depth, slices_of
from cv_platform.vision.anonymise.hiding import Hider
from cv_platform.vision.anonymise.mp4 import Mp4Writer
from cv_platform.vision.anonymise.output import WrittenClip, fine_levels, signatures, video_format
from cv_platform.vision.anonymise.policy import AnonymisePolicy
from cv_platform.vision.anonymise.regions import HidingPlan
from cv_platform.vision.anonymise.sightings import Scan
from cv_platform.vision.video.probe import OpenClip, open_clip


class NotSurgicalError(Exception):
    """Something gives reason for doubt: encode the whole clip instead."""


def write_surgically(
    source: Path,
    destination: Path,
    *,
    groups: GopMap,
    clean: list[bool],
    plan: HidingPlan,
    hider: Hider,
    found: Scan,
    policy: AnonymisePolicy,
    should_stop: Callable[[], bool],
    progress: Callable[[int], None] | None = None,
) -> WrittenClip:
    """Write the clip, copying the clean groups.

    Raises:
        NotSurgicalError: encode it whole.
        AnonymisationFailed, OSError: as `output.write_clip`.
    """
    written = WrittenClip(ticks=list(found.ticks))
    writer = Mp4Writer(destination, video_format(plan.geometry))
    try:
        with open_clip(source, limits=policy.limits) as clip:
            work = _Surgery(clip, groups, writer, written, plan, hider, policy)
            for run, copied in _runs(groups.gops, clean):
                if should_stop():
                    raise AnonymisationFailed("stopped")
                if copied:
                    work.copy(run)
                else:
                    work.encode(run)
                if progress is not None:
                    progress(run[-1].last + 1)
        writer.finish(work.config().dump(), last_duration=plan.geometry.frame_ticks)
    except (ValueError, av.error.InvalidDataError):
        writer.discard()
        raise NotSurgicalError from None
    except BaseException:
        writer.discard()
        raise
    return written


def _runs(gops: list[Gop], clean: list[bool]) -> Iterator[tuple[list[Gop], bool]]:
    """Neighbouring groups of the same kind; what is encoded again comes in one run, what is copied one by one."""
    run: list[Gop] = []
    for gop, copied in zip(gops, clean, strict=True):
        if copied:
            if run:
                yield run, False
                run = []
            yield [gop], True
        else:
            run.append(gop)
    if run:
        yield run, False


class _Surgery:
    def __init__(
        self,
        clip: OpenClip,
        groups: GopMap,
        writer: Mp4Writer,
        written: WrittenClip,
        plan: HidingPlan,
        hider: Hider,
        policy: AnonymisePolicy,
    ) -> None:
        self._clip = clip
        self._packets = (packet for packet in clip.packets() if packet.size)
        self._groups = groups
        self._writer = writer
        self._written = written
        self._plan = plan
        self._hider = hider
        self._policy = policy
        self._options = _encoder_options(groups)
        self._encoded: h264.AvcConfig | None = None

    def config(self) -> h264.AvcConfig:
        """The source's parameter sets, and the encoder's behind them."""
        source = self._groups.config
        extra = self._encoded
        if extra is None:
            return h264.AvcConfig(source.profile, source.compatibility, source.level, 4, source.sps, source.pps)
        mine, theirs = h264.Sps.parse(extra.sps[0]), self._groups.sps
        if (
            mine.id == theirs.id
            or {h264.pps_ids(p)[0] for p in extra.pps} & {h264.pps_ids(p)[0] for p in source.pps}
            or mine.profile > source.profile
            or (mine.width_mbs, mine.height_mbs) != (theirs.width_mbs, theirs.height_mbs)
            or mine.ref_frames > max(theirs.ref_frames, 1)
            or reorder_depth(mine) > reorder_depth(theirs)
        ):
            raise NotSurgicalError
        level = max(source.level, extra.level)
        sets = (*source.sps, *extra.sps), (*source.pps, *extra.pps)
        return h264.AvcConfig(source.profile, source.compatibility, level, 4, *sets)

    def copy(self, run: list[Gop]) -> None:
        for gop in run:
            for number in range(gop.start, gop.end):
                nals = slices_of(bytes(next(self._packets)), self._groups.config)
                if nals is None:
                    raise NotSurgicalError
                pts, dts = self._groups.pts[number], self._groups.dts[number]
                self._writer.add(nals, pts=pts, dts=dts, sync=number == gop.start)
            self._written.gops_copied += 1
            self._written.copied.append((gop.first, gop.last))

    def encode(self, run: list[Gop]) -> None:
        slots = iter(self._groups.dts[run[0].start : run[-1].end])
        count = 0

        def emit(unit: AccessUnit) -> None:
            nonlocal count
            nals, pts, _, idr = unit
            dts = next(slots, None)
            if dts is None or dts > pts:
                raise NotSurgicalError
            self._writer.add(nals, pts=pts, dts=dts, sync=idr)
            count += 1

        encoder = Encoder(self._plan.geometry, self._policy, emit, self._options)
        for gop in run:
            pictures = self._decode(gop)
            for index, picture in zip(range(gop.first, gop.last + 1), pictures, strict=True):
                regions = self._plan.regions(index)
                bare = fine_levels(picture, regions)
                picture = self._hider.hide(picture, regions)
                if regions:
                    self._written.signatures[index] = signatures(picture, regions, bare)
                encoder.add(picture, self._written.ticks[index], idr=index == gop.first)
            self._written.gops_encoded += 1
        encoder.finish()
        if count != run[-1].end - run[0].start or (self._encoded or encoder.config) != encoder.config:
            raise NotSurgicalError
        self._encoded = encoder.config

    def _decode(self, gop: Gop) -> Iterator[VideoFrame]:
        context = self._clip.stream.codec_context
        for _ in range(gop.start, gop.end):
            yield from context.decode(next(self._packets))
        yield from context.decode(None)
        context.flush_buffers()


def _encoder_options(groups: GopMap) -> dict[str, str]:
    """x264's options that make its groups fit between the source's."""
    used = {groups.sps.id} | {h264.pps_ids(pps)[0] for pps in groups.config.pps}
    free = next((number for number in range(1, 32) if number not in used), None)
    if free is None:
        raise NotSurgicalError
    depth = reorder_depth(groups.sps)
    reordering = {
        0: "bframes=0",
        1: "bframes=2:b-pyramid=none",
        2: "bframes=3:b-pyramid=normal",
    }[depth]
    references = max(1, min(4 if depth == 2 else 3, groups.sps.ref_frames))
    return {
        "profile": PROFILES[groups.config.profile],
        "x264-params": f"sps-id={free}:{reordering}:ref={references}:level={groups.sps.level / 10:g}",
    }
