"""A detector over a long run of frames, all cores busy from the first to the last.

Calls of `Detector.detect`, one after the other, leave cores idle: while frames are decoded, and at the end of each
call until its slowest frame is done. Here every core takes the next frame, makes its picture, and runs it through the
network to its boxes on its own; only reading the next item is one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import BinaryIO, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from cv_platform.vision.detections import Detections
from cv_platform.vision.detectors.base import ConcurrentDetector, Detector, ShardDetector, ShardPicture
from cv_platform.vision.video.shards import ShardFrame, read_shard

Item = TypeVar("Item")
Picture = npt.NDArray[np.uint8]

BATCH: Final = 8
"""Frames a call where there is one caller."""
_AHEAD: Final = 4
"""Frames a thread that may be done, or in work, before the caller asks for them: they are held in memory."""


def detect_in_shard(detector: Detector, shard: BinaryIO) -> Generator[tuple[ShardPicture, Detections]]:
    """Find objects in a shard's pictures, in order: decoded where the detector runs, if it does that itself.

    Args:
        detector: any; closing the generator leaves it to other callers.
        shard: a file of the disk, at its start.

    Raises:
        ValueError: the shard or one of its pictures is damaged.
    """
    if isinstance(detector, ShardDetector):
        yield from detector.detect_shard(shard)
        return
    with closing(detect_each(detector, read_shard(shard), ShardFrame.image)) as answers:
        for frame, found in answers:
            yield ShardPicture(frame.pts_s, frame.width, frame.height), found


def detect_each(
    detector: Detector, items: Iterable[Item], picture: Callable[[Item], Picture]
) -> Generator[tuple[Item, Detections]]:
    """Find objects in each item's picture; items and answers in the items' order.

    An error while an item is read, made into a picture, or looked at is raised where its answer would have come.
    Closing the generator ends its threads after the frame that each is at; the iterator of items is never in use after
    that, and stays open.

    Args:
        detector: with several lanes, it is used by as many threads at once, the caller's among them.
        items: what a picture can be made of, read one at a time.
        picture: an item's picture, BGR, uint8 (H, W, 3); called by several threads at once.
    """
    if isinstance(detector, ConcurrentDetector) and detector.lanes > 1:
        yield from _Lanes(detector, items, picture)
    else:
        iterator = iter(items)
        while batch := list(islice(iterator, BATCH)):
            yield from zip(batch, detector.detect([picture(item) for item in batch]), strict=True)


class _Lanes(Generic[Item]):
    """The frames in work: who takes the next one, and which are done."""

    def __init__(self, detector: ConcurrentDetector, items: Iterable[Item], picture: Callable[[Item], Picture]) -> None:
        self._detector, self._picture = detector, picture
        self._items = iter(items)
        self._reading = threading.Lock()
        self._change = threading.Condition()
        self._done: dict[int, tuple[Item, Detections] | BaseException] = {}
        self._taken = 0
        self._given = 0
        self._ended = False

    def __iter__(self) -> Iterator[tuple[Item, Detections]]:
        helpers = [
            threading.Thread(target=self._help, name=f"detect-{n}", daemon=True) for n in range(1, self._detector.lanes)
        ]
        for helper in helpers:
            helper.start()
        try:
            while (answer := self._next()) is not None:
                yield answer
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()
            for helper in helpers:
                helper.join()

    def _next(self) -> tuple[Item, Detections] | None:
        """The next answer in order; the caller's thread works while it waits for it. None after the last."""
        while True:
            with self._change:
                found = self._done.pop(self._given, None)
                if found is not None:
                    self._given += 1
                    self._change.notify_all()
                    break
                if self._ended and self._given == self._taken:
                    return None
                if self._ended or self._taken - self._given >= self._most:
                    self._change.wait()
                    continue
            self._work()
        if isinstance(found, BaseException):
            raise found
        return found

    @property
    def _most(self) -> int:
        return _AHEAD * self._detector.lanes

    def _help(self) -> None:
        while True:
            with self._change:
                while not self._ended and self._taken - self._given >= self._most:
                    self._change.wait()
                if self._ended:
                    return
            self._work()

    def _work(self) -> None:
        """Take one item and see it through."""
        failure: BaseException | None = None
        with self._reading:
            if self._ended:
                return
            try:
                item = next(self._items)
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                failure = error
            with self._change:
                number = self._taken
                if failure is not None:
                    self._ended = True
                    self._change.notify_all()
                if isinstance(failure, StopIteration):
                    return
                self._taken += 1
        if failure is None:
            try:
                answer = item, self._detector.detect_alongside([self._picture(item)])[0]
            except BaseException as error:  # noqa: BLE001 - as above
                failure = error
        with self._change:
            self._done[number] = answer if failure is None else failure
            self._change.notify_all()
