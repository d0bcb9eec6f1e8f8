from __future__ import annotations

import io
import itertools
import threading
import time
from fractions import Fraction

import numpy as np
import pytest

from cv_platform.vision.detections import Detections
from cv_platform.vision.detectors.base import ConcurrentDetector, ShardDetector, ShardPicture
from cv_platform.vision.detectors.fused import FusedDetector
from cv_platform.vision.detectors.streaming import BATCH, detect_each, detect_in_shard
from cv_platform.vision.video.decode import SampledFrame
from cv_platform.vision.video.shards import ShardWriter


class Marks:
    """Answers with one box whose corner is the frame's first value; notes who calls and how many at once."""

    classes, version = (0,), "marks"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def warmup(self) -> None: ...

    def detect(self, frames) -> list[Detections]:
        self.calls.append(len(frames))
        return [Detections([[0, 0, frame[0, 0, 0], 1]], [0.5], [0]) for frame in frames]


class ConcurrentMarks(Marks):
    def __init__(self, lanes: int) -> None:
        super().__init__()
        self.lanes = lanes
        self._lock = threading.Lock()
        self.at_once = self.most_at_once = 0

    def detect_alongside(self, frames) -> list[Detections]:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.002 * (int(frames[0][0, 0, 0]) % 3))  # the first to begin is not the first to end
        with self._lock:
            self.at_once -= 1
        return self.detect(frames)


def picture(number: int) -> np.ndarray:
    return np.full((2, 2, 3), number, np.uint8)


@pytest.mark.parametrize("make", [Marks, *(lambda n=n: ConcurrentMarks(n) for n in (1, 2, 5))])
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_each_item_comes_with_its_own_answer_in_order(make, count) -> None:
    found = list(detect_each(make(), range(count), picture))
    assert [item for item, _ in found] == list(range(count))
    assert [float(answer.boxes[0, 2]) for _, answer in found] == list(range(count))


def test_as_many_frames_go_at_once_as_there_are_lanes() -> None:
    together = threading.Barrier(3, timeout=30)  # breaks unless three are in work at the same time

    class Meeting(ConcurrentMarks):
        def detect_alongside(self, frames) -> list[Detections]:
            together.wait()
            return super().detect_alongside(frames)

    detector = Meeting(3)
    assert len(list(detect_each(detector, range(9), picture))) == 9
    assert detector.most_at_once <= 3


def test_a_detector_for_one_caller_gets_batches() -> None:
    detector = Marks()
    list(detect_each(detector, range(BATCH + 3), picture))
    assert detector.calls == [BATCH, 3]


def test_no_more_is_read_than_the_caller_can_be_behind() -> None:
    read = itertools.count()
    items = (next(read) for _ in range(10**9))
    answers = detect_each(ConcurrentMarks(2), items, picture)
    next(answers)
    time.sleep(0.05)
    answers.close()
    assert next(read) <= 12


@pytest.mark.parametrize("lanes", [2, 4])
@pytest.mark.parametrize("where", ["read", "picture", "detect"])
def test_an_error_comes_where_its_answer_would_have(lanes, where) -> None:
    def items():
        yield from range(5)
        if where == "read":
            raise OSError("at 5")
        yield from range(5, 100)

    def fragile(number: int) -> np.ndarray:
        if number == 5 and where == "picture":
            raise OSError("at 5")
        return picture(number)

    class Fragile(ConcurrentMarks):
        def detect_alongside(self, frames) -> list[Detections]:
            if frames[0][0, 0, 0] == 5 and where == "detect":
                raise OSError("at 5")
            return super().detect_alongside(frames)

    answers = detect_each(Fragile(lanes), items(), fragile)
    assert [next(answers)[0] for _ in range(5)] == list(range(5))
    with pytest.raises(OSError, match="at 5"):
        next(answers)


def test_stopping_early_ends_the_threads_and_leaves_the_items_alone() -> None:
    before = set(threading.enumerate())
    items = iter(range(10**9))
    answers = detect_each(ConcurrentMarks(4), items, picture_of_any)
    assert next(answers)[0] == 0
    answers.close()
    assert set(threading.enumerate()) <= before
    left = next(items)
    assert next(items) == left + 1


def picture_of_any(number: int) -> np.ndarray:
    return picture(number % 256)


def test_a_fused_detector_has_the_lanes_that_all_of_its_parts_have() -> None:
    fused = FusedDetector([ConcurrentMarks(4), ConcurrentMarks(2)])
    assert isinstance(fused, ConcurrentDetector)
    assert fused.lanes == 2
    found = [answer for _, answer in detect_each(fused, range(20), picture)]
    assert found == fused.detect([picture(number) for number in range(20)])
    single = FusedDetector([ConcurrentMarks(4), Marks()])
    assert single.lanes == 1
    with pytest.raises(TypeError, match="one caller"):
        single.detect_alongside([picture(0)])
    assert len(list(detect_each(single, range(3), picture))) == 3


def shard(frames: int) -> io.BytesIO:
    file = io.BytesIO()
    with ShardWriter(file) as writer:
        for n in range(frames):
            writer.add(SampledFrame(n, Fraction(n, 7), np.full((20 + n, 30, 3), 10 * n, np.uint8)))
    file.seek(0)
    return file


def test_a_shard_is_decoded_for_a_detector_that_takes_pictures() -> None:
    told = list(detect_in_shard(Marks(), shard(3)))
    assert [picture for picture, _ in told] == [ShardPicture(Fraction(n, 7), 30, 20 + n) for n in range(3)]
    assert [float(found.boxes[0, 2]) for _, found in told] == pytest.approx([0, 10, 20], abs=1)


def test_a_detector_that_reads_shards_is_given_the_shard() -> None:
    class Reads(Marks):
        def detect_shard(self, shard):
            self.given = shard
            yield ShardPicture(Fraction(1, 3), 30, 20), Detections.empty()

    detector, file = Reads(), shard(2)
    assert isinstance(detector, ShardDetector)
    assert [picture.pts_s for picture, _ in detect_in_shard(detector, file)] == [Fraction(1, 3)]
    assert detector.given is file
    assert detector.calls == []
