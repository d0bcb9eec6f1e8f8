from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest

from cv_platform.vision import confined
from cv_platform.vision.video import sandbox as sandbox_module
from cv_platform.vision.video.deadline import SECONDS_A_FRAME
from cv_platform.vision.video.limits import ClipLimits, ClipRejected
from cv_platform.vision.video.probe import probe_clip
from cv_platform.vision.video.sandbox import (
    ExtractionFailed,
    ExtractionStopped,
    extract_frames,
    probe_clip_sandboxed,
)
from cv_platform.vision.video.shards import read_shard
from cv_platform_tests.conftest import SHARED_DATA
from cv_platform_tests.vision.video.clips import number_of, write_clip

HOSTILE = sorted((SHARED_DATA / "hostile").glob("*"))
TIMES = [i * 100 for i in range(20)]


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_clip(tmp_path / "Jane Doe.mp4", TIMES)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory) -> Path:
    """Enough to decode for a few seconds: one noisy picture, 400 times."""
    path = tmp_path_factory.mktemp("clips") / "long.mkv"
    noise = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        frame = av.VideoFrame.from_ndarray(noise, format="bgr24")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        encoded = [bytes(packet) for packet in [*stream.encode(frame), *stream.encode(None)]]
        for i in range(400):
            packet = av.Packet(encoded[0])
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), True
            packet.pts = packet.dts = i
            out.mux(packet)
    return path


def workers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "cv_platform.vision.video.worker" in p.cmdline()]


def test_a_clip_becomes_a_shard(clip, tmp_path) -> None:
    shard = tmp_path / "clip.tar"
    summary = extract_frames(clip, shard, fps=5, long_side=960)
    kept = list(read_shard(shard.read_bytes()))
    assert [number_of(frame.image()) for frame in kept] == list(range(0, 20, 2))
    assert (summary.frames, summary.decoded, summary.damaged) == (10, 20, 0)
    assert summary.facts == probe_clip(clip)
    assert float(summary.last_pts_s) == 1.9
    assert summary.shard_bytes == shard.stat().st_size
    assert shard.stat().st_mode & 0o077 == 0
    assert {path.name for path in tmp_path.iterdir()} == {clip.name, shard.name}


def test_two_extractions_give_the_same_bytes(clip, tmp_path) -> None:
    digests = {extract_frames(clip, tmp_path / f"{i}.tar").shard_sha256 for i in range(2)}
    assert len(digests) == 1


def test_probing_in_the_sandbox_says_the_same(clip) -> None:
    assert probe_clip_sandboxed(clip) == probe_clip(clip)


@pytest.mark.parametrize("hostile", HOSTILE, ids=[path.name for path in HOSTILE])
def test_a_hostile_file_is_read_or_refused_in_words(hostile, tmp_path, capfd) -> None:
    shard = tmp_path / "shard.tar"
    started = time.monotonic()
    refused: ClipRejected | None = None
    try:
        summary = extract_frames(hostile, shard, limits=ClipLimits(decode_timeout_s=20))
        assert sum(1 for frame in read_shard(shard.read_bytes()) if frame.image().size) == summary.frames > 0
    except ClipRejected as verdict:
        refused = verdict
    if refused is not None:
        assert not shard.exists()
        assert "\n" not in refused.message
        assert 10 < len(refused.message) < 200
        for private in (hostile.name, hostile.stem, str(hostile.parent), os.sep + "data" + os.sep):
            assert private not in repr(refused)
    assert time.monotonic() - started < 30
    assert not workers()
    assert list(tmp_path.glob("*.partial")) == []
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def on_worker(act):
    """A `should_stop` that acts on the child once it has opened the clip; stops it where the act says True."""
    acted: list[int] = []

    def should_stop() -> bool:
        for worker in workers():
            # Not just any file: an interpreter that starts has modules open, and is not confined yet.
            if not acted and any(file.path.endswith((".mkv", ".mp4")) for file in worker.open_files()):
                acted.append(worker.pid)
                return bool(act(worker))
        return False

    return should_stop


@pytest.mark.parametrize("crash", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGBUS])
def test_a_crash_of_the_decoder_refuses_the_clip(long_clip, tmp_path, crash) -> None:
    with pytest.raises(ClipRejected) as refused:
        extract_frames(long_clip, tmp_path / "s.tar", should_stop=on_worker(lambda w: w.send_signal(crash)))
    assert refused.value.reason_code == "decoder_crashed"
    assert list(tmp_path.glob("s.tar*")) == []


def test_a_kill_from_outside_is_not_held_against_the_clip(long_clip, tmp_path) -> None:
    with pytest.raises(ExtractionFailed, match="killed from outside"):
        extract_frames(long_clip, tmp_path / "s.tar", should_stop=on_worker(lambda w: w.kill()))


