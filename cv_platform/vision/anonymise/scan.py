"""The first pass: the whole clip seen by both detectors, each frame only as often as it must be.

The detector examines every k-th frame. Between two of those it examines more, by halves, where they do not tell what
happened in between: a face appeared, vanished or moved far, a scene ends, or much of the picture changed. While all
known faces are large, most looks are at less resolution; while they stay where they are, too, as the pixels of the
frames between confirm, it looks half as often. In a group of pictures that may be copied it examines the
frames between too, at less resolution, until it sees something. The verifier
examines frames at its own rate, between the detector's, and every frame in which the detector was unsure.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cv_platform.vision.anonymise.faults import drop_sightings
from cv_platform.vision.anonymise.flow import Prefetched
from cv_platform.vision.anonymise.hiding import planes
from cv_platform.vision.anonymise.looking import see, see_picture, sweep_picture
from cv_platform.vision.anonymise.policy import AnonymisePolicy
from cv_platform.vision.anonymise.recall import Recall
from cv_platform.vision.anonymise.sightings import FrameSightings, Scan, overlap
from cv_platform.vision.anonymise.source import ClipFrame, FrameReader, Geometry, upright_picture
from cv_platform.vision.detectors.base import ConcurrentDetector, Detector

_DEPTH = 8
_THUMBNAIL = (32, 24)
_CUT_LEVEL = 24.0
_CUT_RATIO = 4.0
_MOVED_LEVEL = 22.0
_MOVED_BLOCKS = 6
_SETTLED_IOU = 0.35
_MOST_PENDING = 6
_MOST_AHEAD = 2
_FULL_LOOK = 3
_FULL_LOOK_OF_TWO = 6
_STEADY_IOU = 0.6
_AMPLE_PX = 36.0
_LEAST_SCALE = 0.5


def scan(
    reader: FrameReader,
    *,
    policy: AnonymisePolicy,
    detector: Detector,
    verifier: Detector | None,
    checksums: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Scan:
    """Look at every frame once.

    Args:
        reader: the clip.
        policy: strides, rates, thresholds, resolutions.
        detector: the first one; should report down to `low_threshold`.
        verifier: the second one, or None.
        checksums: keep a CRC-32 of each frame's planes.
        progress: called with the number of frames looked at.

    Raises:
        AnonymisationFailed: the clip cannot be read, or a detector failed.
    """
    found = Scan()
    window: list[_Look] = []
    previous: _Look | None = None
    last_start = -2 * policy.detect_stride
    with (
        ThreadPoolExecutor(1, thread_name_prefix="verify") as pool,
        _Ahead(detector) as ahead,
        Prefetched(reader, depth=_DEPTH) as frames,
    ):
        examiner: _Examiner | None = None
        change = _Change()
        may_copy = False
        for frame in frames:
            geometry = reader.geometry
            assert geometry is not None
            if examiner is None:
                examiner = _Examiner(found, geometry, policy, detector, verifier, pool, ahead)
            luma, u, v = planes(frame.picture)
            if checksums:
                found.checksums.append(zlib.crc32(v.tobytes(), zlib.crc32(u.tobytes(), zlib.crc32(luma.tobytes()))))
            look = _Look(frame, cv2.resize(luma, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.int16))
            found.ticks.append(frame.tick)
            if previous is not None and change.is_cut(previous.thumbnail, look.thumbnail):
                found.cuts.append(frame.index)
            previous = look
            window.append(look)
            # a group of pictures is copied only where both detectors saw its first one
            may_copy = policy.surgical and verifier is not None and reader.codec == "h264" and not policy.zones
            starts = may_copy and frame.picture.key_frame and frame.index - last_start >= 2 * policy.detect_stride
            if len(window) > examiner.stride() or frame.index == 0 or starts:
                examiner.close(_Window(window, every=may_copy, begins=starts))
                window = [look]
            if starts:
                last_start = frame.index
                examiner.verify(frame)
            if progress is not None:
                progress(frame.index + 1)
        if examiner is not None and len(window) > 1:
            examiner.close(_Window(window, every=may_copy, begins=False))
        if examiner is not None:
            examiner.finish()
    return found


def verify_frames(
    reader: FrameReader,
    wanted: set[int],
    *,
    policy: AnonymisePolicy,
    verifier: Detector,
    progress: Callable[[int], None] | None = None,
) -> dict[int, FrameSightings]:
    """What the verifier sees in the wanted frames."""
    seen: dict[int, FrameSightings] = {}
    last = max(wanted, default=-1)
    with Prefetched(reader, depth=_DEPTH) as frames:
        for frame in frames:
            if frame.index in wanted:
                assert reader.geometry is not None
                seen[frame.index] = see(verifier, frame, reader.geometry, policy, policy.verify_long_side)
            if progress is not None:
                progress(frame.index + 1)
            if frame.index >= last:
                break
    return seen


@dataclass(frozen=True, eq=False)
class _Look:
    frame: ClipFrame
    thumbnail: npt.NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class _Window:
    """Neighbouring frames, the first of them the last one of the window before, or the clip's first alone.

    With `every`, all of them are examined while the group of pictures is clear; `begins` says that the last one is the
    first of another group.
    """

    looks: list[_Look]
    every: bool
    begins: bool


class _Ahead:
    """Examines pictures in threads of its own, one core each, where the detector serves several callers at once.

    Two pictures on a core each take less than one after the other on two.
    """

    def __init__(self, detector: Detector) -> None:
        self._concurrent = detector if isinstance(detector, ConcurrentDetector) and detector.lanes > 1 else None
        self.depth = 0 if self._concurrent is None else min(_MOST_AHEAD, self._concurrent.lanes)
        self._pool = ThreadPoolExecutor(max(1, self.depth), thread_name_prefix="detect")

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, look: Callable[[Detector], FrameSightings]) -> Future[FrameSightings] | None:
        """Have this done; None where it is to be done by the caller."""
        return None if self._concurrent is None else self._pool.submit(look, _OneLane(self._concurrent))


class _OneLane:
    """A detector that is one of several callers."""

    def __init__(self, detector: ConcurrentDetector) -> None:
        self.classes, self.version, self.warmup = detector.classes, detector.version, detector.warmup
        self.detect = detector.detect_alongside


class _Change:
    """Tells cuts from movement: a jump far above what was usual of late."""

    def __init__(self) -> None:
        self._usual = 2.0

    def is_cut(self, before: npt.NDArray[np.int16], after: npt.NDArray[np.int16]) -> bool:
        jump = float(np.abs(after - before).mean())
        cut = jump > max(_CUT_LEVEL, _CUT_RATIO * self._usual)
        if not cut:
            self._usual += 0.1 * (jump - self._usual)
        return cut


class _Examiner:
    def __init__(
        self,
        found: Scan,
        geometry: Geometry,
        policy: AnonymisePolicy,
        detector: Detector,
        verifier: Detector | None,
        pool: ThreadPoolExecutor,
        ahead: _Ahead,
    ) -> None:
        self._found = found
        self._geometry = geometry
        self._policy = policy
        self._detector = detector
        self._verifier = verifier
        self._pool = pool
        self._ahead = ahead
        self._open: deque[_Window] = deque()
        self._anchors: dict[int, Future[FrameSightings]] = {}
        self._steady = False
        self._settled = -1
        self._pending: deque[tuple[int, Future[FrameSightings]]] = deque()
        self._verify_due = 0.0
        self._sweep_due = 0.0
        self._asked: set[int] = set()
        self._looks = 0
        # whether the detector saw nothing, not even faintly, since the group of pictures began
        self._clear = True
        self._recall = Recall(detector, geometry, policy)

    def stride(self) -> int:
        """How long a window may be: twice as long as usual while all faces are large, surely seen, and hardly move."""
        usual = self._policy.detect_stride
        return 2 * usual if self._steady and not self._cut_since_settled() else usual

    def close(self, window: _Window) -> None:
        """Examine a window, at last; its last frame may be examined while others before it still wait."""
        self._look_ahead(window.looks[-1])
        self._open.append(window)
        while len(self._open) > self._ahead.depth:
            self._settle(self._open.popleft())

    def _settle(self, closed: _Window) -> None:
        """Examine the last frame of the window (its first is examined already) and what lies between, as needed."""
        window, begins = closed.looks, closed.begins
        clear = self._clear
        self._detect(window[-1])
        if begins:
            self._clear = clear
        if len(window) > 1:
            self._halve(window, 0, len(window) - 1)
        for look in window[1:-1]:
            if not closed.every or not self._clear:
                break
            self._detect(look, scale=_LEAST_SCALE)
        if begins:
            self._clear = not len(self._found.detected[window[-1].frame.index])
        first, last = window[0].frame.index, window[-1].frame.index
        if any(first < cut <= last for cut in self._found.cuts[-8:]):
            self._recall.forget()
        self._recall.settle([look.frame for look in window[1:] or window], self._found)
        self._settled = last
        self._steady = self._hardly_moved(window)
        self._sample(window)

    def finish(self) -> None:
        while self._open:
            self._settle(self._open.popleft())
        while self._pending:
            self._collect()

    def _halve(self, window: list[_Look], low: int, high: int) -> None:
        if high - low < 2 or not self._unsettled(window, low, high):
            return
        middle = (low + high) // 2
        self._detect(window[middle])
        self._halve(window, low, middle)
        self._halve(window, middle, high)

    def _hardly_moved(self, window: list[_Look]) -> bool:
        """Whether all that is expected is large and surely seen, and was at both ends of the window in one place."""
        first, last = window[0].frame.index, window[-1].frame.index
        if len(window) < 2 or any(first < cut <= last for cut in self._found.cuts[-8:]):
            return False
        a, b = (self._found.detected[index].above(self._policy.detect_threshold) for index in (first, last))
        if len(a) != len(b) or not len(a) or not self._recall.ample(_AMPLE_PX / self._shrunk()):
            return False
        ious = overlap(a.boxes, b.boxes)
        return bool((ious.max(axis=1) >= _STEADY_IOU).all() and (ious.max(axis=0) >= _STEADY_IOU).all())

    def _unsettled(self, window: list[_Look], low: int, high: int) -> bool:
        """Whether what the detector saw at both ends leaves open what happened between them."""
        between = [look.frame for look in window[low + 1 : high]]
        if self._hardly_moved(window[low : high + 1]):
            sure = high - low > self._policy.detect_stride
            if not self._recall.in_place(between, window[high].frame.index, self._found, sure=sure):
                return True
        elif high - low > self._policy.detect_stride:
            return True
        first, last = window[low].frame.index, window[high].frame.index
        if any(first < cut <= last for cut in self._found.cuts[-8:]):
            return True
        a = self._found.detected[first].above(self._policy.detect_threshold)
        b = self._found.detected[last].above(self._policy.detect_threshold)
        if len(a) != len(b):
            return True
        if len(a):
            ious = overlap(a.boxes, b.boxes)
            return bool((ious.max(axis=1) < _SETTLED_IOU).any() or (ious.max(axis=0) < _SETTLED_IOU).any())
        return self._moved(window[low : high + 1])

    @staticmethod
    def _moved(looks: Iterable[_Look]) -> bool:
        """Whether a frame between differs much, in places, from both ends: something may have come and gone."""
        first, *between, last = looks
        for look in between:
            away = np.minimum(np.abs(look.thumbnail - first.thumbnail), np.abs(look.thumbnail - last.thumbnail))
            if int((away > _MOVED_LEVEL).sum()) >= _MOVED_BLOCKS:
                return True
        return False

    def _look_ahead(self, look: _Look) -> None:
        """Have a window's last frame examined, now or soon."""
        frame, geometry, policy = look.frame, self._geometry, self._policy
        if frame.index in self._found.detected:
            return
        swept = self._sweep_is_due(frame)
        # converted here: a PyAV frame keeps one scaler of its own, which two threads must not use at once
        picture = upright_picture(frame, geometry, None if swept else self._long_side())
        examine = sweep_picture if swept else see_picture
        job = self._ahead.submit(lambda detector: examine(detector, picture, geometry, policy))
        if job is None:
            job = Future()
            job.set_result(examine(self._detector, picture, geometry, policy))
        self._anchors[frame.index] = job

    def _detect(self, look: _Look, *, scale: float = 1.0) -> None:
        frame, policy = look.frame, self._policy
        if frame.index in self._found.detected:
            return
        job = self._anchors.pop(frame.index, None)
        if job is not None:
            seen = job.result()
        else:
            seen = see(self._detector, frame, self._geometry, policy, round(policy.detect_long_side * scale))
        seen = drop_sightings(seen, frame.index).above(policy.low_threshold)
        self._found.detected[frame.index] = seen
        self._clear = self._clear and not len(seen)
        if self._unsure(seen):
            self.verify(frame)

    def _sweep_is_due(self, frame: ClipFrame) -> bool:
        geometry, policy = self._geometry, self._policy
        if not policy.sweep_interval_s or max(geometry.square_size) <= policy.detect_long_side * 1.1:
            return False
        elapsed = frame.tick - self._found.ticks[0]
        if elapsed < self._sweep_due:
            return False
        self._sweep_due = elapsed + policy.sweep_interval_s * geometry.timescale
        return True

    def _long_side(self) -> int:
        """Most regular looks are at less resolution while all known faces are large; every third one is not.

        Where the verifier, which sees the picture in full, looks for small ones too, every sixth.
        """
        long_side = self._policy.detect_long_side
        smallest = self._recall.smallest()
        if smallest is None or self._cut_since_settled():
            return long_side
        self._looks += 1
        if self._looks % (_FULL_LOOK if self._verifier is None else _FULL_LOOK_OF_TWO) == 0:
            return long_side
        return round(long_side * min(1.0, max(_LEAST_SCALE, _AMPLE_PX / (smallest * self._shrunk()))))

    def _shrunk(self) -> float:
        """Pixels that the detector sees for one of the clip's."""
        return min(1.0, self._policy.detect_long_side / max(self._geometry.square_size))

    def _cut_since_settled(self) -> bool:
        return bool(self._found.cuts) and self._found.cuts[-1] > self._settled

    def _unsure(self, seen: FrameSightings) -> bool:
        """Whether something was seen that is neither a face by score nor part of one."""
        weak = seen.scores < self._policy.detect_threshold
        if not weak.any():
            return False
        if weak.all():
            return True
        return bool((overlap(seen.boxes[weak], seen.boxes[~weak]).max(axis=1) < 0.1).any())

    def _sample(self, window: list[_Look]) -> None:
        rate = self._policy.verify_rate_hz
        if self._verifier is None or rate <= 0:
            return
        interval = self._geometry.timescale / rate
        looks = window[1:] if len(window) > 1 else window
        due = [look for look in looks if look.frame.tick - self._found.ticks[0] >= self._verify_due]
        if due:
            # a frame that the detector did not see tests the bridging too
            unseen = [look for look in due if look.frame.index not in self._found.detected]
            chosen = (unseen or due)[0]
            self.verify(chosen.frame)
            self._verify_due = chosen.frame.tick - self._found.ticks[0] + interval

    def verify(self, frame: ClipFrame) -> None:
        """Show the verifier this frame, once."""
        if self._verifier is None or frame.index in self._asked:
            return
        self._asked.add(frame.index)
        while len(self._pending) >= _MOST_PENDING:
            self._collect()
        policy = self._policy
        # converted here: a PyAV frame keeps one scaler of its own, which two threads must not use at once
        picture = upright_picture(frame, self._geometry, policy.verify_long_side)
        job = self._pool.submit(see_picture, self._verifier, picture, self._geometry, policy)
        self._pending.append((frame.index, job))

    def _collect(self) -> None:
        index, job = self._pending.popleft()
        self._found.verified[index] = job.result()
