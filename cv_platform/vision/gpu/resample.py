"""Pictures on a device → a network's input: resize, colours, channel order and scaling.

Resampling is linear and separable, so it is two matrix products with weights that are made once a size. A clip's frame
goes from the decoder's NV12 straight to the network's input this way: the shrinking to `long_side` (by area) and the
network's own resizing (bilinear) are multiplied into one matrix, and luma and chroma are small before they become RGB.

Sources: bilinear weights as OpenCV's INTER_LINEAR (half-pixel centres, no antialiasing), area weights as INTER_AREA;
colours by ITU-R BT.601-7, BT.709-6, BT.2020-2, limited or full range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cv_platform.vision.detectors.architectures import Architecture
from cv_platform.vision.gpu.network import fused_kernels
from cv_platform.vision.preprocess import Placement, place_letterbox

_LUMA_WEIGHTS: Final = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
_COLOUR_SPACES: Final = {1: "bt709", 9: "bt2020", 10: "bt2020"}
"""FFmpeg's AVColorSpace; every other one, the unknown among them, counts as BT.601, as in its scaler."""
_FULL_RANGE: Final = 2


@dataclass(frozen=True, eq=False)
class Surface:
    """A decoded frame in device memory, as the decoder left it.

    Attributes:
        index: 0, 1, 2, … among the sampled frames.
        pts_s: exact seconds since the clip's first frame.
        nv12: uint8 (H × 3/2, W): luma, then chroma of half the size, interleaved; whole, whatever stream reads it.
        rotation: degrees counter-clockwise by which it is to be turned: 0, 90, 180 or 270.
        long_side: pixels to which the longer side counts as shrunk; None keeps the size. Boxes are in that size.
        colour_space: FFmpeg's AVColorSpace.
        colour_range: FFmpeg's AVColorRange.
    """

    index: int
    pts_s: Fraction
    nv12: Tensor
    rotation: int = 0
    long_side: int | None = None
    colour_space: int = 2
    colour_range: int = 1

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width as the decoder gives them."""
        return self.nv12.shape[0] * 2 // 3, self.nv12.shape[1]

    @property
    def shrunk_size(self) -> tuple[int, int]:
        """Height and width after shrinking, before turning."""
        height, width = self.stored_size
        scale = 1.0 if self.long_side is None else min(1.0, self.long_side / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright, shrunk frame, in whose pixels boxes are."""
        height, width = self.shrunk_size
        return (width, height) if self.rotation in (90, 270) else (height, width)

    def rgb(self) -> Tensor:
        """The frame where it lies: RGB, uint8 (3, H, W), upright, shrunk."""
        planes = nv12_to_rgb(self.nv12[None], self.shrunk_size, self.shrunk_size, self.colour_space, self.colour_range)
        upright = torch.rot90(planes[0], self.rotation // 90, (1, 2))
        return upright.round().clamp(0, 255).to(torch.uint8).contiguous()

    def image(self) -> npt.NDArray[np.uint8]:
        """The frame on the processor: BGR, uint8 (H, W, 3), upright, shrunk; as `decode.SampledFrame.image`."""
        return np.ascontiguousarray(self.rgb().flip(0).permute(1, 2, 0).cpu().numpy(), dtype=np.uint8)

    def __repr__(self) -> str:
        return f"Surface(index={self.index}, pts_s={self.pts_s}, nv12={tuple(self.nv12.shape)} on {self.nv12.device})"


@lru_cache(maxsize=64)
def _linear_weights(size: int, new_size: int) -> npt.NDArray[np.float64]:
    """(new_size, size): every row the share that each old pixel has in a new one."""
    weights = np.zeros((new_size, size))
    centres = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    low = np.floor(centres).astype(int)
    high = np.minimum(low + 1, size - 1)
    rows = np.arange(new_size)
    np.add.at(weights, (rows, low), 1 - (centres - low))
    np.add.at(weights, (rows, high), centres - low)
    return weights


@lru_cache(maxsize=64)
def _area_weights(size: int, new_size: int) -> npt.NDArray[np.float64]:
    """As `_linear_weights`, by the area that each old pixel covers; enlarging is bilinear."""
    if new_size >= size:
        return _linear_weights(size, new_size)
    edges = np.arange(new_size + 1) * size / new_size
    starts = np.arange(size)
    shared = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return np.clip(shared, 0, None) * new_size / size


_tensors: dict[tuple[Any, ...], Tensor] = {}
_KEPT_WEIGHTS: Final = 256


def _weights(size: int, middle: int, new_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Shrinking by area to `middle`, then bilinear to `new_size`, as one matrix on the device; made once."""
    key = (size, middle, new_size, device, dtype)
    if key not in _tensors:
        if len(_tensors) >= _KEPT_WEIGHTS:
            _tensors.clear()
        matrix = _area_weights(size, middle)
        if new_size != middle:
            matrix = _linear_weights(middle, new_size) @ matrix
        _tensors[key] = torch.from_numpy(matrix).to(device=device, dtype=dtype)
    return _tensors[key]


def resample(planes: Tensor, middle: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Planes (…, H, W) of a floating dtype, shrunk by area to `middle`, then bilinear to `size`: (h, w) both."""
    height, width = planes.shape[-2:]
    if (height, width) == middle == size:
        return planes
    rows = _weights(height, middle[0], size[0], planes.device, planes.dtype)
    columns = _weights(width, middle[1], size[1], planes.device, planes.dtype)
    return torch.matmul(rows, torch.matmul(planes, columns.T))


@lru_cache(maxsize=64)
def _taps(size: int, new_size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """OpenCV's fixed-point bilinear weights: lower and upper old pixel of each new one, and their weights of 2048."""
    centres = ((np.arange(new_size) + 0.5) * (size / new_size) - 0.5).astype(np.float32)
    low = np.floor(centres).astype(np.int64)
    share = np.where((low < 0) | (low >= size - 1), 0, centres - low)
    low = np.clip(low, 0, size - 1)
    high = np.minimum(low + 1, size - 1)
    weights = (np.rint((1 - share) * 2048).astype(np.int32), np.rint(share * 2048).astype(np.int32))
    low_, high_, first, second = (torch.from_numpy(a).to(device) for a in (low, high, *weights))
    return low_, high_, first, second


def resize_pictures(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as OpenCV's INTER_LINEAR does, in its fixed-point arithmetic: whole levels, which half precision holds.

    Args:
        pictures: uint8 (N, 3, H, W).
        size: height and width of the result.

    Returns:
        int32 (N, 3, height, width), 0..255; where it shrinks, the same values as `cv2.resize`.
    """
    height, width = pictures.shape[-2:]
    if (height, width) == size:
        return pictures.int()
    top, bottom, upper, lower = _taps(height, size[0], pictures.device)
    left, right, first, second = _taps(width, size[1], pictures.device)

    def row(rows: Tensor) -> Tensor:
        lines = pictures.index_select(2, rows)
        return (lines.index_select(3, left).int() * first + lines.index_select(3, right).int() * second) >> 4

    mixed = ((row(top) * upper[:, None]) >> 16) + ((row(bottom) * lower[:, None]) >> 16)
    return (mixed + 2) >> 2


def nv12_to_rgb(
    nv12: Tensor,
    middle: tuple[int, int],
    size: tuple[int, int],
    colour_space: int,
    colour_range: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """NV12 surfaces of one size → RGB planes of another.

    Args:
        nv12: uint8 (N, H × 3/2, W).
        middle: height and width to which frames are shrunk by area first.
        size: height and width of the result, resized from there bilinearly.
        colour_space: FFmpeg's AVColorSpace.
        colour_range: FFmpeg's AVColorRange.
        dtype: of the arithmetic and the result.

    Returns:
        (N, 3, height, width), red first, 0..255, not rounded.
    """
    count, rows, width = nv12.shape
    height = rows * 2 // 3
    luma = resample(nv12[:, :height].to(dtype), middle, size)
    chroma = nv12[:, height:].reshape(count, height // 2, width // 2, 2).permute(0, 3, 1, 2).to(dtype)
    chroma = resample(chroma, middle, size)
    red, blue = _LUMA_WEIGHTS[_COLOUR_SPACES.get(colour_space, "bt601")]
    green = 1 - red - blue
    full = colour_range == _FULL_RANGE
    gain, black, reach = (1.0, 0.0, 1.0) if full else (255 / 219, 16.0, 255 / 224)
    luma = (luma - black) * gain
    u, v = (chroma[:, 0] - 128) * reach, (chroma[:, 1] - 128) * reach
    planes = (
        luma + 2 * (1 - red) * v,
        luma - 2 * (1 - blue) * blue / green * u - 2 * (1 - red) * red / green * v,
        luma + 2 * (1 - blue) * u,
    )
    return torch.stack(planes, 1).clamp_(0, 255)


class DevicePreprocessor:
    """Pictures on a device → rows of a network's input; the device's twin of `preprocess.Preprocessor`.

    Args:
        architecture: how the network is fed.
        size: (height, width) of the input in pixels.
        dtype: of the input.
    """

    def __init__(self, architecture: Architecture, size: tuple[int, int], dtype: torch.dtype) -> None:
        self._architecture = architecture
        self._size = size
        self._dtype = dtype

    def place(self, height: int, width: int) -> Placement:
        """Where a frame of this size lies in the input."""
        if self._architecture.fit == "stretch":
            return Placement(height, width, *self._size, 0, 0)
        return place_letterbox(height, width, *self._size, anchor=self._architecture.anchor)

    def write_pictures(self, pictures: Tensor | Sequence[Tensor], target: Tensor, *, channels: str) -> None:
        """Prepare pictures of one size.

        Args:
            pictures: uint8 (N, 3, H, W), or N times (3, H, W), on the device.
            target: rows of the input, (N, 3, height, width).
            channels: order of the pictures' planes, "rgb" or "bgr".
        """
        how = self._architecture
        height, width = pictures[0].shape[-2:]
        placement = self.place(height, width)
        flipped = channels != how.channels
        fused = fused_kernels()
        if fused is not None and fused.suits_letterbox(pictures, target):
            device = target.device
            taps = _taps(height, placement.height, device), _taps(width, placement.width, device)
            fused.letterbox(
                pictures,
                target,
                taps,
                offset=(placement.top, placement.left),
                scale=how.scale,
                mean=how.mean,
                fill=how.fill * how.scale - how.mean,
                flipped=flipped,
            )
            return
        stacked = pictures if isinstance(pictures, Tensor) else torch.stack(list(pictures))
        size = (placement.height, placement.width)
        if self._dtype == torch.float32:  # as the processor's preprocessor, which rounds nothing either
            planes = resample(stacked.float(), (height, width), size)
        else:
            planes = resize_pictures(stacked, size)
        self._write(planes.to(self._dtype), placement, target, flipped=flipped)

    def write_surfaces(self, surfaces: Sequence[Surface], target: Tensor) -> None:
        """Prepare decoded frames of one size, rotation and colour space; `target` as above."""
        first = surfaces[0]
        height, width = first.size
        placement = self.place(height, width)
        inner = (placement.height, placement.width)
        turned = inner[::-1] if first.rotation in (90, 270) else inner
        nv12 = torch.stack([surface.nv12 for surface in surfaces])
        planes = nv12_to_rgb(
            nv12, first.shrunk_size, turned, first.colour_space, first.colour_range, self._dtype
        ).round_()
        planes = torch.rot90(planes, first.rotation // 90, (2, 3)) if first.rotation else planes
        self._write(planes, placement, target, flipped=self._architecture.channels != "rgb")

    def _write(self, planes: Tensor, placement: Placement, target: Tensor, *, flipped: bool) -> None:
        how = self._architecture
        planes = planes.flip(1) if flipped else planes
        if (placement.height, placement.width) != self._size:
            target.fill_(how.fill * how.scale - how.mean)
        bottom, right = placement.top + placement.height, placement.left + placement.width
        target[:, :, placement.top : bottom, placement.left : right] = planes * how.scale - how.mean
