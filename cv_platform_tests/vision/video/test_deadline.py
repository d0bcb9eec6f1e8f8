"""What a clip may take grows with what comes of it, and with nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cv_platform.vision.anonymise import AnonymisationFailed
from cv_platform.vision.anonymise.source import FrameReader
from cv_platform.vision.video import deadline
from cv_platform.vision.video.decode import ClipDecoder
from cv_platform.vision.video.limits import ClipLimits, ClipRejected
from cv_platform.vision.video.nvdec import NvdecDecoder
from cv_platform.vision.video.probe import open_clip
from cv_platform_tests.vision.video.clips import write_clip

FRAMES = 60
LIMITS = ClipLimits(decode_timeout_s=1)


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(deadline, "time", made)
    return made


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", [i * 40 for i in range(FRAMES)])


class Slow:
    """A packet or a list of packets that takes so many seconds to decode; `barren` ones give no frame."""

    def __init__(self, packets: Any, clock: Clock, seconds: float, *, barren: bool) -> None:
        self._packets, self._clock, self._seconds, self._barren = packets, clock, seconds, barren

    def __iter__(self) -> Iterator[Any]:
        return (_SlowPacket(packet, self) for packet in self._packets)

    def decode(self, packet: Any) -> list[Any]:
        self._clock.now += self._seconds
        frames: list[Any] = packet.decode()
        return [] if self._barren else frames


class _SlowPacket:
    def __init__(self, packet: Any, slow: Slow) -> None:
        self._packet, self._slow = packet, slow

    def __getattr__(self, name: str) -> Any:
        return getattr(self._packet, name)

    def decode(self) -> list[Any]:
        return self._slow.decode(self._packet)


def slowly(monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float, *, barren: bool = False) -> None:
    """Have each packet of any clip take so long."""
    from cv_platform.vision.video.probe import OpenClip

    packets = OpenClip.packets
    monkeypatch.setattr(OpenClip, "packets", lambda clip: iter(Slow(packets(clip), clock, seconds, barren=barren)))


def by_processor(clip: Path, clock: Clock, *, meanwhile_s: float = 0.0) -> int:
    frames = 0
    with open_clip(clip, limits=LIMITS) as opened:
        for _ in ClipDecoder(opened, fps=None, long_side=None, limits=LIMITS):
            clock.now += meanwhile_s
            frames += 1
    return frames


def by_anonymiser(clip: Path, clock: Clock, *, meanwhile_s: float = 0.0) -> int:
    frames = 0
    try:
        for _ in FrameReader(clip, limits=LIMITS, should_stop=lambda: False):
            clock.now += meanwhile_s
            frames += 1
    except AnonymisationFailed as failed:
        raise ClipRejected(failed.reason_code, failed.message) from None
    return frames


READERS = pytest.mark.parametrize("read", [by_processor, by_anonymiser])


@READERS
def test_a_long_clip_on_a_slow_machine_is_decoded(
    clip: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, read: Any
) -> None:
    slowly(monkeypatch, clock, 0.8 * deadline.SECONDS_A_FRAME)
    assert read(clip, clock) == FRAMES
    assert clock.now > 105, "longer than the fixed time"


@READERS
def test_what_takes_more_than_its_frames_earn_ends(
    clip: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, read: Any
) -> None:
    slowly(monkeypatch, clock, 1.3 * deadline.SECONDS_A_FRAME)
    with pytest.raises(ClipRejected, match="more than the"):
        read(clip, clock)


@READERS
def test_packets_of_which_nothing_comes_earn_nothing(
    clip: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, read: Any
) -> None:
    slowly(monkeypatch, clock, 0.1, barren=True)
    with pytest.raises(ClipRejected) as refused:
        read(clip, clock)
    assert refused.value.reason_code == "decode_timeout"


@READERS
def test_time_spent_on_the_frames_is_not_the_decoders(clip: Path, clock: Clock, read: Any) -> None:
    assert read(clip, clock, meanwhile_s=10.0) == FRAMES


@pytest.mark.parametrize(("share", "meanwhile_s", "ends"), [(0.8, 0.0, False), (0.8, 10.0, False), (1.3, 0.0, True)])
def test_the_graphics_processors_decoder_too(
    clip: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, share: float, meanwhile_s: float, ends: bool
) -> None:
    def decoded(decoder: NvdecDecoder) -> Iterator[Any]:
        for number in range(FRAMES):
            clock.now += share * deadline.SECONDS_A_FRAME
            yield SimpleNamespace(shape=(72, 64), timestamp=number)

    monkeypatch.setattr(NvdecDecoder, "_decoded", decoded)
    frames = 0
    with open_clip(clip, limits=LIMITS) as opened:
        assert opened.stream.time_base
        decoder = NvdecDecoder(opened, rotation=0, fps=None, long_side=None, limits=LIMITS)
        with pytest.raises(ClipRejected, match="more than the") if ends else nullcontext():
            for _ in decoder._frames():
                clock.now += meanwhile_s
                frames += 1
    assert (frames < FRAMES) == ends


def test_the_longest_that_a_clip_may_take_is_bounded() -> None:
    assert deadline.longest_s(ClipLimits(decode_timeout_s=10, max_frames=100)) == 10 + 100 * deadline.SECONDS_A_FRAME
