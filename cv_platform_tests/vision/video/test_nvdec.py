"""What goes to NVDEC and what does not, and what is said then."""

import logging
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from cv_platform.vision.video.decode import SamplingGrid, decode_sampled
from cv_platform.vision.video.nvdec import NvdecUnsuitable, sampled_frames, unsuitable
from cv_platform.vision.video.probe import ClipFacts

FACTS = ClipFacts("mov", "h264", 1920, 1080, 0, 10.0, Fraction(25), 250, Fraction(1, 12800), Fraction(0), False, 1000)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"codec": "hevc", "width": 7680, "height": 4320}, None),
        ({"codec": "mpeg4"}, "codec is mpeg4"),
        ({"width": 1919}, "even sizes"),
        ({"width": 5000}, "144 to 4096"),
        ({"width": 128, "height": 96}, "144 to 4096"),
    ],
)
def test_which_clips_are_for_nvdec(change: dict[str, object], reason: str | None) -> None:
    said = unsuitable(replace(FACTS, **change))  # type: ignore[arg-type]
    assert said is None if reason is None else said is not None and reason in said


def test_falls_back_with_one_line(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'cv-platform[torch]'")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    clip = shared_data / "clips" / "vtest_480x360.mp4"
    with caplog.at_level(logging.WARNING):
        ours = [(frame.index, frame.pts_s) for frame in sampled_frames(clip, fps=1)]
    assert ours == [(frame.index, frame.pts_s) for frame in decode_sampled(clip, fps=1)]
    assert len(caplog.records) == 1
    with pytest.raises(NvdecUnsuitable):
        next(sampled_frames(clip, backend="nvdec"))


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="auto, cpu, nvdec"):
        next(sampled_frames(tmp_path, backend="gpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("fps", [Fraction(5), Fraction(73, 10), Fraction(30000, 1001)])
def test_next_s_is_where_the_grid_next_says_yes(fps: Fraction) -> None:
    """The GPU's decoder compares ticks with it, and must take just the frames that the grid takes."""
    tick = Fraction(1, 12800)
    grid, twin = SamplingGrid(fps, tick_s=tick), SamplingGrid(fps, tick_s=tick)
    taken = [t for t in range(0, 40000, 427) if t * tick >= twin.next_s and twin.takes(t * tick)]
    assert taken == [t for t in range(0, 40000, 427) if grid.takes(t * tick)]
