"""Let an ONNX model whose export froze the batch at one picture take any number of them.

Such an export writes the 1 into the input's shape, which `onnx_graph.optimisable` frees, and into the shapes of Reshape
nodes, which this frees. Whether the graph then treats each picture on its own is for the caller to try: see
`embeddings.OnnxEmbedder`.

Source: onnx.proto (ModelProto.graph = 7; GraphProto: node = 1, initializer = 5; NodeProto: input = 1, output = 2,
op_type = 4, attribute = 5; AttributeProto.t = 5; TensorProto: dims = 1, name = 8, raw_data = 9).
"""

from __future__ import annotations

import numpy as np

from cv_platform.vision.detectors.protobuf import field, fields_of, text_of

_GRAPH, _NODE, _INITIALIZER = 7, 1, 5
_NODE_INPUT, _NODE_OUTPUT, _OP_TYPE, _ATTRIBUTE, _ATTRIBUTE_TENSOR = 1, 2, 4, 5, 5
_TENSOR_NAME, _RAW_DATA = 8, 9


def with_free_batch(model: bytes) -> bytes:
    """The model with the leading 1 of every constant Reshape target replaced by 0 ("as in the input").

    Raises:
        ValueError: no ONNX file.
    """
    parts = []
    for number, _, payload, whole in fields_of(model):
        parts.append(field(_GRAPH, _edited_graph(payload)) if number == _GRAPH else whole)
    return b"".join(parts)


def _edited_graph(graph: bytes) -> bytes:
    fields = list(fields_of(graph))
    targets = set()
    for number, _, node, _ in fields:
        if number == _NODE and text_of(node, _OP_TYPE) == b"Reshape":
            inputs = [value for number, _, value, _ in fields_of(node) if number == _NODE_INPUT]
            targets.update(inputs[1:2])
    parts = []
    for number, _, payload, whole in fields:
        if number == _INITIALIZER and text_of(payload, _TENSOR_NAME) in targets:
            parts.append(field(_INITIALIZER, _freed(payload)))
        elif (
            number == _NODE and text_of(payload, _OP_TYPE) == b"Constant" and text_of(payload, _NODE_OUTPUT) in targets
        ):
            parts.append(field(_NODE, _edited_constant(payload)))
        else:
            parts.append(whole)
    return b"".join(parts)


def _is_constant_among(node: bytes, names: set[bytes]) -> bool:
    return text_of(node, _OP_TYPE) == b"Constant" and text_of(node, _NODE_OUTPUT) in names


def _edited_constant(node: bytes) -> bytes:
    parts = []
    for number, _, payload, whole in fields_of(node):
        if number != _ATTRIBUTE:
            parts.append(whole)
            continue
        attribute = [
            field(_ATTRIBUTE_TENSOR, _freed(inner)) if inner_number == _ATTRIBUTE_TENSOR else inner_whole
            for inner_number, _, inner, inner_whole in fields_of(payload)
        ]
        parts.append(field(_ATTRIBUTE, b"".join(attribute)))
    return b"".join(parts)


def _freed(tensor: bytes) -> bytes:
    """The int64 tensor with a leading 1 turned to 0, where it is kept as raw bytes."""
    parts = []
    for number, _, payload, whole in fields_of(tensor):
        if number == _RAW_DATA and len(payload) % 8 == 0:
            shape = np.frombuffer(payload, "<i8").copy()
            if len(shape) > 1 and shape[0] == 1:
                shape[0] = 0
                parts.append(field(_RAW_DATA, shape.tobytes()))
                continue
        parts.append(whole)
    return b"".join(parts)
