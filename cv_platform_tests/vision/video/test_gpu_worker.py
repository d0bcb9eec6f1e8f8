"""The GPU's process makes the same shard as the processor's, but for rounding; with a stand-in for NVDEC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'cv-platform[torch]'")

from cv_platform.vision.gpu.resample import Surface  # noqa: E402
from cv_platform.vision.video import gpu_worker, nvdec, probe  # noqa: E402
from cv_platform.vision.video.decode import ClipDecoder  # noqa: E402
from cv_platform.vision.video.limits import DEFAULT_LIMITS  # noqa: E402
from cv_platform.vision.video.sandbox import extract_frames  # noqa: E402
from cv_platform.vision.video.shards import read_shard  # noqa: E402


class OnProcessor(ClipDecoder):
    """`NvdecDecoder`'s surfaces, decoded by FFmpeg."""

    damaged = 0

    def __init__(self, clip: Any, *, rotation: int, **sampling: Any) -> None:
        super().__init__(clip, **sampling)
        self.turn = rotation

    def __iter__(self) -> Iterator[Surface]:  # type: ignore[override]
        index = 0
        for frame, pts_s in self._frames():
            if self._grid is not None and self._grid.takes(pts_s):
                nv12 = torch.from_numpy(frame.to_ndarray(format="nv12"))
                colour = int(frame.colorspace), int(frame.color_range)
                yield Surface(index, pts_s, nv12, self.turn, self._long_side, *colour)
                index += 1
        self.tally.damaged += self.damaged
        self.rotation = self.turn


def served(clip: Path, shard: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(nvdec, "check_suitable", lambda source, limits: probe.probe_clip(source, limits=limits))
    monkeypatch.setattr(nvdec, "NvdecDecoder", OnProcessor)
    return told(clip, shard)


def told(clip: Path, shard: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    sampling = {"fps": 5.0, "long_side": 320, "jpeg_quality": 92}
    gpu_worker._serve(
        {"source": str(clip), "shard": str(shard), **sampling, "limits": DEFAULT_LIMITS.as_dict()},
        lambda event, **values: events.append({"event": event, **values}),
    )
    return events


def test_the_same_shard_as_the_processors(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = shared_data / "clips" / "vtest_480x360.mp4"
    wanted = extract_frames(clip, tmp_path / "wanted.tar", fps=5, long_side=320)
    facts, done = served(clip, tmp_path / "ours.tar", monkeypatch)[-2:]
    assert (facts.pop("event"), done.pop("event")) == ("facts", "done")
    assert facts == wanted.facts.as_dict()
    assert (done["frames"], done["decoded"], done["damaged"]) == (wanted.frames, wanted.decoded, 0)
    assert done["last_pts_s"] == str(wanted.last_pts_s)
    ours, theirs = (list(read_shard((tmp_path / name).read_bytes())) for name in ("ours.tar", "wanted.tar"))
    for one, other in zip(ours, theirs, strict=True):
        assert (one.index, one.pts_s, one.width, one.height) == (other.index, other.pts_s, other.width, other.height)
        assert np.abs(one.image().astype(int) - other.image()).mean() < 3


def test_a_damaged_clip_is_left_to_the_processor(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnProcessor, "damaged", 1)
    events = served(shared_data / "clips" / "vtest_480x360.mp4", tmp_path / "ours.tar", monkeypatch)
    assert events[-1] == {"event": "left", "reason": "part of it is damaged"}
    assert not [event for event in events if event["event"] == "done"]


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert [event["event"] for event in told(tmp_path / "clip.mp4", tmp_path / "clip.tar")] == ["missing"]
