"""Threads with bounded queues between them: what makes the stages overlap and the memory flat."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_S = 0.1


class _End:
    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Prefetched(Generic[T]):
    """Runs an iterable in a thread of its own, at most `depth` items ahead.

    A context manager: leaving it stops the thread, also where the items were not all taken. An error of the iterable
    is raised where its items are taken.
    """

    def __init__(self, items: Iterable[T], *, depth: int) -> None:
        self._items = items
        self._queue: queue.Queue[T | _End] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._take()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        end = _End()
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that takes the items
            end = _End(error)
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
        self._put(end)

    def _put(self, item: T | _End) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def _take(self) -> Iterator[T]:
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item


class Consumer(Generic[T]):
    """Hands items to a function that runs in a thread of its own, at most `depth` items behind.

    An error of the function is raised by the next `put` or by `finish`. A context manager; leaving it by an error
    drops what is still queued.
    """

    def __init__(self, function: Callable[[T], None], *, depth: int) -> None:
        self._function = function
        self._queue: queue.Queue[T | _End] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="consume", daemon=True)

    def __enter__(self) -> Consumer[T]:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None and self._error is None:
            self._error = error
        self._end()
        if error is None:
            self._raise()

    def put(self, item: T) -> None:
        """Queue one item; waits where the queue is full."""
        self._raise()
        self._queue.put(item)

    def _end(self) -> None:
        self._queue.put(_End())
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        # goes on taking after an error, so that no put waits for ever
        while not isinstance(item := self._queue.get(), _End):
            if self._error is None:
                try:
                    self._function(item)
                except BaseException as error:  # noqa: BLE001 - raised where items are put
                    self._error = error
