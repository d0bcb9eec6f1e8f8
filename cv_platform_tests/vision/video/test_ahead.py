from __future__ import annotations

import threading

import pytest

from cv_platform.vision.video.ahead import ahead


def test_items_come_in_order() -> None:
    assert list(ahead(range(1000), depth=3)) == list(range(1000))


def test_an_error_comes_where_its_item_would_have() -> None:
    def items():
        yield 1
        yield 2
        raise OSError("gone")

    iterator = ahead(items())
    assert [next(iterator), next(iterator)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(iterator)


def test_stopping_early_ends_the_thread_and_closes_the_source() -> None:
    closed = []

    def items():
        try:
            yield from range(10**9)
        finally:
            closed.append(threading.current_thread().name)

    before = threading.active_count()
    iterator = ahead(items(), depth=2)
    assert next(iterator) == 0
    iterator.close()
    assert closed == ["ahead"]
    assert threading.active_count() == before


def test_a_depth_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="depth"):
        next(ahead([1], depth=0))
