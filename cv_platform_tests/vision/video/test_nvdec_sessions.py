"""Decoders are kept for the next clip, and only those that are safe to keep; with a stand-in for PyNvVideoCodec."""

from __future__ import annotations

import ctypes
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from cv_platform.vision.video.decode import decode_sampled
from cv_platform.vision.video.limits import DEFAULT_LIMITS
from cv_platform.vision.video.nvdec import NvdecDecoder, NvdecUnsuitable
from cv_platform.vision.video.nvdec_sessions import NvdecSessions
from cv_platform.vision.video.probe import open_clip

KIND = ("h264", 0, 192, 144)


class StandIn:
    """Decodes Annex B as NVDEC does: frames in order of display, each with its packet's timestamp."""

    opened = 0

    def __init__(self, **_: Any) -> None:
        type(self).opened += 1
        self._codec: Any = av.CodecContext.create("h264", "r")

    def Decode(self, data: Any) -> list[Any]:  # noqa: N802 - the package's name
        packet = None
        if data.bsl:
            packet = av.Packet(ctypes.string_at(data.bsl_data, data.bsl))
            packet.pts = data.pts
        frames = self._codec.decode(packet)
        if packet is None:
            self._codec.flush_buffers()
        return [SimpleNamespace(shape=(f.height * 3 // 2, f.width), timestamp=f.pts) for f in frames]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    StandIn.opened = 0
    module = SimpleNamespace(
        PacketData=lambda: SimpleNamespace(bsl_data=0, bsl=0, pts=0),
        CreateDecoder=StandIn,
        cudaVideoCodec=SimpleNamespace(H264=4, HEVC=8),
    )
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", module)
    return StandIn


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of one size, one of another."""
    folder = tmp_path_factory.mktemp("clips")
    made = []
    for seed, width in enumerate((192, 192, 256)):
        path = folder / f"{seed}.mp4"
        rng = np.random.default_rng(seed)
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, 144, "yuv420p"
            for number in range(40):
                picture = rng.integers(0, 255, (144, width, 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        made.append(path)
    return made


def times(clip: Path, sessions: NvdecSessions, fps: float | None = None) -> list[Fraction]:
    with open_clip(clip) as handle:
        decoder = NvdecDecoder(handle, rotation=0, fps=fps, long_side=None, limits=DEFAULT_LIMITS, sessions=sessions)
        return [pts_s for _, pts_s in decoder._frames()]


@pytest.mark.parametrize("fps", [None, 5.0, 7.3])
def test_a_kept_decoder_gives_the_frames_of_the_processors(
    stand_in: type[StandIn], clips: list[Path], fps: float | None
) -> None:
    sessions = NvdecSessions()
    for clip in (clips[0], clips[1], clips[0]):
        assert times(clip, sessions, fps) == [frame.pts_s for frame in decode_sampled(clip, fps=fps)]
    assert stand_in.opened == 1
    assert len(sessions) == 1


def test_another_size_takes_another_decoder(stand_in: type[StandIn], clips: list[Path]) -> None:
    sessions = NvdecSessions()
    for clip in clips:
        times(clip, sessions)
    assert stand_in.opened == len(sessions) == 2


def test_a_decoder_that_failed_or_was_left_in_midstream_is_not_kept(
    stand_in: type[StandIn], clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = NvdecSessions()
    with open_clip(clips[0]) as handle:
        decoder = NvdecDecoder(handle, rotation=0, fps=None, long_side=None, limits=DEFAULT_LIMITS, sessions=sessions)
        next(decoder._frames())
    assert len(sessions) == 0

    def fails(*_: object) -> list[Any]:
        raise ArithmeticError("secret of the clip")

    monkeypatch.setattr(StandIn, "Decode", fails)
    with pytest.raises(NvdecUnsuitable, match=r"NVDEC stopped on this clip: ArithmeticError$"):
        times(clips[0], sessions)
    assert len(sessions) == 0


def test_the_one_that_waited_longest_goes_and_a_fresh_one_is_new(stand_in: type[StandIn]) -> None:
    sessions = NvdecSessions(2)
    three = [sessions.take(KIND) for _ in range(3)]
    for session in three:
        sessions.give_back(KIND, session)
    assert sessions.take(KIND, fresh=True) not in three
    assert [sessions.take(KIND), sessions.take(KIND)] == three[1:]
    sessions.give_back(KIND, three[1])
    sessions.close()
    assert len(sessions) == 0
