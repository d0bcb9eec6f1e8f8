"""Triton kernels for what a small detector spends its time on: 1×1 and depthwise convolutions, and letterboxing.

A network like YOLOX-nano does little arithmetic and moves much memory. Here bias and activation are applied before a
convolution's result is written, so that each layer reads its input once and writes its output once, in channels_last.
A batch of pictures becomes the network's input in one kernel. Half precision on a CUDA GPU only; everything else, and
every other convolution, is torch's own. Needs triton, which comes with torch's CUDA builds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

Activation = Literal["", "SiLU", "Relu"]

_CODES: Final = {"": 0, "SiLU": 1, "Relu": 2}
_ROWS: Final = 128
_PIXELS: Final = 64


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == 1:
        x = x * tl.sigmoid(x)
    elif ACTIVATION == 2:
        x = tl.maximum(x, 0.0)
    return x


@triton.jit(do_not_specialize=["rows"])
def _pointwise_kernel(
    x, weights, bias, y, rows, outputs,
    INPUTS: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    within, known = row < rows, column < outputs
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, INPUTS, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(x + row[:, None] * INPUTS + k[None, :], within[:, None] & (k < INPUTS)[None, :], 0.0)
        b = tl.load(weights + column[None, :] * INPUTS + k[:, None], known[None, :] & (k < INPUTS)[:, None], 0.0)
        total = tl.dot(a, b, total)
    total += tl.load(bias + column, known, 0.0).to(tl.float32)[None, :]
    total = _activated(total, ACTIVATION)
    tl.store(
        y + row[:, None] * outputs + column[None, :], total.to(y.dtype.element_ty), within[:, None] & known[None, :]
    )


@triton.jit(do_not_specialize=["height", "width", "out_height", "out_width"])
def _depthwise_kernel(
    x, weights, bias, y, height, width, out_height, out_width, channels,
    SIDE: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    ACTIVATION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    picture = tl.program_id(2).to(tl.int64)
    within, known = pixel < out_height * out_width, channel < channels
    top, left = (pixel // out_width) * STRIDE - PADDING, (pixel % out_width) * STRIDE - PADDING
    source = x + picture * height * width * channels
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for dy in tl.static_range(SIDE):
        for dx in tl.static_range(SIDE):
            row, column = top + dy, left + dx
            inside = within & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = (row * width + column)[:, None] * channels + channel[None, :]
            value = tl.load(source + place, inside[:, None] & known[None, :], 0.0)
            weight = tl.load(weights + channel * (SIDE * SIDE) + (dy * SIDE + dx), known, 0.0)
            total += value.to(tl.float32) * weight.to(tl.float32)[None, :]
    total += tl.load(bias + channel, known, 0.0).to(tl.float32)[None, :]
    total = _activated(total, ACTIVATION)
    target = y + picture * out_height * out_width * channels
    place = pixel[:, None] * channels + channel[None, :]
    tl.store(target + place, total.to(y.dtype.element_ty), within[:, None] & known[None, :])


@triton.jit(do_not_specialize=["rows"])
def _bias_kernel(
    x, bias, rows, channels,
    ACTIVATION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    place = x + row[:, None] * channels + channel[None, :]
    known = channel < channels
    within = (row < rows)[:, None] & known[None, :]
    value = tl.load(place, within, 0.0).to(tl.float32) + tl.load(bias + channel, known, 0.0).to(tl.float32)[None, :]
    tl.store(place, _activated(value, ACTIVATION).to(x.dtype.element_ty), within)


@triton.jit
def _letterbox_kernel(
    pictures, lows, highs, lower, upper, lefts, rights, first, second, batch,
    frame_height, frame_width, height, width, top, left, inner_height, inner_width,
    scale, mean, fill,
    FLIPPED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    picture = tl.program_id(1)
    source = tl.load(pictures + picture).to(tl.pointer_type(tl.uint8))
    target = batch + picture.to(tl.int64) * height * width * 3
    within = pixel < height * width
    row, column = pixel // width - top, pixel % width - left
    inside = within & (row >= 0) & (row < inner_height) & (column >= 0) & (column < inner_width)
    above, below = tl.load(lows + row, inside, 0), tl.load(highs + row, inside, 0)
    before, after = tl.load(lefts + column, inside, 0), tl.load(rights + column, inside, 0)
    weight_above, weight_below = tl.load(lower + row, inside, 0), tl.load(upper + row, inside, 0)
    weight_before, weight_after = tl.load(first + column, inside, 0), tl.load(second + column, inside, 0)
    for plane in tl.static_range(3):
        base = source + plane * frame_height * frame_width
        over = tl.load(base + above * frame_width + before, inside, 0).to(tl.int32) * weight_before
        over += tl.load(base + above * frame_width + after, inside, 0).to(tl.int32) * weight_after
        under = tl.load(base + below * frame_width + before, inside, 0).to(tl.int32) * weight_before
        under += tl.load(base + below * frame_width + after, inside, 0).to(tl.int32) * weight_after
        level = ((((over >> 4) * weight_above) >> 16) + (((under >> 4) * weight_below) >> 16) + 2) >> 2
        channel = 2 - plane if FLIPPED else plane
        value = tl.where(inside, level.to(tl.float32) * scale - mean, fill)
        tl.store(target + pixel * 3 + channel, value.to(batch.dtype.element_ty), within)


def suits(x: Tensor, kernel: Tensor, bias: Tensor | None) -> bool:
    """Whether `convolve` is for these: pictures in half precision on a CUDA GPU, with a bias."""
    return x.is_cuda and x.dtype in (torch.float16, torch.bfloat16) and x.ndim == kernel.ndim == 4 and bias is not None


def suits_letterbox(pictures: Tensor | Sequence[Tensor], target: Tensor) -> bool:
    """Whether `letterbox` is for these: on one CUDA GPU, whole pictures, half precision, channels_last."""
    return (
        target.is_cuda
        and target.dtype in (torch.float16, torch.bfloat16)
        and target.is_contiguous(memory_format=torch.channels_last)
        and all(picture.is_contiguous() and picture.device == target.device for picture in pictures)
    )


def convolve(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor,
    *,
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
    group: int,
    activation: Activation,
) -> Tensor:
    """A convolution of two dimensions with its activation; the result is channels_last.

    Args:
        x: (N, C, H, W).
        kernel: (M, C / group, kH, kW).
        bias: (M,).
        strides, padding, dilations: of the two sides.
        group: as torch's.
        activation: applied last; "" for none.
    """
    outputs, _, *sides = kernel.shape
    plain = set(dilations) == {1}
    if plain and group == 1 and sides == [1, 1] and set(strides) == {1} and set(padding) == {0}:
        return _pointwise(x, kernel, bias, activation)
    square = len({*sides}) == len({*strides}) == len({*padding}) == 1
    if plain and square and group == x.shape[1] == outputs and sides[0] <= 7:
        return _depthwise(x, kernel, bias, strides[0], padding[0], activation)
    y = torch.nn.functional.conv2d(x, kernel, None, list(strides), list(padding), list(dilations), group)
    y = y.contiguous(memory_format=torch.channels_last)
    rows, columns = y.numel() // outputs, _block(outputs, 64)
    grid = (triton.cdiv(rows, _ROWS), triton.cdiv(outputs, columns))
    _bias_kernel[grid](y, bias, rows, outputs, _CODES[activation], _ROWS, columns)
    return y


def _made(x: Tensor, outputs: int, height: int, width: int) -> Tensor:
    return torch.empty(
        (len(x), outputs, height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )


def _block(size: int, most: int) -> int:
    return min(most, max(16, triton.next_power_of_2(size)))


def _pointwise(x: Tensor, kernel: Tensor, bias: Tensor, activation: Activation) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    count, inputs, height, width = x.shape
    outputs = len(kernel)
    y = _made(x, outputs, height, width)
    rows, columns = count * height * width, _block(outputs, 128)
    grid = (triton.cdiv(rows, _ROWS), triton.cdiv(outputs, columns))
    _pointwise_kernel[grid](
        x, kernel.reshape(outputs, inputs), bias, y, rows, outputs,
        inputs, _CODES[activation], _ROWS, _block(inputs, 64), columns,
    )  # fmt: skip
    return y


def _depthwise(x: Tensor, kernel: Tensor, bias: Tensor, stride: int, padding: int, activation: Activation) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    count, channels, height, width = x.shape
    side = kernel.shape[-1]
    out_height, out_width = ((length + 2 * padding - side) // stride + 1 for length in (height, width))
    y = _made(x, channels, out_height, out_width)
    columns = _block(channels, 32)
    grid = (triton.cdiv(out_height * out_width, _PIXELS), triton.cdiv(channels, columns), count)
    _depthwise_kernel[grid](
        x, kernel.reshape(channels, side * side), bias, y, height, width, out_height, out_width, channels,
        side, stride, padding, _CODES[activation], _PIXELS, columns,
    )  # fmt: skip
    return y


def letterbox(
    pictures: Tensor | Sequence[Tensor],
    target: Tensor,
    taps: tuple[Sequence[Tensor], Sequence[Tensor]],
    *,
    offset: tuple[int, int],
    scale: float,
    mean: float,
    fill: float,
    flipped: bool,
) -> None:
    """Resize pictures into rows of a network's input, in OpenCV's fixed-point arithmetic, and fill the rest.

    Args:
        pictures: uint8 (3, H, W), contiguous, all of one size and on the target's device.
        target: (N, 3, height, width), channels_last.
        taps: of the rows and of the columns (`resample._taps`): lower and upper pixel, and their weights.
        offset: top and left, pixels of the target.
        scale, mean: a level becomes level × scale − mean.
        fill: what the rest holds.
        flipped: whether the target's channels are in the opposite order.
    """
    addresses: Any = torch.tensor([picture.data_ptr() for picture in pictures], dtype=torch.int64)
    addresses = addresses.to(target.device)
    height, width = target.shape[2:]
    _letterbox_kernel[(triton.cdiv(height * width, 256), len(pictures))](
        addresses, *taps[0], *taps[1], target, *pictures[0].shape[1:], height, width, *offset,
        len(taps[0][0]), len(taps[1][0]), scale, mean, fill, flipped, 256,
    )  # fmt: skip
