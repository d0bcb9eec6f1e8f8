"""Which pixels of which frame are hidden: tracks made dense, grown by margins, kept inside their scene.

Boxes stay in coded pixels; what is hidden is a rectangle with even edges, so that luma and chroma agree to the pixel.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from cv_platform.vision.anonymise.linking import Track
from cv_platform.vision.anonymise.policy import AnonymisePolicy
from cv_platform.vision.anonymise.sightings import Boxes, overlap
from cv_platform.vision.anonymise.source import Geometry

_BUCKET = 64
_MOST_MOTION = 0.6
_LEAST_MARGIN_PX = 1.0
_SIGHTED_MOTION = 0.3
_SPEED_FRAMES = 6
_HELD_OVERLAP = 0.12
_STEADY_S = 0.8
_STEADY_SHARE = 0.35
_SHRUNK = 0.87
_STEADY_GROWTH = 0.5
_AT_EDGE_PX = 4.0
_SAME_PLACE = 0.3
_GONE_SLACK = 1
_FAST = 0.25


@dataclass(frozen=True)
class Region:
    """A rectangle to hide: pixels x1 ≤ x < x2, y1 ≤ y < y2, all even; `track` numbers what it belongs to."""

    track: int
    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True, eq=False)
class DenseTrack:
    """A track with one grown box for each frame from `first` on: boxes float32 (N, 4)."""

    first: int
    boxes: Boxes

    @property
    def last(self) -> int:
        return self.first + len(self.boxes) - 1


class HidingPlan:
    """What is hidden in each frame.

    Args:
        tracks: as linked.
        cuts: frames that start a new scene.
        frames: of the clip.
        geometry: of its pictures.
        policy: margins and extensions.
        gone: by frame, where a face that was seen before or after is not any more: no region is extended over it.
    """

    def __init__(
        self,
        tracks: list[Track],
        cuts: list[int],
        frames: int,
        geometry: Geometry,
        policy: AnonymisePolicy,
        *,
        gone: dict[int, list[Boxes]] | None = None,
    ) -> None:
        self.geometry = geometry
        starts = [0, *sorted(cuts), frames]
        bridged = [_bridge(track, round(_STEADY_S * geometry.frame_rate), geometry, policy) for track in tracks]
        self.tracks = [_grow(track, bridged, starts, geometry, policy, gone or {}) for track in bridged]
        self._buckets: dict[int, list[int]] = {}
        for number, dense in enumerate(self.tracks):
            for bucket in range(dense.first // _BUCKET, dense.last // _BUCKET + 1):
                self._buckets.setdefault(bucket, []).append(number)

    def regions(self, frame: int) -> list[Region]:
        """What to hide in this frame, fixed zones apart."""
        found = []
        for number in self._buckets.get(frame // _BUCKET, ()):
            dense = self.tracks[number]
            if dense.first <= frame <= dense.last:
                region = _snap(number, dense.boxes[frame - dense.first], self.geometry)
                if region is not None:
                    found.append(region)
        return found

    def touched(self) -> set[int]:
        """The frames in which something is hidden."""
        return {f for t in self.tracks for f in range(t.first, t.last + 1)}


def covered_share(
    box: Boxes, regions: list[Region], zones: npt.NDArray[np.bool_] | None, *, width: int, height: int
) -> float:
    """Share of the box's pixels inside the picture that are hidden; 1.0 where it has none there.

    Args:
        box: (4,) coded pixels.
        regions: of the frame.
        zones: bool (H, W), the fixed zones' pixels, or None.
        width, height: of the picture; detectors see faces that reach over its edge, where there is nothing to hide.
    """
    x1, y1 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    x2, y2 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    if x2 <= x1 or y2 <= y1:
        return 1.0
    mask = np.zeros((y2 - y1, x2 - x1), bool) if zones is None else zones[y1:y2, x1:x2].copy()
    for r in regions:
        mask[max(0, r.y1 - y1) : max(0, r.y2 - y1), max(0, r.x1 - x1) : max(0, r.x2 - x1)] = True
    return float(mask.mean())


@dataclass(frozen=True, eq=False)
class _Bridged:
    """A track between its first and last sighting: boxes float64 (N, 4), `bridged` where between two."""

    first: int
    boxes: npt.NDArray[np.float64]
    bridged: npt.NDArray[np.bool_]
    doubtful: bool

    @property
    def last(self) -> int:
        return self.first + len(self.boxes) - 1


def _bridge(track: Track, reach: int, geometry: Geometry, policy: AnonymisePolicy) -> _Bridged:
    sighted = np.asarray(track.frames, np.int64)
    boxes = np.stack(track.boxes).astype(np.float64)
    frames = np.arange(sighted[0], sighted[-1] + 1)
    dense = np.stack([np.interp(frames, sighted, boxes[:, i]) for i in range(4)], axis=1)
    doubtful = track.best < policy.sure_threshold
    return _Bridged(int(sighted[0]), _steadied(dense, reach, geometry), ~np.isin(frames, sighted), doubtful)


def _steadied(boxes: npt.NDArray[np.float64], reach: int, geometry: Geometry) -> npt.NDArray[np.float64]:
    """Boxes (N, 4) where one that shrinks for a while, its face half hidden, keeps what it had before and after.

    Each edge takes its outermost place within `reach` frames, where the face hardly moves in that time; where it
    moves, the reach shrinks to what it moves little in. An edge at the picture's own edge says nothing about that: a
    face that enters or leaves is cut there, and moves as its other edge does. No edge goes further than a face of the
    size before and after can reach that shows what was seen: the rest is where it was, not where it is.
    """
    size = boxes[:, 2:] - boxes[:, :2]
    kept = _kept_size(size, reach)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    steadied = boxes.copy()
    far = np.array([geometry.width, geometry.height])
    for width in (reach, reach // 2, reach // 4):
        if width < 2 or len(boxes) < 3:
            break
        window = 2 * width + 1
        lowest, highest = (f(boxes, window, axis=0, mode="nearest") for f in (minimum_filter1d, maximum_filter1d))
        largest = maximum_filter1d(size, window, axis=0, mode="nearest")
        full = np.maximum(size, np.minimum(largest, kept))
        shrunk = (size < _SHRUNK * full).any(axis=1)
        # the shrinking itself moves one edge; true movement moves both
        ranges = highest - lowest
        cut = np.concatenate([lowest[:, :2] <= _AT_EDGE_PX, highest[:, 2:] >= far - _AT_EDGE_PX], axis=1)
        near_side, far_side = ranges[:, :2], ranges[:, 2:]
        moved = np.where(
            cut[:, :2] | cut[:, 2:],
            np.where(
                cut[:, :2] & cut[:, 2:], np.maximum(near_side, far_side), np.where(cut[:, :2], far_side, near_side)
            ),
            np.minimum(near_side, far_side),
        )
        still = shrunk & (moved <= _STEADY_SHARE * largest).all(axis=1)
        near = np.abs(centre - (lowest[:, :2] + highest[:, 2:]) / 2) <= _STEADY_GROWTH * largest
        use = still & near.all(axis=1)
        lowest[:, :2] = np.maximum(lowest[:, :2], boxes[:, 2:] - full)
        highest[:, 2:] = np.minimum(highest[:, 2:], boxes[:, :2] + full)
        steadied[use, :2] = np.minimum(steadied[use, :2], lowest[use, :2])
        steadied[use, 2:] = np.maximum(steadied[use, 2:], highest[use, 2:])
    return steadied


def _kept_size(size: npt.NDArray[np.float64], reach: int) -> npt.NDArray[np.float64]:
    """Sizes (N, 2) that a face has both before and after: of one that walks away the smaller, without what hides it.

    Near the track's ends, where one side is not known, what is known of the other.
    """
    width, ends = 2 * reach + 1, np.arange(len(size))
    before, after = (maximum_filter1d(size, width, axis=0, mode="nearest", origin=origin) for origin in (reach, -reach))
    before[ends < reach] = np.inf
    after[ends >= len(size) - reach] = np.inf
    return np.asarray(np.minimum(before, after))


def _held(track: _Bridged, others: list[_Bridged], sign: int, most: int, geometry: Geometry) -> int:
    """How long a track is held beyond its end because something else that is hidden lies over it: frames.

    Two faces that overlap are often reported as one; the one behind has not gone. One that the picture's edge cuts
    has.
    """
    end, box = (track.last, track.boxes[-1]) if sign > 0 else (track.first, track.boxes[0])
    if (box[:2] <= _AT_EDGE_PX).any() or (box[2:] >= np.array([geometry.width, geometry.height]) - _AT_EDGE_PX).any():
        return 0
    area = max(float((box[2] - box[0]) * (box[3] - box[1])), 1.0)
    longest = 0
    for other in others:
        if other is track or not other.first <= end <= other.last or _iou(box, other.boxes[end - other.first]) > 0.5:
            continue  # not there at the end, or the same face seen twice
        for away in range(1, most + 1):
            frame = end + sign * away
            if not other.first <= frame <= other.last:
                break
            over = other.boxes[frame - other.first]
            w, h = np.minimum(box[2:], over[2:]) - np.maximum(box[:2], over[:2])
            if w <= 0 or h <= 0 or w * h < _HELD_OVERLAP * area:
                break
            longest = max(longest, away)
    return longest


def _away_from_edges(box: npt.NDArray[np.float64], geometry: Geometry) -> bool:
    """Whether a face that ends here cannot have left the picture: it is there still, turned or half hidden."""
    w, h = box[2] - box[0], box[3] - box[1]
    return bool(
        box[0] > w / 2 and box[1] > h / 2 and box[2] < geometry.width - w / 2 and box[3] < geometry.height - h / 2
    )


def _iou(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(overlap(a[None].astype(np.float32), b[None].astype(np.float32))[0, 0])


def _until_gone(track: _Bridged, sign: int, most: int, gone: dict[int, list[Boxes]]) -> int:
    """How many frames beyond its end a track is extended, at most: a little past where its face is gone.

    One that moves fast is extended all the way: from one frame to the next it may have left where it was looked for.
    """
    end, near = (track.last, track.boxes[::-1]) if sign > 0 else (track.first, track.boxes)
    near = near[: _SPEED_FRAMES + 1]
    speed = np.abs(near[-1] - near[0]).reshape(2, 2).mean(axis=0) / max(1, len(near) - 1)
    if (speed > _FAST * (near[0, 2:] - near[0, :2])).any():
        return most
    for away in range(1, most + 1):
        places = gone.get(end + sign * away)
        if places and overlap(near[:1].astype(np.float32), np.stack(places)).max() >= _SAME_PLACE:
            return min(most, away - 1 + _GONE_SLACK)
    return most


def _grow(
    track: _Bridged,
    others: list[_Bridged],
    starts: list[int],
    geometry: Geometry,
    policy: AnonymisePolicy,
    gone: dict[int, list[Boxes]],
) -> DenseTrack:
    """Extend a track at both ends, inside its scene, and grow its boxes by what size and movement ask for."""
    scene = bisect_right(starts, track.first) - 1
    extend = max(2, round(policy.extend_s * geometry.frame_rate))
    most = max(extend, round(policy.max_gap_s * geometry.frame_rate))
    vanished = max(extend, round(policy.vanish_s * geometry.frame_rate))
    if track.doubtful:
        before = after = max(2, policy.detect_stride)
    else:
        before = vanished if _away_from_edges(track.boxes[0], geometry) else extend
        after = vanished if _away_from_edges(track.boxes[-1], geometry) else extend
        # what lies over a face hides its pixels: they say nothing then
        before = _until_gone(track, -1, before, gone)
        after = _until_gone(track, 1, after, gone)
        if held := _held(track, others, -1, most, geometry):
            before = max(before, held + extend)
        if held := _held(track, others, 1, most, geometry):
            after = max(after, held + extend)
    first, last = max(starts[scene], track.first - before), min(starts[scene + 1] - 1, track.last + after)
    frames = np.arange(first, last + 1)
    inner = np.clip(frames, track.first, track.last) - track.first
    dense = track.boxes[inner]
    step = np.abs(np.gradient((dense[:, :2] + dense[:, 2:]) / 2, axis=0)) if len(frames) > 1 else np.zeros((1, 2))
    # beyond the ends the face may go on or stay: hide where it was and where it would be
    for beyond, inside, sign in ((frames < track.first, 0, -1), (frames > track.last, -1, 1)):
        near = track.boxes[: _SPEED_FRAMES + 1] if sign < 0 else track.boxes[-_SPEED_FRAMES - 1 :]
        if not beyond.any() or len(near) < 2:
            continue
        speed = (near[-1] - near[0]).reshape(2, 2).mean(axis=0) / (len(near) - 1)
        end = track.first if sign < 0 else track.last
        moved = (frames[beyond] - end)[:, None] * speed[None, :]
        limit = near[inside, 2:] - near[inside, :2]
        moved = np.clip(moved, -limit, limit)
        dense[beyond, :2] += np.minimum(moved, 0)
        dense[beyond, 2:] += np.maximum(moved, 0)
    size = track.boxes[inner][:, 2:] - track.boxes[inner][:, :2]
    bridged = track.bridged[inner][:, None]
    motion = np.minimum(policy.motion_margin * step, _MOST_MOTION * size) * np.where(bridged, 1.0, _SIGHTED_MOTION)
    margin = policy.margin * size + motion + _LEAST_MARGIN_PX
    return DenseTrack(first, np.concatenate([dense[:, :2] - margin, dense[:, 2:] + margin], axis=1).astype(np.float32))


def _snap(track: int, box: Boxes, geometry: Geometry) -> Region | None:
    x1, y1 = max(0, int(box[0]) & ~1), max(0, int(box[1]) & ~1)
    x2 = min(geometry.width, (int(np.ceil(box[2])) + 1) & ~1)
    y2 = min(geometry.height, (int(np.ceil(box[3])) + 1) & ~1)
    return Region(track, x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None
