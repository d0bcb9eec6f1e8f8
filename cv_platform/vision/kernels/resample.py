"""Bilinear resampling from interleaved bytes straight to scaled planes of floats, in one pass.

Rows first: two rows of the picture are blended over their whole length, which is contiguous on both sides. Then
columns: a pixel of the blended row is loaded as one vector of four floats (blue, green, red, one to spare), two of
them are blended, and four results are transposed into the planes. Compilers do not find this form by themselves
(left to them, columns take three times as long), so `_blend_four` spells it out in LLVM's vectors, which every
processor has in some width.

Source: half-pixel centres, edge pixels repeated, as OpenCV's INTER_LINEAR; weights and results are not rounded, so
values differ from OpenCV's by less than a grey level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cv_platform.vision.compiled import compiled

Floats = npt.NDArray[np.float32]
Offsets = npt.NDArray[np.int64]

LEAST_WIDTH: Final = 4
"""Pixels that a result must be wide: columns are handled four at a time."""
SPARE: Final = 4
"""Floats after a blended row, which columns read and give no weight to."""

_FLOATS: Final = ir.VectorType(ir.FloatType(), 4)
_INT32: Final = ir.IntType(32)
_INT64: Final = ir.IntType(64)


def linear_table(source: int, target: int, step: int = 1) -> tuple[Offsets, Floats]:
    """Which two neighbours of a line of `source` elements make each element of a line of `target`.

    Args:
        source: length of the line that is there.
        target: length of the line that is wanted.
        step: multiplied with the indices: 1 for rows, 3 for columns of interleaved pixels.

    Returns:
        Offset of the first one, int64 (target,), and the weight of the one after it, float32 (target,). At the far end
        that is 1, or in a line of one element 0, so that nothing beyond the line ever counts.
    """
    at = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    first = np.minimum(np.floor(at), max(source - 2, 0))
    return (first * step).astype(np.int64), (at - first).astype(np.float32)


def _shuffled(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT32, len(places)), places))


def _typed_blend(
    typing_context: Any,
    row: Any,
    offsets: Any,
    weights: Any,
    x: Any,
    factors: Any,
    shifts: Any,
    blue: Any,
    green: Any,
    red: Any,
) -> tuple[Any, Callable[..., Any]]:
    """Pixels x..x+3 of three planes: the pixel at the offset and the next one blended, times factor, plus shift.

    Reads one float past a pixel's third channel, and a pixel past the last, so `row` has four floats to spare. No
    bounds are checked.
    """
    signature = types.void(row, offsets, weights, x, factors, shifts, blue, green, red)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer: dict[str, Any] = {}
        names = ("row", "offsets", "weights", "x", "factors", "shifts", "blue", "green", "red")
        for name, kind, value in zip(names, signature.args, arguments, strict=True):
            is_array = isinstance(kind, types.Array)
            pointer[name] = context.make_array(kind)(context, builder, value).data if is_array else value
        start = context.cast(builder, pointer["x"], signature.args[3], types.int64)

        def at(name: str, index: Any) -> Any:
            return builder.load(builder.gep(pointer[name], [index]))

        def splat(scalar: Any) -> Any:
            one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), scalar, ir.Constant(_INT32, 0))
            return _shuffled(builder, one, one, [0, 0, 0, 0])

        def pixel(offset: Any) -> Any:
            place = builder.gep(pointer["row"], [offset])
            return builder.load(builder.bitcast(place, _FLOATS.as_pointer()), align=4)

        pixels = []
        for k in range(4):
            index = builder.add(start, ir.Constant(_INT64, k))
            offset = at("offsets", index)
            a, b = pixel(offset), pixel(builder.add(offset, ir.Constant(_INT64, 3)))
            pixels.append(builder.fadd(a, builder.fmul(builder.fsub(b, a), splat(at("weights", index)))))
        low = [_shuffled(builder, pixels[k], pixels[k + 1], [0, 4, 1, 5]) for k in (0, 2)]
        high = [_shuffled(builder, pixels[k], pixels[k + 1], [2, 6, 3, 7]) for k in (0, 2)]
        channels = {
            "blue": _shuffled(builder, low[0], low[1], [0, 1, 4, 5]),
            "green": _shuffled(builder, low[0], low[1], [2, 3, 6, 7]),
            "red": _shuffled(builder, high[0], high[1], [0, 1, 4, 5]),
        }
        for c, (name, values) in enumerate(channels.items()):
            channel = ir.Constant(_INT64, c)
            scaled = builder.fmul(values, splat(at("factors", channel)))
            scaled = builder.fadd(scaled, splat(at("shifts", channel)))
            place = builder.gep(pointer[name], [start])
            builder.store(scaled, builder.bitcast(place, _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, generate


_blend_four: Any = intrinsic(_typed_blend)


@compiled
def resample_linear(
    frame: npt.NDArray[np.uint8],
    rows: tuple[Offsets, Floats],
    columns: tuple[Offsets, Floats],
    blended: Floats,
    factors: Floats,
    shifts: Floats,
    blue: Floats,
    green: Floats,
    red: Floats,
    top: int,
    left: int,
) -> None:
    """Resize a picture bilinearly and write `value * factor + shift` into a part of three planes.

    Args:
        frame: uint8 (H, W * 3), C order: blue, green, red by turns.
        rows: `linear_table(H, h)`.
        columns: `linear_table(W, w, 3)`; w at least LEAST_WIDTH.
        blended: float32, at least W * 3 + SPARE, overwritten.
        factors: float32 (3,), for blue, green, red: multiplied first.
        shifts: float32 (3,), likewise: added after that.
        blue: float32 (≥ top + h, ≥ left + w), C order, written at rows top..top+h and columns left..left+w.
        green: likewise.
        red: likewise.
        top: first row.
        left: first column.
    """
    upper, share = rows
    offsets, weights = columns
    length, width, last = frame.shape[1], len(weights), frame.shape[0] - 1
    blended[length : length + SPARE] = 0.0
    for y in range(len(share)):
        above, below, weight = frame[upper[y]], frame[min(upper[y] + 1, last)], share[y]
        for i in range(length):
            value = np.float32(above[i])
            blended[i] = value + (np.float32(below[i]) - value) * weight
        blue_row = blue[top + y, left : left + width]
        green_row = green[top + y, left : left + width]
        red_row = red[top + y, left : left + width]
        for x in range(0, width - 3, 4):
            _blend_four(blended, offsets, weights, x, factors, shifts, blue_row, green_row, red_row)
        if width % 4:  # the last four again, some of them a second time
            _blend_four(blended, offsets, weights, width - 4, factors, shifts, blue_row, green_row, red_row)
