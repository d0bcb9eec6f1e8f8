"""Detectors and clips whose truth is known: bright squares on a dark ground, found without a network."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from cv_platform.vision.classes import FACE
from cv_platform.vision.detections import Detections

Picture = npt.NDArray[np.uint8]


class BrightSquares:
    """Finds bright squares: one for each connected column range brighter than 150."""

    classes = (FACE,)

    def __init__(self, *, version: str = "bright", score: float = 0.9, blind: bool = False) -> None:
        self.version = version
        self.calls = 0
        self._score = score
        self._blind = blind

    def warmup(self) -> None:
        """Nothing to load."""

    def detect(self, frames: Sequence[Picture]) -> list[Detections]:
        self.calls += len(frames)
        return [self._one(frame) for frame in frames]

    def _one(self, frame: Picture) -> Detections:
        bright = frame.mean(axis=2) > 150
        columns = bright.any(axis=0).astype(np.int8)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], columns, [0]])))
        boxes = []
        for x1, x2 in zip(edges[::2], edges[1::2], strict=True):
            rows = np.flatnonzero(bright[:, x1:x2].any(axis=1))
            if len(rows) >= 4 and x2 - x1 >= 4:
                boxes.append([x1, rows[0], x2, rows[-1] + 1])
        if self._blind or not boxes:
            return Detections.empty()
        n = len(boxes)
        return Detections(np.array(boxes, np.float32), np.full(n, self._score), np.full(n, FACE))


class UprightSquares(BrightSquares):
    """Finds bright squares only where they are squares: as a face model, it takes nothing squeezed for a face."""

    def _one(self, frame: Picture) -> Detections:
        found = super()._one(frame)
        width, height = found.boxes[:, 2] - found.boxes[:, 0], found.boxes[:, 3] - found.boxes[:, 1]
        kept = (width < 1.3 * height) & (height < 1.3 * width)
        return Detections(found.boxes[kept], found.scores[kept], found.class_ids[kept])


class Everywhere:
    """Finds a face at another place each time it is asked: what no plan can cover."""

    classes = (FACE,)
    version = "everywhere"

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)

    def warmup(self) -> None:
        """Nothing to load."""

    def detect(self, frames: Sequence[Picture]) -> list[Detections]:
        found = []
        for frame in frames:
            x, y = self._random.uniform(0, frame.shape[1] - 21), self._random.uniform(0, frame.shape[0] - 21)
            found.append(Detections(np.array([[x, y, x + 20, y + 20]], np.float32), np.array([0.99]), np.array([FACE])))
        return found


class Crashing:
    """Kills its process, as a broken native library does."""

    classes = (FACE,)
    version = "crashing"

    def warmup(self) -> None:
        """Nothing to load."""

    def detect(self, frames: Sequence[Picture]) -> list[Detections]:
        os.kill(os.getpid(), signal.SIGSEGV)
        return []


class Failing:
    """Raises, its message full of what must not be told."""

    classes = (FACE,)
    version = "failing"

    def warmup(self) -> None:
        """Nothing to load."""

    def detect(self, frames: Sequence[Picture]) -> list[Detections]:
        raise RuntimeError("cannot read /home/someone/secret.onnx")


class Sleeping:
    """Never answers."""

    classes = (FACE,)
    version = "sleeping"

    def warmup(self) -> None:
        """Nothing to load."""

    def detect(self, frames: Sequence[Picture]) -> list[Detections]:
        time.sleep(600)
        return []


def bright_squares(**arguments: Any) -> BrightSquares:
    """For a `DetectorSpec`."""
    return BrightSquares(**arguments)


def crashing() -> Crashing:
    """For a `DetectorSpec`."""
    return Crashing()


def sleeping() -> Sleeping:
    """For a `DetectorSpec`."""
    return Sleeping()


Where = Callable[[int], Sequence[tuple[float, float, int]]]
"""Squares of a frame: (left, top, side)."""


def square_frame(squares: Sequence[tuple[float, float, int]], size: tuple[int, int] = (160, 120)) -> Picture:
    """A dark, textured picture (BGR) with bright squares."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    picture = np.repeat((40 + 8 * ((x // 8 + y // 8) % 2)).astype(np.uint8)[:, :, None], 3, axis=2)
    for left, top, side in squares:
        x1, y1 = max(0, round(left)), max(0, round(top))
        picture[y1 : max(0, round(top) + side), x1 : max(0, round(left) + side)] = 220
    return picture


def write_squares(
    path: Path,
    where: Where,
    *,
    frames: int = 40,
    size: tuple[int, int] = (160, 120),
    fps: int = 20,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 1000),
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    aspect: Fraction | None = None,
    sound: bool = False,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a clip of moving squares."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=fps, options=options or {"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = time_base
        if aspect:
            stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        audio: Any = out.add_stream("aac", rate=8000) if sound else None
        out.metadata.update(metadata or {})
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(square_frame(where(number), size), format="bgr24")
            frame.time_base = time_base
            frame.pts = times[number] if times else round(number / fps / time_base)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            samples = np.zeros((1, 8000 * frames // fps), np.float32)
            noise = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            noise.sample_rate = 8000
            out.mux(audio.encode(noise))
            out.mux(audio.encode(None))
    return path


def write_pictures(path: Path, pictures: Sequence[Picture], *, fps: int = 25) -> Path:
    """Write a clip of these pictures (BGR)."""
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def read_pictures(path: Path) -> tuple[list[float], list[Picture]]:
    """Times in seconds and pictures (BGR) of a clip."""
    times, pictures = [], []
    with av.open(str(path)) as clip:
        for frame in clip.decode(video=0):
            assert frame.time is not None
            times.append(frame.time)
            pictures.append(frame.to_ndarray(format="bgr24"))
    return times, pictures
