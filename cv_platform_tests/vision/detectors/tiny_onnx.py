"""The smallest ONNX models: y = x × weight, written field by field."""

from __future__ import annotations

import numpy as np


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes | str | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def value(name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(field(1, field(1, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def scaling_model(shape: tuple[int, ...], weight: float, *, weight_is_input: bool = True) -> bytes:
    """y = x × weight; as old exporters wrote it, the weight is listed among the inputs."""
    tensor = field(2, 1) + field(8, "w") + field(9, np.float32(weight).tobytes()) + field(1, 1)
    node = field(1, "x") + field(1, "w") + field(2, "y") + field(4, "Mul")
    graph = field(1, node) + field(2, "g") + field(5, tensor) + field(11, value("x", shape))
    if weight_is_input:
        graph += field(11, value("w", (1,)))
    graph += field(12, value("y", shape))
    return field(1, 7) + field(7, graph) + field(8, field(1, "") + field(2, 13))
