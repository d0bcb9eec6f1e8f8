"""Pictures into a network's input, and the network's boxes back into the pictures.

Bilinear resizing into a batch is one compiled pass from bytes to scaled planes (`kernels.resample`); its values are not
rounded to grey levels in between, so they differ from OpenCV's by less than a level.

Belongs here: resizing (letterbox, stretch, shorter side), channel order, scaling, batches, JPEG bytes.
Does not belong here: changes that make new training data (`augment`), checks of uploads (`validation`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from cv_platform.vision.jpeg import decode_jpeg
from cv_platform.vision.kernels.pixels import scale_channel
from cv_platform.vision.kernels.resample import LEAST_WIDTH, SPARE, linear_table, resample_linear

Picture = npt.NDArray[np.uint8]
Fit = Literal["letterbox", "stretch", "shorter_side"]
Anchor = Literal["centre", "top_left"]
ChannelOrder = Literal["rgb", "bgr"]
Interpolation = Literal["linear", "area", "nearest", "cubic"]

_INTERPOLATIONS: Final[dict[str, int]] = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "nearest": cv2.INTER_NEAREST,
    "cubic": cv2.INTER_CUBIC,
}
_Table = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
_KEPT_BUFFERS: Final = 4
"""Batches of so many different shapes keep their memory; the one unused for longest makes room."""


@dataclass(frozen=True)
class Placement:
    """Where a frame lies in a network's input.

    Attributes:
        frame_height: of the frame, pixels.
        frame_width: of the frame, pixels.
        height: of the frame's copy in the input, pixels.
        width: of the frame's copy in the input, pixels.
        top: row of the input where the copy begins.
        left: column of the input where the copy begins.
    """

    frame_height: int
    frame_width: int
    height: int
    width: int
    top: int
    left: int

    def to_input(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Boxes in the frame's pixels → the same in the input's pixels; float32 (N, 4)."""
        scale, shift = self._scale_and_shift()
        return np.asarray(np.asarray(boxes, np.float32).reshape(-1, 4) * scale + shift, np.float32)

    def to_frame(self, boxes: npt.ArrayLike, *, clip: bool = True) -> npt.NDArray[np.float32]:
        """Boxes in the input's pixels → the same in the frame's pixels; float32 (N, 4).

        Args:
            boxes: (N, 4), x1, y1, x2, y2.
            clip: cut them at the frame's edges.
        """
        scale, shift = self._scale_and_shift()
        moved = np.asarray((np.asarray(boxes, np.float32).reshape(-1, 4) - shift) / scale, np.float32)
        if clip:
            most = np.array([self.frame_width, self.frame_height] * 2, np.float32)
            np.clip(moved, np.float32(0), most, out=moved)
        return moved

    def _scale_and_shift(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        scale = [self.width / self.frame_width, self.height / self.frame_height] * 2
        return np.array(scale, np.float64), np.array([self.left, self.top] * 2, np.float64)


@dataclass(frozen=True, eq=False)
class Batch:
    """A network's input.

    Attributes:
        tensor: float32 (N, 3, H, W), C order. It is the preprocessor's own memory: its next call overwrites it.
        placements: one a frame, in their order.
    """

    tensor: npt.NDArray[np.float32]
    placements: tuple[Placement, ...]


def place_letterbox(
    frame_height: int, frame_width: int, height: int, width: int, *, anchor: Anchor = "centre"
) -> Placement:
    """The largest copy of the frame that fits into height × width with its aspect ratio kept."""
    scale = min(height / frame_height, width / frame_width)
    inner_height = max(1, min(height, round(frame_height * scale)))
    inner_width = max(1, min(width, round(frame_width * scale)))
    top, left = (0, 0) if anchor == "top_left" else ((height - inner_height) // 2, (width - inner_width) // 2)
    return Placement(frame_height, frame_width, inner_height, inner_width, top, left)


def place_shorter_side(
    frame_height: int, frame_width: int, shorter_side: int, *, longest_side: int | None = None
) -> Placement:
    """The copy whose shorter side has the length asked for, unless the longer one would be over `longest_side`."""
    scale = shorter_side / min(frame_height, frame_width)
    if longest_side is not None:
        scale = min(scale, longest_side / max(frame_height, frame_width))
    return Placement(
        frame_height, frame_width, max(1, round(frame_height * scale)), max(1, round(frame_width * scale)), 0, 0
    )


def letterbox(
    frame: Picture,
    height: int,
    width: int,
    *,
    anchor: Anchor = "centre",
    fill: int = 114,
    interpolation: Interpolation = "linear",
) -> tuple[Picture, Placement]:
    """Resize with the aspect ratio kept, and fill what is left over with grey.

    Args:
        frame: uint8 (H, W, 3).
        height: of the result, pixels.
        width: of the result, pixels.
        anchor: where the picture goes: in the middle, or into the upper left corner.
        fill: grey value 0..255.
        interpolation: how pixels are resampled.

    Returns:
        uint8 (height, width, 3), and where the frame lies in it.
    """
    _check_frame(frame)
    placement = place_letterbox(frame.shape[0], frame.shape[1], height, width, anchor=anchor)
    canvas = np.full((height, width, 3), fill, np.uint8)
    inner = canvas[placement.top : placement.top + placement.height, placement.left : placement.left + placement.width]
    inner[...] = _resized(frame, placement, interpolation)
    return canvas, placement


def resize_shorter_side(
    frame: Picture, shorter_side: int, *, longest_side: int | None = None, interpolation: Interpolation = "linear"
) -> tuple[Picture, Placement]:
    """Resize with the aspect ratio kept so that the shorter side has the length asked for; see `place_shorter_side`."""
    _check_frame(frame)
    placement = place_shorter_side(frame.shape[0], frame.shape[1], shorter_side, longest_side=longest_side)
    return _resized(frame, placement, interpolation), placement


class Preprocessor:
    """Frames or JPEG files → one float32 NCHW batch, over a pool of threads.

    Its memory is reused: once it has seen a batch of a shape, further ones of that shape allocate no pixels. So a
    batch's tensor is valid until the next call, and one preprocessor serves one caller at a time (a lock sees to it).

    Args:
        size: (height, width) of the input in pixels; with fit="shorter_side" the shorter side's length.
        fit: "letterbox" keeps the aspect ratio and fills up with grey; "stretch" does not keep it; "shorter_side"
            keeps it, and the batch is as large as its largest picture, the others filled up at the right and below.
        anchor: where a letterboxed picture goes.
        longest_side: with fit="shorter_side", the most that the longer side may have.
        fill: grey value 0..255 around the picture, before scaling.
        channels: order of the planes. Frames are always BGR, as OpenCV reads them.
        scale: multiplied with 0..255 first.
        mean: subtracted after that, one a plane, in the planes' order.
        std: divided by after that, likewise.
        interpolation: how pixels are resampled.
        threads: frames handled at once; 1 means in the caller's thread.

    Raises:
        ValueError: an argument is outside what is allowed.
    """

    def __init__(
        self,
        size: tuple[int, int] | int,
        *,
        fit: Fit = "letterbox",
        anchor: Anchor = "centre",
        longest_side: int | None = None,
        fill: int = 114,
        channels: ChannelOrder = "rgb",
        scale: float = 1 / 255,
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        interpolation: Interpolation = "linear",
        threads: int = 2,
    ) -> None:
        for name, value, allowed in (
            ("fit", fit, get_args(Fit)),
            ("anchor", anchor, get_args(Anchor)),
            ("channels", channels, get_args(ChannelOrder)),
            ("interpolation", interpolation, get_args(Interpolation)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; allowed is one of {', '.join(allowed)}")
        if isinstance(size, int) != (fit == "shorter_side"):
            raise ValueError(f"size is {size!r}; allowed is (height, width), or one length with fit='shorter_side'")
        if min(size if isinstance(size, tuple) else (size,)) < 1:
            raise ValueError(f"size is {size!r}; allowed is 1 pixel or more")
        if threads < 1:
            raise ValueError(f"threads is {threads}; allowed is 1 or more")
        if not 0 <= fill <= 255:
            raise ValueError(f"fill is {fill}; allowed is a grey value 0..255")
        if min(std) <= 0:
            raise ValueError(f"std is {std}; allowed is more than 0")
        self._size, self._fit, self._anchor, self._longest_side = size, fit, anchor, longest_side
        self._interpolation: Interpolation = interpolation
        self._red_first = channels == "rgb"
        order = slice(None, None, -1) if channels == "rgb" else slice(None)  # everything below is blue, green, red
        self._factors = np.array([scale / s for s in std], np.float32)[order].copy()
        self._shifts = np.array([-m / s for m, s in zip(mean, std, strict=True)], np.float32)[order].copy()
        self._fills = np.float32(fill) * self._factors + self._shifts
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._slots: list[_Slot] = []
        self._tensors: dict[tuple[int, ...], tuple[npt.NDArray[np.float32], list[Placement | None]]] = {}

    def __call__(self, frames: Sequence[Picture]) -> Batch:
        """Prepare frames.

        Args:
            frames: BGR pictures, each uint8 (H, W, 3); sizes may differ.

        Raises:
            ValueError: no frames, or one of another shape or dtype.
        """
        with self._lock:
            return self._prepare(frames)

    def from_jpegs(self, files: Sequence[bytes], *, max_pixels: int = 4096 * 4096) -> Batch:
        """Decode JPEG files and prepare them, in one call; decoding goes over the pool too.

        Args:
            files: each one whole JPEG file.
            max_pixels: the most that one may declare, width × height; it is checked before anything is decoded.

        Raises:
            ValueError: no files, or one is no JPEG, is damaged, or declares too many pixels.
        """
        with self._lock:
            return self._prepare(self._each(lambda i: decode_jpeg(files[i], max_pixels=max_pixels), len(files)))

    def close(self) -> None:
        """End the pool's threads; the next call starts new ones."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None

    def __enter__(self) -> Preprocessor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, frames: Sequence[Picture]) -> Batch:
        if len(frames) == 0:
            raise ValueError("there are 0 frames; allowed is 1 or more")
        for frame in frames:
            _check_frame(frame)
        placements = [self._place(frame) for frame in frames]
        if isinstance(self._size, tuple):
            height, width = self._size
        else:
            height, width = max(p.height for p in placements), max(p.width for p in placements)
        tensor, filled = self._tensor((len(frames), 3, height, width))
        while len(self._slots) < len(frames):
            self._slots.append(_Slot())

        def work(i: int) -> None:
            planes, placement = tensor[i][:: -1 if self._red_first else 1], placements[i]
            if filled[i] != placement:  # else the borders are still grey from the last batch
                filled[i] = None
                if (placement.height, placement.width) != (height, width):
                    for plane, value in zip(planes, self._fills, strict=True):
                        plane.fill(value)
            self._slots[i].write(frames[i], placement, self._interpolation, planes, self._factors, self._shifts)
            filled[i] = placement

        self._each(work, len(frames))
        return Batch(tensor, tuple(placements))

    def _place(self, frame: Picture) -> Placement:
        frame_height, frame_width = frame.shape[:2]
        if not isinstance(self._size, tuple):
            return place_shorter_side(frame_height, frame_width, self._size, longest_side=self._longest_side)
        height, width = self._size
        if self._fit == "stretch":
            return Placement(frame_height, frame_width, height, width, 0, 0)
        return place_letterbox(frame_height, frame_width, height, width, anchor=self._anchor)

    def _tensor(self, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.float32], list[Placement | None]]:
        """The memory for a shape, and what each row's borders were last filled for."""
        held = self._tensors.pop(shape, None)
        if held is None:
            while len(self._tensors) >= _KEPT_BUFFERS:
                del self._tensors[next(iter(self._tensors))]
            held = np.empty(shape, np.float32), [None] * shape[0]
        self._tensors[shape] = held  # at the end: used last
        return held

    def _each(self, work: Callable[[int], Any], count: int) -> list[Any]:
        """`work(0)`, `work(1)`, …: each thread takes every so-manieth, the caller's own thread among them."""
        workers = min(self._threads, count)
        results: list[Any] = [None] * count

        def stride(first: int) -> None:
            for i in range(first, count, workers):
                results[i] = work(i)

        if workers > 1 and self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads - 1, thread_name_prefix="preprocess")
        others = [self._pool.submit(stride, first) for first in range(1, workers)] if self._pool is not None else []
        try:
            if workers:
                stride(0)
        finally:
            failures = [other.exception() for other in others]  # also waits: nobody may write on after this call
        for failure in failures:
            if failure is not None:
                raise failure
        return results


class _Slot:
    """One row's memory between the frame and the tensor."""

    def __init__(self) -> None:
        self._contiguous = np.empty((0, 0, 3), np.uint8)
        self._resized = np.empty((0, 0, 3), np.uint8)
        self._channels: list[Picture] = []
        self._blended = np.empty(0, np.float32)

    def write(
        self,
        frame: Picture,
        placement: Placement,
        interpolation: Interpolation,
        planes: npt.NDArray[np.float32],
        factors: npt.NDArray[np.float32],
        shifts: npt.NDArray[np.float32],
    ) -> None:
        """Resize, take the channels apart, scale; planes, factors and shifts are those of blue, green, red."""
        height, width = placement.height, placement.width
        resized = frame.shape[:2] != (height, width)
        if resized and interpolation == "linear" and width >= LEAST_WIDTH:
            if not frame.flags.c_contiguous:
                if self._contiguous.shape != frame.shape:
                    self._contiguous = np.empty(frame.shape, np.uint8)
                self._contiguous[...] = frame
                frame = self._contiguous
            length = frame.shape[1] * 3
            if len(self._blended) < length + SPARE:
                self._blended = np.empty(length + SPARE, np.float32)
            rows, columns = _tables(frame.shape[0], frame.shape[1], height, width)
            blue, green, red = planes
            flat = frame.reshape(frame.shape[0], length)
            top, left = placement.top, placement.left
            resample_linear(flat, rows, columns, self._blended, factors, shifts, blue, green, red, top, left)
            return
        if resized:
            if self._resized.shape[:2] != (height, width):
                self._resized = np.empty((height, width, 3), np.uint8)
            cv2.resize(frame, (width, height), dst=self._resized, interpolation=_INTERPOLATIONS[interpolation])
            frame = self._resized
        if not self._channels or self._channels[0].shape != (height, width):
            self._channels = [np.empty((height, width), np.uint8) for _ in range(3)]
        cv2.split(frame, self._channels)
        for c, (channel, plane) in enumerate(zip(self._channels, planes, strict=True)):
            scale_channel(channel, plane, placement.top, placement.left, factors[c], shifts[c])


@lru_cache(maxsize=64)
def _tables(frame_height: int, frame_width: int, height: int, width: int) -> tuple[_Table, _Table]:
    """What `resample_linear` needs to know of two sizes."""
    return linear_table(frame_height, height), linear_table(frame_width, width, 3)


def _check_frame(frame: Picture) -> None:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ValueError(f"a frame is {found}; allowed is uint8 (H, W, 3), BGR")
    if 0 in frame.shape:
        raise ValueError(f"a frame is empty: {frame.shape}; allowed is at least 1 pixel")


def _resized(frame: Picture, placement: Placement, interpolation: Interpolation) -> Picture:
    if frame.shape[:2] == (placement.height, placement.width):
        return frame.copy()
    size = (placement.width, placement.height)
    return np.asarray(cv2.resize(frame, size, interpolation=_INTERPOLATIONS[interpolation]), np.uint8)
