"""Work on the next frames while the caller is busy with this one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

Item = TypeVar("Item")

_END: Final = object()


def ahead(items: Iterable[Item], *, depth: int = 8) -> Iterator[Item]:
    """The same items in the same order, made by a thread that runs up to `depth` items ahead.

    Pays where making an item (decoding) and using it (a network) both leave Python. An error while making an item is
    raised where that item would have come. When the caller stops early, the thread ends after the item that it is at.

    Args:
        items: iterated in the other thread, and closed there.
        depth: most items that wait.

    Raises:
        ValueError: depth is below 1.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; allowed is 1 or more")
    waiting: queue.Queue[object] = queue.Queue(maxsize=depth)
    given_up = threading.Event()
    failure: list[BaseException] = []

    def put(item: object) -> bool:
        while not given_up.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not put(item):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failure.append(error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
            put(_END)

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            yield item  # type: ignore[misc]  # only items and _END are put
        if failure:
            raise failure[0]
    finally:
        given_up.set()
        thread.join()
