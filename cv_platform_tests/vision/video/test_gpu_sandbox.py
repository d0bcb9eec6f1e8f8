"""Whatever happens to the GPU's process, a clip comes out as the sandbox would have it; with a stand-in for the GPU."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cv_platform.vision import confined
from cv_platform.vision.video import gpu_sandbox
from cv_platform.vision.video.gpu_sandbox import MOST_LOST, GpuExtractor
from cv_platform.vision.video.limits import DEFAULT_LIMITS, ClipRejected
from cv_platform.vision.video.sandbox import ExtractionFailed, ExtractionStopped, ExtractionSummary, extract_frames
from cv_platform_tests.vision.video.clips import write_clip

CHILD = "cv_platform_tests.vision.video.gpu_child"
TIMES = [i * 100 for i in range(20)]


@pytest.fixture
def extractor() -> Iterator[GpuExtractor]:
    made = GpuExtractor(CHILD)
    yield made
    made._server.stop()


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if CHILD in child.cmdline()]


def extracted(extractor: GpuExtractor, folder: Path, name: str = "clip") -> ExtractionSummary:
    clip = write_clip(folder / f"{name}.mp4", TIMES)
    summary = extractor.extract_frames(clip, folder / f"{name}.tar", fps=5)
    wanted = extract_frames(clip, folder / "wanted.tar", fps=5)
    assert replace(summary, elapsed_s=0) == replace(wanted, elapsed_s=0)
    assert (folder / f"{name}.tar").read_bytes() == (folder / "wanted.tar").read_bytes()
    assert (folder / f"{name}.tar").stat().st_mode & 0o077 == 0
    assert not list(folder.glob("*.gpu"))
    return summary


def test_one_process_serves_clip_after_clip(tmp_path: Path, monkeypatch) -> None:
    extractor = GpuExtractor(CHILD)
    monkeypatch.setenv("CV_PLATFORM_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    extracted(extractor, tmp_path, "one")
    (child,) = children()
    assert child.environ()["CUDA_VISIBLE_DEVICES"] == "3"
    assert not [name for name in child.environ() if name.startswith("CV_PLATFORM")]
    extracted(extractor, tmp_path, "two")
    assert children() == [child]
    del extractor
    gc.collect()
    assert not children()


@pytest.mark.parametrize("name", ["left", "crash", "lost", "words"])
def test_what_the_gpu_does_not_manage_the_processor_does(
    extractor: GpuExtractor, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    extracted(extractor, tmp_path)
    (child,) = children()
    with caplog.at_level(logging.WARNING):
        extracted(extractor, tmp_path, name)
    (record,) = caplog.records
    assert "decoding on the processor" in record.message
    assert str(tmp_path) not in record.message
    extracted(extractor, tmp_path)
    assert (children() == [child]) == (name == "left")
    assert len(children()) == 1


def test_one_that_hangs_is_ended(extractor: GpuExtractor, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(confined, "GRACE_S", 0.5)
    clip = write_clip(tmp_path / "hang.mp4", TIMES)
    limits = replace(DEFAULT_LIMITS, decode_timeout_s=5)
    with monkeypatch.context() as patched:
        patched.setattr(gpu_sandbox, "extract_frames", lambda *_, **__: "the sandbox's")
        patched.setattr(gpu_sandbox, "_START_S", -4.0)
        assert extractor.extract_frames(clip, tmp_path / "hang.tar", limits=limits) == "the sandbox's"
    assert not children()
    assert not list(tmp_path.glob("*.gpu"))
    extracted(extractor, tmp_path)


def test_a_gpu_that_is_not_there_is_asked_once(
    extractor: GpuExtractor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        extracted(extractor, tmp_path, "missing")
        assert not children()
        extracted(extractor, tmp_path)
    assert len(caplog.records) == 1
    assert not children()


def test_after_so_many_in_a_row_no_more_go_there(
    extractor: GpuExtractor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("crash", "crash", "clip", *["crash"] * MOST_LOST):
        extracted(extractor, tmp_path, name)
    assert [f"on {MOST_LOST} in a row" in record.message for record in caplog.records] == [False] * 4 + [True]
    extracted(extractor, tmp_path)
    assert not children()


def test_a_bad_clip_is_refused_by_the_sandbox(extractor: GpuExtractor, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", TIMES)
    clip.write_bytes(clip.read_bytes()[:300])
    with pytest.raises(ClipRejected):
        extractor.extract_frames(clip, tmp_path / "clip.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert len(children()) == 1


def test_what_is_not_the_clips_doing_is_told(extractor: GpuExtractor, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "full.mp4", TIMES)
    with pytest.raises(ExtractionFailed, match="ENOSPC"):
        extractor.extract_frames(clip, tmp_path / "full.tar")
    with pytest.raises(FileNotFoundError):
        extractor.extract_frames(tmp_path / "none.mp4", tmp_path / "none.tar")


def test_it_stops_when_told_to(extractor: GpuExtractor, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "hang.mp4", TIMES)
    with pytest.raises(ExtractionStopped):
        extractor.extract_frames(clip, tmp_path / "hang.tar", should_stop=lambda: bool(list(tmp_path.glob("*.gpu"))))
    assert not children()
    assert [path.name for path in tmp_path.iterdir()] == ["hang.mp4"]
