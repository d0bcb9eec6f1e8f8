"""Several clips or shards at once as one stream of batches: what keeps a GPU's decoder and its network busy together.

A thread a clip decodes into one bounded queue; the caller's thread fills batches from it, across clips, and always has
one batch more submitted than it waits for. So decoding of the next batch runs under inference of this one.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, TypeVar

import torch

from cv_platform.vision.detections import Detections
from cv_platform.vision.detectors.torch_backend import Pending, Picture, TorchDetector
from cv_platform.vision.detectors.torchvision_backend import TorchvisionDetector
from cv_platform.vision.gpu.lost import DeviceLost, telling_loss

Source = TypeVar("Source")

_WAIT_S = 0.1


@dataclass(frozen=True)
class Found(Generic[Source]):
    """What was found in one frame; or, once a source, how it ended.

    Attributes:
        source: as it was given.
        index: 0, 1, 2, … among the source's frames; at its end, how many there were.
        pts_s: exact seconds since the first frame.
        detections: None at the end of a source.
        error: at the end: what went wrong with this source; None where nothing did.
    """

    source: Source
    index: int
    pts_s: Fraction
    detections: Detections | None
    error: Exception | None = None


@dataclass(frozen=True)
class Item:
    """One frame on its way to the network."""

    index: int
    pts_s: Fraction
    picture: Picture


def detect_streams(
    sources: Iterable[Source],
    open_source: Callable[[Source], Iterable[Item | list[Item]]],
    detector: TorchDetector | TorchvisionDetector,
    *,
    streams: int = 16,
    prefetch: int | None = None,
    linger_s: float = 0.02,
) -> Generator[Found[Source]]:
    """Find objects in the frames of many sources.

    Frames of one source come in order, and its end (see `Found`) comes after them; sources are mixed. One source's
    error ends that source alone.

    Args:
        sources: clips, shards, or whatever `open_source` understands.
        open_source: gives a source's frames, one by one or several at once; called and iterated in one of the decoding
            threads.
        detector: used by the caller's thread alone; warmed up before, or it runs without its graphs.
        streams: sources decoded at once.
        prefetch: pieces that may wait for the network; two batches' worth of single frames where left out.
        linger_s: how long a batch may wait for more frames once it has one.

    Raises:
        DeviceLost: a CUDA error, whichever source met it. What has not come to its end is still to do: give it back
            and end the process.
    """
    if streams < 1:
        raise ValueError(f"streams is {streams}; allowed is 1 or more")
    waiting: queue.Queue[tuple[Any, Any, Exception | None]] = queue.Queue(maxsize=prefetch or 2 * detector.batch_size)
    to_do = iter(sources)
    lock, given_up = threading.Lock(), threading.Event()
    asking: set[threading.Thread] = set()

    def put(entry: tuple[Any, Any, Exception | None]) -> None:
        while not given_up.is_set():
            with suppress(queue.Full):
                waiting.put(entry, timeout=_WAIT_S)
                return

    def work() -> None:
        while not given_up.is_set():
            asking.add(threading.current_thread())
            with lock:
                source = next(to_do, _END)
            asking.discard(threading.current_thread())
            if source is _END:
                break
            if given_up.is_set():
                return
            count, last, error = 0, Fraction(0), None
            try:
                with telling_loss():
                    for piece in open_source(source):  # type: ignore[arg-type]
                        items = piece if isinstance(piece, list) else [piece]
                        put((source, items, None))
                        count, last = count + len(items), items[-1].pts_s
                        if given_up.is_set():
                            return
            except Exception as failure:  # noqa: BLE001 - handed on with the source that it belongs to
                error = failure
            put((source, [Item(count, last, _END)], error))
        put((_END, None, None))

    threads = [threading.Thread(target=work, name=f"decode-{n}", daemon=True) for n in range(streams)]
    for thread in threads:
        thread.start()
    try:
        with detector.without_capture():
            yield from _batched(waiting, detector, streams, linger_s)
    finally:
        given_up.set()
        for thread in threads:
            # one that asks for the next source may wait for it without end; it opens nothing any more
            while thread.is_alive() and thread not in asking:
                thread.join(_WAIT_S)


def serve_streams(
    tasks: Iterator[tuple[int, Source]],
    *,
    make_detector: Callable[[], TorchDetector | TorchvisionDetector],
    open_source: Callable[[Source], Iterable[Item | list[Item]]],
    streams: int = 16,
) -> Iterator[tuple[int, tuple[int, Fraction, Detections | None, str | None], bool]]:
    """A worker for `workers.spread`, with `functools.partial`: many sources at once through one GPU's detector.

    Args:
        tasks: numbered sources.
        make_detector: called once, in the worker's process.
        open_source: as in `detect_streams`.
        streams: sources decoded at once; `in_hand` of `spread` should be more, so that some wait.

    Returns:
        A source's number; a frame's index, time and detections, or at its end None and what went wrong (the error's
        type); whether it is the end.
    """
    detector = make_detector()
    detector.warmup()
    for found in detect_streams(tasks, lambda task: open_source(task[1]), detector, streams=streams):
        error = None if found.error is None else type(found.error).__name__
        yield found.source[0], (found.index, found.pts_s, found.detections, error), found.detections is None


_END: Any = object()


def _batched(
    waiting: Any, detector: TorchDetector | TorchvisionDetector, streams: int, linger_s: float
) -> Iterator[Found[Any]]:
    running: deque[tuple[list[Any], Pending | list[Detections]]] = deque()
    ready: deque[Any] = deque()
    open_streams = streams
    while open_streams or running or ready:
        while open_streams and len(ready) < detector.batch_size:
            try:
                # with a batch in the air, a short wait; its result is due otherwise
                source, items, error = waiting.get(timeout=linger_s if ready or running else None)
            except queue.Empty:
                break
            if isinstance(error, DeviceLost):
                raise error
            if source is _END:
                open_streams -= 1
            else:
                ready.extend((source, item, error) for item in items)
        entries = [ready.popleft() for _ in range(min(len(ready), detector.batch_size))]
        if entries:
            running.append((entries, _submitted(detector, entries)))
        if running and (len(running) > 1 or not entries):
            yield from _results(*running.popleft())


def _submitted(detector: TorchDetector | TorchvisionDetector, entries: Sequence[Any]) -> Pending | list[Detections]:
    pictures = [entry[1].picture for entry in entries if entry[1].picture is not _END]
    if not pictures:
        return []
    try:
        return detector.submit(pictures)
    except torch.cuda.OutOfMemoryError:
        detector.halve_batch()
        return detector.detect(pictures)


def _results(entries: Sequence[Any], pending: Pending | list[Detections]) -> Iterator[Found[Any]]:
    found = iter(pending.result() if isinstance(pending, Pending) else pending)
    for source, item, error in entries:
        detections = None if item.picture is _END else next(found)
        yield Found(source, item.index, item.pts_s, detections, error)
