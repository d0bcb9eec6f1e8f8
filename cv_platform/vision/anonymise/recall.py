"""Faces that a detector loses from one frame to the next, found again.

Small, blurred and half-hidden faces come and go in a detector's eyes. So where a face that was seen is seen no more,
the detector looks again at an enlarged crop of where it should be; and where that fails, the pixels themselves are
asked whether the same thing is still there. Likewise backwards in time for a face that turned up from nowhere.
Where the pixels say that something else is there now, in every part, that is kept too: a hidden region ends there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cv_platform.vision.anonymise.hiding import planes
from cv_platform.vision.anonymise.looking import close_up
from cv_platform.vision.anonymise.policy import AnonymisePolicy
from cv_platform.vision.anonymise.sightings import Boxes, FrameSightings, Scan, overlap
from cv_platform.vision.anonymise.source import ClipFrame, Geometry
from cv_platform.vision.detectors.base import Detector

_SAME_IOU = 0.15
_DOUBLE_IOU = 0.4
_BETWEEN_IOU = 0.7
_LEAST_MATCH = 0.8
_TEMPLATE = 24
_TEMPLATE_GROWTH = 0.15
_FACE_SIDE = _TEMPLATE / (1 + 2 * _TEMPLATE_GROWTH)
_SEARCH = 0.4
_MOST_STEP = 8
_ANCHORS_KEPT = 6
_GONE_MATCH = 0.5
_GONE_PART_MATCH = 0.8
_PART_SEARCH = 0.15
_LEAST_GONE_PX = 16.0

Template = npt.NDArray[np.float32]


@dataclass
class _Expected:
    """A face that was seen: where, how it moved a frame, when last at all and by a detector, and what it looked like.

    `best` is its highest score; `followed` is where the pixels had it after that, and `gone` says that they had it no
    more.
    """

    box: Boxes
    speed: npt.NDArray[np.float32]
    frame: int
    tick: int
    class_id: int
    template: Template | None
    sighted: int
    best: float
    gone: bool = False
    followed: Boxes | None = None

    def at(self, frame: int) -> Boxes:
        moved = self.speed * min(frame - self.frame, _MOST_STEP)
        return np.asarray(self.box + np.concatenate([moved, moved]), np.float32)


class Recall:
    """Remembers what was seen, and finds it where the detector loses it.

    `settle` is called with the examined frames of each window in order; it adds to what was seen in them, and in a
    few frames before.
    """

    def __init__(self, detector: Detector, geometry: Geometry, policy: AnonymisePolicy) -> None:
        self._detector = detector
        self._geometry = geometry
        self._policy = policy
        self._patience_ticks = round(policy.max_gap_s * geometry.timescale)
        self._expected: list[_Expected] = []
        self._anchors: deque[ClipFrame] = deque(maxlen=_ANCHORS_KEPT)

    def forget(self) -> None:
        """A new scene: nothing is expected any more."""
        self._expected = []
        self._anchors.clear()

    def smallest(self) -> float | None:
        """Size in pixels of the smallest face that is expected; None where there is none."""
        sizes = [float(np.sqrt((e.box[2] - e.box[0]) * (e.box[3] - e.box[1]))) for e in self._expected]
        return min(sizes, default=None)

    def ample(self, least_px: float) -> bool:
        """Whether something is expected, all of it at least so large and surely seen."""
        smallest = self.smallest()
        sure = all(e.best >= self._policy.sure_threshold for e in self._expected)
        return smallest is not None and smallest >= least_px and sure

    def in_place(self, frames: list[ClipFrame], last: int, found: Scan, *, sure: bool) -> bool:
        """Whether in all these frames the pixels have each expected face on its way to where it is in the last one.

        Not `sure`: whether nothing speaks against it, as it would where the face is elsewhere for a moment.
        """
        least_match, least_iou = (_LEAST_MATCH, _BETWEEN_IOU) if sure else (_GONE_MATCH, 0.0)
        later = found.detected[last]
        lumas = [planes(frame.picture)[0] for frame in frames]
        for expected in self._expected:
            ious = overlap(expected.box[None], later.boxes)[0] if len(later) else np.zeros(0, np.float32)
            if expected.template is None or not len(ious) or ious.max() < _SAME_IOU:
                return False
            way = (later.boxes[int(ious.argmax())] - expected.box) / max(1, last - expected.frame)
            for frame, luma in zip(frames, lumas, strict=True):
                here = expected.box + way * (frame.index - expected.frame)
                best, place = _match(expected.template, here, luma)
                if best < least_match or float(overlap(place[None], here[None])[0, 0]) < least_iou:
                    return False
        return True

    def settle(self, window: list[ClipFrame], found: Scan) -> None:
        """Find again what was lost in these frames.

        Args:
            window: frames in order; the detector saw at least the last.
            found: what it saw, by frame; is added to, and so is where faces are gone.
        """
        detected = found.detected
        for frame in (f for f in window if f.index in detected):
            if frame is window[-1]:
                self._find_missing(frame, detected)
            new = self._update(frame, detected[frame.index])
            for expected in new:
                self._trace_back(expected, frame, detected)
                earlier = [f for f in (*list(self._anchors)[-1:], *window) if f.index < frame.index]
                self._look_for_end(expected, earlier[::-1], found)
        for expected in self._expected:
            self._look_for_end(expected, [f for f in window if f.index > expected.frame], found)
        self._anchors.append(window[-1])

    def _look_for_end(self, expected: _Expected, frames: list[ClipFrame], found: Scan) -> None:
        """Follow the face through these frames, one after another; keep the first in which it is there no more."""
        size = expected.box[2:] - expected.box[:2]
        if expected.gone or expected.template is None or not frames or min(size) < _LEAST_GONE_PX:
            return
        later = frames[0].index > expected.frame
        place = expected.box
        if later:
            place = expected.at(frames[0].index) if expected.followed is None else expected.followed
        for frame in frames:
            luma = planes(frame.picture)[0]
            if _is_gone(expected.template, place, luma):
                expected.gone = later
                found.gone.setdefault(frame.index, []).append(place)
                return
            best, moved = _match(expected.template, place, luma)
            if best >= _GONE_MATCH:
                place = moved
        if later:
            expected.followed = place

    def _find_missing(self, frame: ClipFrame, detected: dict[int, FrameSightings]) -> None:
        seen = detected[frame.index]
        missing = [e for e in self._expected if self._inside(e.at(frame.index)) and not _any_close(e, frame, seen)]
        if not missing:
            return
        found = close_up(self._detector, frame, [e.at(frame.index) for e in missing], self._geometry, self._policy)
        # where a face is expected, weak evidence is enough
        near = [
            found.scores[i] >= self._policy.detect_threshold
            or (
                found.scores[i] >= self._policy.low_threshold
                and any(_close(e, frame.index, found.boxes[[i]])[0] for e in missing)
            )
            for i in range(len(found))
        ]
        seen = _add(seen, found.chosen(np.asarray(near, bool)))
        luma = planes(frame.picture)[0]
        for expected in missing:
            if not _any_close(expected, frame, seen) and self._may_last(expected, frame.index):
                seen = _add(seen, self._by_pixels(expected, expected.at(frame.index), luma))
        detected[frame.index] = seen

    def _may_last(self, expected: _Expected, frame: int) -> bool:
        """Whether the pixels alone may still speak for it: not for long where the detector was never sure."""
        doubtful = expected.best < self._policy.sure_threshold
        return not doubtful or frame - expected.sighted <= 2 * self._policy.detect_stride

    def _trace_back(self, new: _Expected, frame: ClipFrame, detected: dict[int, FrameSightings]) -> None:
        """A face that turned up: was it there before, unnoticed?"""
        box = new.box
        for earlier in reversed(self._anchors):
            if earlier.index >= frame.index:
                continue
            seen = detected[earlier.index]
            if len(seen) and overlap(box[None], seen.boxes).max() >= _SAME_IOU:
                return
            found = close_up(self._detector, earlier, [box], self._geometry, self._policy)
            found = found.chosen(overlap(box[None], found.boxes)[0] >= _SAME_IOU) if len(found) else found
            if not len(found):
                found = self._by_pixels(new, box, planes(earlier.picture)[0])
            if not len(found):
                return
            detected[earlier.index] = _add(seen, found)
            box = found.boxes[0]

    def _by_pixels(self, expected: _Expected, place: Boxes, luma: npt.NDArray[np.uint8]) -> FrameSightings:
        """The expected face where the picture still looks like it, near `place`; nothing where it does not."""
        if expected.template is None:
            return FrameSightings.none()
        best, box = _match(expected.template, place, luma)
        if best < _LEAST_MATCH:
            return FrameSightings.none()
        score = np.array([self._policy.low_threshold], np.float32)
        return FrameSightings(box[None], score, np.array([expected.class_id], np.int16))

    def _update(self, frame: ClipFrame, seen: FrameSightings) -> list[_Expected]:
        """Take what was seen into account; return what was not expected."""
        free = set(range(len(seen)))
        luma = planes(frame.picture)[0]
        for expected in self._expected:
            close = np.flatnonzero(_close(expected, frame.index, seen.boxes)) if len(seen) else np.empty(0, int)
            mine = [i for i in close.tolist() if i in free]
            if not mine:
                continue
            place = expected.at(frame.index)
            best = mine[int(np.argmax(overlap(place[None], seen.boxes[mine])[0]))]
            free.discard(best)
            moved = _centre(seen.boxes[best]) - _centre(expected.box)
            expected.speed = np.asarray(moved / max(1, frame.index - expected.frame), np.float32)
            expected.box, expected.frame, expected.tick = seen.boxes[best], frame.index, frame.tick
            expected.gone, expected.followed = False, None
            if seen.scores[best] > self._policy.low_threshold:
                expected.sighted = frame.index
            expected.best = max(expected.best, float(seen.scores[best]))
            if seen.scores[best] >= self._policy.detect_threshold:
                expected.template = _template(luma, seen.boxes[best])
        self._expected = [e for e in self._expected if self._still_expected(e, frame)]
        new = []
        for i in sorted(free):
            if seen.scores[i] >= self._policy.detect_threshold:
                box, still = seen.boxes[i], np.zeros(2, np.float32)
                new.append(
                    _Expected(
                        box, still, frame.index, frame.tick, int(seen.class_ids[i]), _template(luma, box), frame.index,
                        float(seen.scores[i]),
                    )
                )  # fmt: skip
        self._expected += new
        return new

    def _still_expected(self, expected: _Expected, frame: ClipFrame) -> bool:
        soon = frame.index - expected.frame <= self._policy.detect_stride + 1
        return soon or frame.tick - expected.tick <= self._patience_ticks

    def _inside(self, box: Boxes) -> bool:
        x, y = _centre(box)
        return bool(0 <= x < self._geometry.width and 0 <= y < self._geometry.height)


def _add(seen: FrameSightings, more: FrameSightings) -> FrameSightings:
    """Both, without those of the second that the first has already."""
    if len(seen) and len(more):
        more = more.chosen(overlap(more.boxes, seen.boxes).max(axis=1) < _DOUBLE_IOU)
    return FrameSightings.join([seen, more])


def _close(expected: _Expected, frame: int, boxes: Boxes) -> npt.NDArray[np.bool_]:
    """Which of the boxes may be the expected face: they overlap where it should be, or where it was."""
    places = np.stack([expected.at(frame), expected.box])
    return np.asarray(overlap(places, boxes).max(axis=0) >= _SAME_IOU)


def _any_close(expected: _Expected, frame: ClipFrame, seen: FrameSightings) -> bool:
    return bool(len(seen) and _close(expected, frame.index, seen.boxes).any())


def _centre(box: Boxes) -> npt.NDArray[np.float32]:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], np.float32)


def _template(luma: npt.NDArray[np.uint8], box: Boxes) -> Template | None:
    patch = _patch(luma, box, _TEMPLATE_GROWTH)
    return None if patch is None else np.asarray(cv2.resize(patch, (_TEMPLATE, _TEMPLATE)), np.float32)


def _search_area(place: Boxes, luma: npt.NDArray[np.uint8]) -> Template | None:
    """What lies around a place, at the template's scale; None where the picture ends too near."""
    patch = _patch(luma, place, _TEMPLATE_GROWTH + _SEARCH)
    side = round(_FACE_SIDE * (1 + 2 * (_TEMPLATE_GROWTH + _SEARCH)))
    return None if patch is None else np.asarray(cv2.resize(patch, (side, side)), np.float32)