def test_a_decoder_that_hangs_is_killed(long_clip, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(confined, "GRACE_S", 0.5)
    with pytest.raises(ClipRejected) as refused:
        extract_frames(
            long_clip,
            tmp_path / "s.tar",
            limits=ClipLimits(decode_timeout_s=1),
            should_stop=on_worker(lambda w: w.suspend()),
        )
    assert refused.value.reason_code == "decode_timeout"
    assert not workers()


def test_the_caller_may_stop_it(long_clip, tmp_path) -> None:
    with pytest.raises(ExtractionStopped):
        extract_frames(long_clip, tmp_path / "s.tar", should_stop=lambda: bool(workers()))
    assert not workers()
    assert list(tmp_path.glob("s.tar*")) == []


def test_the_child_holds_no_secret_and_is_confined(long_clip, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("CV_PLATFORM_POSTGRES_URL", "postgresql://secret")
    seen: list[tuple[dict[str, str], dict[str, object]]] = []

    def look(worker: psutil.Process) -> bool:
        limits = {name: worker.rlimit(getattr(psutil, name)) for name in ("RLIMIT_CORE", "RLIMIT_AS", "RLIMIT_CPU")}
        seen.append((worker.environ(), limits))
        return True

    with pytest.raises(ExtractionStopped):
        extract_frames(
            long_clip,
            tmp_path / "s.tar",
            limits=ClipLimits(decode_timeout_s=60, max_frames=400, max_memory_bytes=2**31),
            should_stop=on_worker(look),
        )
    ((environment, limits),) = seen
    assert not [name for name in environment if "AWS" in name or "CV_PLATFORM" in name]
    assert limits == {"RLIMIT_CORE": (0, 0), "RLIMIT_AS": (2**31, 2**31), "RLIMIT_CPU": (165, 170)}


class Telling:
    """A child that tells of (frames written, frames decoded), then refuses the clip."""

    def __init__(self, told: list[tuple[Any, Any]]) -> None:
        self._told = told
        self.allowed_s = 0.0

    def allow(self, seconds: float) -> None:
        self.allowed_s += seconds

    def events(self) -> Iterator[dict[str, Any]]:
        for frames, decoded in self._told:
            yield {"event": "progress", "frames": frames, "decoded": decoded}
        yield {"event": "rejected", "code": "damaged", "message": "enough"}


@pytest.mark.parametrize(
    ("told", "frames", "reason"),
    [
        ([(1, 10), (4, 40)], 40, "damaged"),
        ([(1, 10), (8, 80)], 80, "damaged"),  # twice the clip, twice the time
        ([(4, 40), (5, 40), (6, 12), (7, 40)], 40, "damaged"),  # told again earns nothing
        ([(9, 90), (10, 101)], 90, "damaged"),  # more than a clip may have
        ([(1, 10), (2, "90")], 10, "decoder_crashed"),
    ],
)
def test_a_long_clip_gets_longer_by_the_frames_that_are_decoded(
    clip, tmp_path, monkeypatch, told: list[tuple[Any, Any]], frames: int, reason: str
) -> None:
    child = Telling(told)

    @contextmanager
    def confined_child(*args: Any, **kwargs: Any) -> Iterator[Telling]:
        yield child

    monkeypatch.setattr(sandbox_module, "confined_child", confined_child)
    with pytest.raises(ClipRejected) as refused:
        extract_frames(clip, tmp_path / "s.tar", limits=ClipLimits(max_frames=100))
    assert refused.value.reason_code == reason
    assert child.allowed_s == pytest.approx(frames * SECONDS_A_FRAME)


def test_the_child_tells_of_every_frame_that_it_decodes(long_clip, tmp_path, monkeypatch) -> None:
    """Of a clip sampled rarely too: most of its time goes into frames that nobody asked for."""
    allowed: list[float] = []
    allow = confined.ConfinedChild.allow
    monkeypatch.setattr(
        confined.ConfinedChild, "allow", lambda child, seconds: (allowed.append(seconds), allow(child, seconds))
    )
    extract_frames(long_clip, tmp_path / "s.tar", fps=1)
    written = 16
    assert sum(allowed) > 2 * written * SECONDS_A_FRAME


def test_memory_is_limited(long_clip, tmp_path) -> None:
    with pytest.raises((ClipRejected, ExtractionFailed)) as stopped:
        extract_frames(long_clip, tmp_path / "s.tar", limits=ClipLimits(max_memory_bytes=300 * 2**20))
    if isinstance(stopped.value, ClipRejected):
        assert stopped.value.reason_code in {"out_of_memory", "decoder_crashed", "damaged", "no_frames"}


def test_progress_is_told(long_clip, tmp_path, monkeypatch) -> None:
    told: list[int] = []
    extract_frames(long_clip, tmp_path / "s.tar", fps=10, on_progress=told.append)
    assert told == sorted(told)
    assert told
    assert told[-1] <= 160


def test_the_child_dies_with_its_parent(long_clip, tmp_path) -> None:
    script = (
        "import sys; from pathlib import Path; from cv_platform.vision.video.sandbox import extract_frames;"
        "tell = lambda n: print('at work', flush=True);"
        "extract_frames(Path(sys.argv[1]), Path(sys.argv[2]), fps=25, on_progress=tell)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(long_clip), str(tmp_path / "s.tar")], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"at work\n"
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs([child], timeout=10)
    assert alive == []


def test_a_shard_that_cannot_be_written_is_not_held_against_the_clip(clip, tmp_path) -> None:
    with pytest.raises(ExtractionFailed, match="ENOENT"):
        extract_frames(clip, tmp_path / "no such folder" / "shard.tar")


def test_a_missing_source_is_the_callers_error(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        extract_frames(tmp_path / "nowhere.mp4", tmp_path / "s.tar")
