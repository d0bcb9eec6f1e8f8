"""Orders: a stable sort by score, highest first, and the grouping of that order by class."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cv_platform.vision.compiled import compiled

_DIGIT_BITS = 11
_DIGITS = 1 << _DIGIT_BITS
_FEW = 128
"""Up to this many an insertion sort is faster than clearing the counters of a radix sort."""


@compiled
def descending_order(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Indices that sort finite float32 scores from the highest down; among equals the lower index comes first.

    A radix sort of three digits: an IEEE number whose sign bit is flipped (or, where negative, all bits) sorts as an
    unsigned integer. NumPy's stable sort of floats compares, which costs more than the suppression that follows.
    """
    n = scores.shape[0]
    keys = np.empty(n, np.uint32)
    bits = (scores + np.float32(0.0)).view(np.uint32)  # adding zero makes -0.0 equal to 0.0
    order = np.empty(n, np.int32)
    for i in range(n):
        b = bits[i]
        # ascending keys would be ~b where negative, else b with the sign bit set; these are their complements
        keys[i] = b if b >> np.uint32(31) else b ^ np.uint32(0x7FFFFFFF)
        order[i] = i
    if n <= _FEW:
        for i in range(1, n):
            key = keys[i]
            at = i
            while at > 0 and keys[order[at - 1]] > key:
                order[at] = order[at - 1]
                at -= 1
            order[at] = i
        return order
    counts = np.zeros((3, _DIGITS), np.int32)
    for i in range(n):
        key = keys[i]
        counts[0, key & np.uint32(_DIGITS - 1)] += 1
        counts[1, (key >> np.uint32(11)) & np.uint32(_DIGITS - 1)] += 1
        counts[2, key >> np.uint32(22)] += 1
    other = np.empty(n, np.int32)
    for digit in range(3):
        shift = np.uint32(digit * _DIGIT_BITS)
        total = 0
        single = False
        for d in range(_DIGITS):
            count = counts[digit, d]
            if count == n:
                single = True
                break
            counts[digit, d] = total
            total += count
        if single:  # all keys share this digit: nothing to move
            continue
        for position in range(n):
            index = order[position]
            d = (keys[index] >> shift) & np.uint32(_DIGITS - 1)
            other[counts[digit, d]] = index
            counts[digit, d] += 1
        order, other = other, order
    return order


@compiled
def group_by_class(
    order: npt.NDArray[np.int32], class_ids: npt.NDArray[Any], lowest: int, span: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Split an order into runs of one class, each still in the order given.

    Args:
        order: int32 (N,), indices.
        class_ids: integers (N,), from `lowest` to `lowest + span - 1`.
        lowest: the lowest class id.
        span: how many class ids there may be.

    Returns:
        The regrouped order, int32 (N,), and the starts of the runs, int32 (G + 1,), the last one being N.
    """
    n = order.shape[0]
    offsets = np.zeros(span + 1, np.int32)
    for i in range(n):
        offsets[class_ids[i] - lowest + 1] += 1
    groups = 0
    for c in range(span):
        if offsets[c + 1] > 0:
            groups += 1
        offsets[c + 1] += offsets[c]
    starts = np.empty(groups + 1, np.int32)
    groups = 0
    for c in range(span):
        if offsets[c + 1] > offsets[c]:
            starts[groups] = offsets[c]
            groups += 1
    starts[groups] = n
    grouped = np.empty(n, np.int32)
    for position in range(n):
        index = order[position]
        c = class_ids[index] - lowest
        grouped[offsets[c]] = index
        offsets[c] += 1
    return grouped, starts