def _match(template: Template, place: Boxes, luma: npt.NDArray[np.uint8]) -> tuple[float, Boxes]:
    """How well the picture near a place looks like the template, -1 to 1, and the box where it does best."""
    area = _search_area(place, luma)
    if area is None:
        return -1.0, place
    _, best, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(area, template, cv2.TM_CCOEFF_NORMED))
    moved = (np.array([x, y]) - (len(area) - _TEMPLATE) / 2) / _FACE_SIDE * (place[2:] - place[:2])
    return best, np.asarray(place + np.concatenate([moved, moved]), np.float32)


def _is_gone(template: Template, place: Boxes, luma: npt.NDArray[np.uint8]) -> bool:
    """Whether neither the face nor any quarter of it is to be seen near its place.

    A face that turns, or that something slides over, keeps a part that looks as before for a while.
    """
    area = _search_area(place, luma)
    if area is None or float(cv2.matchTemplate(area, template, cv2.TM_CCOEFF_NORMED).max()) >= _GONE_MATCH:
        return False
    # the parts are the face's own, without the ground around it
    border, reach = round(_TEMPLATE_GROWTH * _FACE_SIDE), round(_PART_SEARCH * _FACE_SIDE)
    half = _TEMPLATE // 2 - border
    for y, x in ((y, x) for y in (border, border + half) for x in (border, border + half)):
        part = np.ascontiguousarray(template[y : y + half, x : x + half])
        top, left = (len(area) - _TEMPLATE) // 2 + y - reach, (len(area) - _TEMPLATE) // 2 + x - reach
        near = np.ascontiguousarray(area[top : top + half + 2 * reach, left : left + half + 2 * reach])
        if float(cv2.matchTemplate(near, part, cv2.TM_CCOEFF_NORMED).max()) >= _GONE_PART_MATCH:
            return False
    return True


def _patch(luma: npt.NDArray[np.uint8], box: Boxes, growth: float) -> Template | None:
    """The box grown on each side, as far as it lies in the picture; None where that is less than the whole box."""
    w, h = box[2] - box[0], box[3] - box[1]
    x1, y1 = round(float(box[0] - growth * w)), round(float(box[1] - growth * h))
    x2, y2 = round(float(box[2] + growth * w)), round(float(box[3] + growth * h))
    if x2 - x1 < 4 or y2 - y1 < 4:
        return None
    inside = luma[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)]
    pads = (max(0, -y1), max(0, y2 - luma.shape[0]), max(0, -x1), max(0, x2 - luma.shape[1]))
    if inside.size == 0 or max(pads[:2]) > growth * h + 1 or max(pads[2:]) > growth * w + 1:
        return None
    return np.asarray(cv2.copyMakeBorder(inside, *pads, cv2.BORDER_REPLICATE), np.float32)
