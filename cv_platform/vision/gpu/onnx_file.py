"""An ONNX file as plain values: nodes with their attributes, weights as arrays, names of inputs and outputs.

Reads the wire format itself, as `detectors.onnx_graph` does: the `onnx` package would be a large dependency for this.

Source: onnx.proto (ModelProto: graph = 7, opset_import = 8; GraphProto: node = 1, initializer = 5, input = 11,
output = 12; NodeProto: input = 1, output = 2, op_type = 4, attribute = 5; AttributeProto: name = 1, f = 2, i = 3,
s = 4, t = 5, floats = 7, ints = 8; TensorProto: dims = 1, data_type = 2, float_data = 4, int32_data = 5,
int64_data = 7, name = 8, raw_data = 9, double_data = 10, data_location = 14) and the Protocol Buffers encoding guide.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cv_platform.vision.detectors.protobuf import fields_of, text_of, varint_at

Value = int | float | str | list[int] | list[float] | npt.NDArray[Any]

_DTYPES: Final[dict[int, str]] = {
    1: "<f4", 2: "|u1", 3: "|i1", 5: "<i2", 6: "<i4", 7: "<i8", 9: "|b1", 10: "<f2", 11: "<f8",
}  # fmt: skip
_VARINT, _FIXED32 = 0, 5


@dataclass(frozen=True)
class Node:
    """One operation of the graph."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Value]


@dataclass(frozen=True)
class OnnxGraph:
    """A whole graph, nodes in an order in which they can run.

    Attributes:
        inputs: names, without those of weights.
        weights: by name.
        opset: version of the standard operators.
    """

    nodes: tuple[Node, ...]
    weights: dict[str, npt.NDArray[Any]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int


def read_onnx(model: bytes) -> OnnxGraph:
    """Read a file.

    Raises:
        ValueError: no ONNX file, cut short, or one whose weights lie in other files.
    """
    graph, opset = b"", 0
    for number, _, payload, _ in fields_of(model):
        if number == 7:
            graph = payload
        elif number == 8 and not text_of(payload, 1):
            opset = max(opset, _integer(text_of(payload, 2)))
    nodes, weights, inputs, outputs = [], {}, [], []
    for number, _, payload, _ in fields_of(graph):
        if number == 1:
            nodes.append(_node(payload))
        elif number == 5:
            weights[text_of(payload, 8).decode()] = _tensor(payload)
        elif number == 11:
            inputs.append(text_of(payload, 1).decode())
        elif number == 12:
            outputs.append(text_of(payload, 1).decode())
    if not nodes or not outputs:
        raise ValueError("the file is no ONNX model: it holds no graph with nodes and outputs")
    return OnnxGraph(tuple(nodes), weights, tuple(i for i in inputs if i not in weights), tuple(outputs), opset)


def _node(message: bytes) -> Node:
    inputs, outputs, attributes = [], [], {}
    for number, _, payload, _ in fields_of(message):
        if number == 1:
            inputs.append(payload.decode())
        elif number == 2:
            outputs.append(payload.decode())
        elif number == 5:
            name, value = _attribute(payload)
            attributes[name] = value
    return Node(text_of(message, 4).decode(), tuple(inputs), tuple(outputs), attributes)


def _attribute(message: bytes) -> tuple[str, Value]:
    name, value = "", None
    integers: list[int] = []
    floats: list[float] = []
    for number, wire_type, payload, _ in fields_of(message):
        if number == 1:
            name = payload.decode()
        elif number == 2:
            value = struct.unpack("<f", payload)[0]
        elif number == 3:
            value = _integer(payload)
        elif number == 4:
            value = payload.decode("utf-8", "replace")
        elif number == 5:
            value = _tensor(payload)
        elif number == 7:
            floats.extend(np.frombuffer(payload, "<f4").tolist())
        elif number == 8:
            integers.extend([_integer(payload)] if wire_type == _VARINT else _integers(payload))
    return name, integers or floats or (value if value is not None else integers)


def _tensor(message: bytes) -> npt.NDArray[Any]:
    dims: list[int] = []
    dtype, raw = "", None
    listed: list[npt.NDArray[Any]] = []
    for number, wire_type, payload, _ in fields_of(message):
        if number == 1:
            dims.extend([_integer(payload)] if wire_type == _VARINT else _integers(payload))
        elif number == 2:
            code = _integer(payload)
            if code not in _DTYPES:
                raise ValueError(f"a weight is of ONNX data type {code}; allowed are {', '.join(map(str, _DTYPES))}")
            dtype = _DTYPES[code]
        elif number == 9:
            raw = payload
        elif number == 4:
            listed.append(np.frombuffer(payload, "<f4"))
        elif number == 10:
            listed.append(np.frombuffer(payload, "<f8"))
        elif number in (5, 7):
            numbers = [_integer(payload)] if wire_type == _VARINT else list(_integers(payload))
            listed.append(np.array(numbers, np.int64))
        elif number == 14 and _integer(payload) == 1:
            raise ValueError("the model keeps weights in other files; export it as one file")
    if raw is not None:
        return np.frombuffer(raw, dtype).reshape(dims)
    values = np.concatenate(listed) if listed else np.empty(0)
    return values.astype(dtype or "<f4").reshape(dims)


def _integer(varint: bytes) -> int:
    """A varint as the signed 64-bit number that it stands for; 0 where it is absent."""
    if not varint:
        return 0
    value, _ = varint_at(memoryview(varint), 0)
    return value - (1 << 64) if value >= 1 << 63 else value


def _integers(packed: bytes) -> Iterator[int]:
    view, position = memoryview(packed), 0
    while position < len(packed):
        value, position = varint_at(view, position)
        yield value - (1 << 64) if value >= 1 << 63 else value
