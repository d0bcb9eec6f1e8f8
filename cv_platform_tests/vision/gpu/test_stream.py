"""Many sources become one stream of batches: nothing lost, each source in order, one's error its own."""

import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'cv-platform[torch]'")

from cv_platform.vision.detections import Detections  # noqa: E402
from cv_platform.vision.detectors.torch_backend import Pending  # noqa: E402
from cv_platform.vision.gpu.lost import DeviceLost  # noqa: E402
from cv_platform.vision.gpu.stream import Item, detect_streams, serve_streams  # noqa: E402


class Marking:
    """Answers each frame with a box as wide as the number in it."""

    batch_size = 4

    def __init__(self) -> None:
        self.most = 0

    def warmup(self) -> None:
        """Nothing to warm up."""

    def without_capture(self) -> Any:
        return nullcontext()

    def submit(self, frames: list[Any]) -> Pending:
        self.most = max(self.most, len(frames))
        found = [Detections([[0, 0, float(f[0]), 1]], [0.5], [0]) for f in frames]
        return Pending([lambda: found], [range(len(frames))])


def opened(source: int) -> Iterator[Item | list[Item]]:
    for n in range(source):
        if n == 7:
            raise ValueError("damaged")
        item = Item(n, Fraction(n, 5), np.array([source * 100 + n]))
        yield [item] if n % 2 else item


@pytest.mark.parametrize("streams", [1, 3, 8])
def test_every_frame_once_in_order_and_the_end_of_each(streams: int) -> None:
    detector = Marking()
    seen: dict[int, list[int]] = {}
    ended: dict[int, tuple[int, str]] = {}
    for found in detect_streams([3, 0, 5, 9, 6], opened, detector, streams=streams):  # type: ignore[arg-type]
        if found.detections is None:
            ended[found.source] = (found.index, str(found.error or ""))
            continue
        assert found.source not in ended
        assert found.detections.boxes[0, 2] == found.source * 100 + found.index
        assert found.pts_s == Fraction(found.index, 5)
        seen.setdefault(found.source, []).append(found.index)
    assert seen == {3: [0, 1, 2], 5: [*range(5)], 9: [*range(7)], 6: [*range(6)]}
    assert ended == {3: (3, ""), 0: (0, ""), 5: (5, ""), 9: (7, "damaged"), 6: (6, "")}
    assert detector.most <= 4


def test_stopping_early_ends_the_threads() -> None:
    stream = detect_streams([50] * 4, opened, Marking(), streams=2, prefetch=1)  # type: ignore[arg-type]
    next(stream)
    stream.close()


def test_an_error_ends_all_though_no_next_source_ever_comes() -> None:
    """As in a worker of `spread`: it is given more only once it has ended something."""
    asked, never = threading.Event(), threading.Event()

    def sources() -> Iterator[int]:
        yield 1
        asked.set()
        never.wait(60)

    class Lost(Marking):
        def submit(self, frames: list[Any]) -> Pending:
            asked.wait(10)
            raise DeviceLost("CUDA error")

    started = time.monotonic()
    with pytest.raises(DeviceLost):
        list(detect_streams(sources(), opened, Lost(), streams=2))  # type: ignore[arg-type]
    assert time.monotonic() - started < 30
    never.set()


def lost(source: int) -> Iterator[Item]:
    yield Item(0, Fraction(0), np.array([source]))
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")


def test_a_cuda_error_of_one_source_ends_all_of_them() -> None:
    with pytest.raises(DeviceLost, match=r"has to end: CUDA error: an illegal memory access was encountered$"):
        list(detect_streams([1, 2, 3], lost, Marking(), streams=2))  # type: ignore[arg-type]


def test_a_cuda_error_of_the_network_is_told_too_little_memory_is_not() -> None:
    def broken() -> list[Detections]:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")

    def scarce() -> list[Detections]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. CUDA error follows")

    with pytest.raises(DeviceLost):
        Pending([broken], [range(1)]).result()
    with pytest.raises(torch.cuda.OutOfMemoryError):
        Pending([scarce], [range(1)]).result()


def test_a_worker_of_many_sources_tells_each_ones_end() -> None:
    told = list(
        serve_streams(enumerate([3, 9]), make_detector=Marking, open_source=opened, streams=2)  # type: ignore[arg-type]
    )
    assert {number: (index, error) for number, (index, _, _, error), last in told if last} == {
        0: (3, None),
        1: (7, "ValueError"),
    }
    assert [number for number, _, last in told if not last].count(1) == 7


class Scarce(Marking):
    """Has room for two frames at once."""

    def submit(self, frames: list[Any]) -> Pending:
        if len(frames) > 2:
            raise torch.cuda.OutOfMemoryError
        return super().submit(frames)

    def halve_batch(self) -> None:
        """As a detector does."""
        self.batch_size //= 2

    def detect(self, frames: list[Any]) -> list[Detections]:
        """In what is its batch by now."""
        starts = range(0, len(frames), self.batch_size)
        return [found for at in starts for found in self.submit(frames[at : at + self.batch_size]).result()]


def test_out_of_memory_halves_the_batch_and_loses_no_frame() -> None:
    detector = Scarce()
    stream = detect_streams([6, 5], opened, detector, streams=2)  # type: ignore[arg-type]
    found = [(one.source, one.index) for one in stream if one.detections is not None]
    assert sorted(found) == sorted([(6, n) for n in range(6)] + [(5, n) for n in range(5)])
    assert detector.batch_size == detector.most == 2
