"""An ONNX graph as a torch module, for the operators that detectors and embedders are made of.

Shapes are worked out in Python while the graph runs, never on the device, so a run can be captured as a CUDA graph.
Batch normalisation is folded into the convolution before it, x · sigmoid(x) becomes one operation, and an activation
belongs to the convolution before it: on a GPU in half precision `fused` does both at once.

Source: the ONNX operator specification, opsets 9 to 17 (onnx.ai/onnx/operators).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cv_platform.vision.detectors.onnx_batch import with_free_batch
from cv_platform.vision.gpu.compiler import triton_works
from cv_platform.vision.gpu.onnx_file import Node, OnnxGraph, read_onnx

Operator = Callable[[Node, list[Any]], Any]


class OnnxNetwork(torch.nn.Module):
    """A network of one input and any number of outputs.

    Args:
        model: an ONNX file's bytes. A batch frozen at one picture is freed.

    Raises:
        ValueError: no ONNX file, more than one input, or an operator that is not known here.
    """

    def __init__(self, model: bytes) -> None:
        super().__init__()
        graph = read_onnx(with_free_batch(model))
        if len(graph.inputs) != 1:
            raise ValueError(f"the model has {len(graph.inputs)} inputs; allowed is one picture batch")
        unknown = {node.op for node in graph.nodes} - _OPERATORS.keys() - {"Constant", "SiLU"}
        if unknown:
            raise ValueError(
                f"the model uses the operators {', '.join(sorted(unknown))}, which the torch backend does not know; "
                "run it with the onnx backend"
            )
        self.opset = graph.opset
        self.outputs = graph.outputs
        self._input = graph.inputs[0]
        nodes, weights = _without_constants(graph)
        nodes, weights = _folded(nodes, weights, graph.outputs)
        self._nodes = _with_activations(_with_silu(nodes, graph.outputs), graph.outputs)
        needed = {name for node in self._nodes for name in node.inputs}
        self._hosted: dict[str, Tensor] = {}
        self._names: dict[str, str] = {}
        on_host = {name for node in self._nodes for name in node.inputs[1:] if node.op in _HOST_ARGUMENTS}
        for name in sorted(needed & weights.keys()):
            tensor = torch.from_numpy(np.array(weights[name]))  # a copy: the file's bytes are read-only
            if name in on_host or not tensor.is_floating_point():
                self._hosted[name] = tensor
            else:
                self._names[name] = f"weight_{len(self._names)}"
                self.register_buffer(self._names[name], tensor)
        self._last_use = _last_use(self._nodes, graph.outputs)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """All outputs by name, in the graph's order.

        Args:
            batch: (N, C, H, W) in the module's own dtype and on its device.
        """
        values: dict[str, Any] = {"": None, self._input: batch, **self._hosted}
        for name, buffer in self._names.items():
            values[name] = getattr(self, buffer)
        for place, node in enumerate(self._nodes):
            result = _OPERATORS[node.op](node, [values[name] for name in node.inputs])
            if isinstance(result, tuple):
                values.update(zip(node.outputs, result, strict=False))
            else:
                values[node.outputs[0]] = result
            for name in self._last_use[place]:
                del values[name]
        return {name: values[name] for name in self.outputs}


def _without_constants(graph: OnnxGraph) -> tuple[list[Node], dict[str, Any]]:
    weights = dict(graph.weights)
    nodes = []
    for node in graph.nodes:
        if node.op == "Constant":
            weights[node.outputs[0]] = np.asarray(next(iter(node.attributes.values())))
        else:
            nodes.append(node)
    return nodes, weights


def _folded(nodes: list[Node], weights: dict[str, Any], outputs: Sequence[str]) -> tuple[list[Node], dict[str, Any]]:
    """Batch normalisation multiplied into the convolution before it, where nothing else reads that convolution."""
    uses = Counter(name for node in nodes for name in node.inputs) + Counter(outputs)
    maker = {node.outputs[0]: place for place, node in enumerate(nodes) if node.op == "Conv"}
    kept: list[Node | None] = list(nodes)
    for place, node in enumerate(nodes):
        source = maker.get(node.inputs[0]) if node.op == "BatchNormalization" else None
        if source is None or uses[node.inputs[0]] > 1 or any(name not in weights for name in node.inputs[1:5]):
            continue
        conv = kept[source]
        if conv is None or any(name not in weights for name in conv.inputs[1:]):
            continue
        gain, shift, mean, variance = (np.asarray(weights[name], np.float64) for name in node.inputs[1:5])
        factor = gain / np.sqrt(variance + float(node.attributes.get("epsilon", 1e-5)))  # type: ignore[arg-type]
        kernel = np.asarray(weights[conv.inputs[1]], np.float64)
        bias = np.asarray(weights[conv.inputs[2]], np.float64) if len(conv.inputs) > 2 else np.zeros(len(kernel))
        names = (f"{node.outputs[0]}/kernel", f"{node.outputs[0]}/bias")
        weights[names[0]] = (kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1))).astype(np.float32)
        weights[names[1]] = ((bias - mean) * factor + shift).astype(np.float32)
        kept[source] = None
        kept[place] = Node("Conv", (conv.inputs[0], *names), node.outputs[:1], conv.attributes)
    return [node for node in kept if node is not None], weights


def _with_silu(nodes: list[Node], outputs: Sequence[str]) -> list[Node]:
    uses = Counter(name for node in nodes for name in node.inputs) + Counter(outputs)
    sigmoids = {node.outputs[0]: node.inputs[0] for node in nodes if node.op == "Sigmoid"}
    joined, gone = [], set()
    for node in nodes:
        if node.op == "Mul":
            first, second = node.inputs
            for gate, value in ((first, second), (second, first)):
                if sigmoids.get(gate) == value and uses[gate] == 1:
                    gone.add(gate)
                    node = Node("SiLU", (value,), node.outputs, {})
                    break
        joined.append(node)
    return [node for node in joined if node.op != "Sigmoid" or node.outputs[0] not in gone]


def _with_activations(nodes: list[Node], outputs: Sequence[str]) -> list[Node]:
    """A convolution's activation told to it, where nothing else reads what it gives."""
    uses = Counter(name for node in nodes for name in node.inputs) + Counter(outputs)
    maker = {node.outputs[0]: place for place, node in enumerate(nodes) if node.op == "Conv"}
    joined: list[Node | None] = list(nodes)
    for place, node in enumerate(nodes):
        source = maker.get(node.inputs[0]) if node.op in _ACTIVATIONS else None
        if source is None or uses[node.inputs[0]] > 1:
            continue
        conv = nodes[source]
        joined[source] = None
        joined[place] = Node("Conv", conv.inputs, node.outputs[:1], {**conv.attributes, _THEN: node.op})
    return [node for node in joined if node is not None]


def _last_use(nodes: list[Node], outputs: Sequence[str]) -> list[list[str]]:
    """After each node, the values that nothing reads any more."""
    last: dict[str, int] = {}
    made = {name for node in nodes for name in node.outputs if name}
    for place, node in enumerate(nodes):
        for name in (*node.inputs, *node.outputs[:1]):
            if name in made and name not in outputs:
                last[name] = place
    after: list[list[str]] = [[] for _ in nodes]
    for name, place in last.items():
        after[place].append(name)
    return after


def _ints(value: Any) -> list[int]:
    return [int(v) for v in (value.tolist() if isinstance(value, Tensor) else value)]


def _padded(node: Node, x: Tensor, *, fill: float = 0.0) -> tuple[Tensor, list[int]]:
    """The input, padded here where both sides differ, and the symmetric padding that is left to the operation."""
    if node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise ValueError(f"{node.op} with auto_pad={node.attributes['auto_pad']} is not known to the torch backend")
    pads = _ints(node.attributes.get("pads", []))
    half = len(pads) // 2
    if pads[:half] == pads[half:]:
        return x, pads[:half] or [0] * (x.ndim - 2)
    both = [side for axis in reversed(range(half)) for side in (pads[axis], pads[axis + half])]
    return functional.pad(x, both, value=fill), [0] * half


def _convolution(node: Node, inputs: list[Any]) -> Tensor:
    x, padding = _padded(node, inputs[0])
    kernel = inputs[1]
    spatial = kernel.ndim - 2
    strides, dilations = (_ints(node.attributes.get(key, [1] * spatial)) for key in ("strides", "dilations"))
    bias = inputs[2] if len(inputs) > 2 else None
    group, then = int(node.attributes.get("group", 1)), str(node.attributes.get(_THEN, ""))  # type: ignore[arg-type]
    fused = fused_kernels()
    if fused is not None and fused.suits(x, kernel, bias):
        return fused.convolve(  # type: ignore[no-any-return]
            x, kernel, bias, strides=strides, padding=padding, dilations=dilations, group=group, activation=then
        )
    convolve = functional.conv2d if spatial == 2 else functional.conv1d
    result = convolve(x, kernel, bias, strides, padding, dilations, group)
    return _ACTIVATIONS[then](result) if then else result


@cache
def fused_kernels() -> Any:
    """The module `fused`; None where triton is not installed, or cannot build."""
    if not triton_works():
        return None
    from cv_platform.vision.gpu import fused

    return fused


_THEN: Final = "then"
"""Attribute of a convolution that ONNX does not know: the activation that follows it."""
_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {"Relu": functional.relu, "SiLU": functional.silu}


def _transposed_convolution(node: Node, inputs: list[Any]) -> Tensor:
    x, padding = _padded(node, inputs[0])
    strides, dilations = (_ints(node.attributes.get(key, [1, 1])) for key in ("strides", "dilations"))
    more = _ints(node.attributes.get("output_padding", [0, 0]))
    bias = inputs[2] if len(inputs) > 2 else None
    group = int(node.attributes.get("group", 1))  # type: ignore[arg-type]
    return functional.conv_transpose2d(x, inputs[1], bias, strides, padding, more, group, dilations)


def _pooled(node: Node, inputs: list[Any], *, highest: bool) -> Tensor:
    x, padding = _padded(node, inputs[0], fill=float("-inf") if highest else 0.0)
    kernel = _ints(node.attributes["kernel_shape"])
    strides = _ints(node.attributes.get("strides", [1] * len(kernel)))
    ceil = bool(node.attributes.get("ceil_mode", 0))
    if highest:
        return functional.max_pool2d(x, kernel, strides, padding, ceil_mode=ceil)
    counted = bool(node.attributes.get("count_include_pad", 0))
    return functional.avg_pool2d(x, kernel, strides, padding, ceil, counted)


def _normalised(node: Node, inputs: list[Any]) -> Tensor:
    x, gain, shift, mean, variance = inputs[:5]
    return functional.batch_norm(x, mean, variance, gain, shift, eps=float(node.attributes.get("epsilon", 1e-5)))  # type: ignore[arg-type]


def _resized(node: Node, inputs: list[Any]) -> Tensor:
    x = inputs[0]
    sizes = _ints(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else []
    if not sizes:
        scales = inputs[-1] if node.op == "Upsample" or len(inputs) < 3 else inputs[2]
        sizes = [*x.shape[:2], *(int(side * s) for side, s in zip(x.shape[2:], scales.tolist()[2:], strict=True))]
    height, width = sizes[2:]
    whole = height % x.shape[2] == 0 and width % x.shape[3] == 0
    mode = node.attributes.get("mode", "nearest")
    if mode == "nearest" and whole:
        return functional.interpolate(x, size=(height, width), mode="nearest")
    how = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    if mode == "linear" and how in ("half_pixel", "pytorch_half_pixel"):
        return functional.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
    raise ValueError(f"Resize with mode {mode!r} and coordinates {how!r} is not known to the torch backend")


def _sliced(node: Node, inputs: list[Any]) -> Tensor:
    x = inputs[0]
    if len(inputs) > 1:
        starts, ends = _ints(inputs[1]), _ints(inputs[2])
        axes = _ints(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
        steps = _ints(inputs[4]) if len(inputs) > 4 else [1] * len(starts)
    else:
        starts, ends = _ints(node.attributes["starts"]), _ints(node.attributes["ends"])
        axes, steps = _ints(node.attributes.get("axes", range(len(starts)))), [1] * len(starts)
    if min(steps) < 1:
        raise ValueError("Slice with a negative step is not known to the torch backend")
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _reshaped(node: Node, inputs: list[Any]) -> Tensor:
    x = inputs[0]
    shape = [x.shape[axis] if side == 0 else side for axis, side in enumerate(_ints(inputs[1]))]
    return x.reshape(shape)


def _gathered(node: Node, inputs: list[Any]) -> Tensor:
    x, index = inputs
    axis = int(node.attributes.get("axis", 0))  # type: ignore[arg-type]
    if index.ndim == 0:
        return x.select(axis, int(index))
    return x.index_select(axis, index.reshape(-1).to(x.device)).reshape(
        *x.shape[:axis], *index.shape, *x.shape[axis + 1 :]
    )


def _axes(node: Node, inputs: list[Any]) -> list[int]:
    return _ints(inputs[1]) if len(inputs) > 1 else _ints(node.attributes["axes"])


def _unsqueezed(node: Node, inputs: list[Any]) -> Tensor:
    x = inputs[0]
    for axis in sorted(_axes(node, inputs)):
        x = x.unsqueeze(axis)
    return x


def _squeezed(node: Node, inputs: list[Any]) -> Tensor:
    return inputs[0].squeeze(tuple(_axes(node, inputs)))


def _split(node: Node, inputs: list[Any]) -> tuple[Tensor, ...]:
    axis = int(node.attributes.get("axis", 0))  # type: ignore[arg-type]
    sizes = _ints(inputs[1]) if len(inputs) > 1 else _ints(node.attributes.get("split", []))
    return inputs[0].split(sizes or inputs[0].shape[axis] // len(node.outputs), axis)


def _softmax(node: Node, inputs: list[Any]) -> Tensor:
    axis = int(node.attributes.get("axis", -1))  # type: ignore[arg-type]
    return inputs[0].softmax(axis)


def _padding(node: Node, inputs: list[Any]) -> Tensor:
    pads = _ints(inputs[1]) if len(inputs) > 1 else _ints(node.attributes["pads"])
    fill = float(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else float(node.attributes.get("value", 0.0))  # type: ignore[arg-type]
    half = len(pads) // 2
    both = [side for axis in reversed(range(half)) for side in (pads[axis], pads[axis + half])]
    if node.attributes.get("mode", "constant") != "constant":
        raise ValueError(f"Pad with mode {node.attributes['mode']!r} is not known to the torch backend")
    return functional.pad(inputs[0], both, value=fill)


def _gemm(node: Node, inputs: list[Any]) -> Tensor:
    a, b = inputs[:2]
    a = a.transpose(0, 1) if node.attributes.get("transA") else a
    b = b.transpose(0, 1) if node.attributes.get("transB") else b
    product = float(node.attributes.get("alpha", 1.0)) * (a @ b)  # type: ignore[arg-type]
    return product + float(node.attributes.get("beta", 1.0)) * inputs[2] if len(inputs) > 2 else product  # type: ignore[arg-type]


def _clipped(node: Node, inputs: list[Any]) -> Tensor:
    bounds = [float(v) if v is not None else None for v in inputs[1:]] + [None, None]
    if len(inputs) == 1:
        bounds = [node.attributes.get("min"), node.attributes.get("max")]  # type: ignore[list-item]
    return inputs[0].clamp(bounds[0], bounds[1])


def _arithmetic(operation: Callable[[Any, Any], Any]) -> Operator:
    def run(node: Node, inputs: list[Any]) -> Tensor:
        a, b = inputs
        if a.device != b.device:  # whole numbers, of shapes mostly, stay on the processor
            a, b = (a, b.item()) if b.numel() == 1 else (a.item(), b) if a.numel() == 1 else (a, b)
        return operation(a, b)  # type: ignore[no-any-return]

    return run


def _divided(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


_OPERATORS: Final[dict[str, Operator]] = {
    "Add": _arithmetic(torch.add),
    "AveragePool": lambda node, inputs: _pooled(node, inputs, highest=False),
    "BatchNormalization": _normalised,
    "Clip": _clipped,
    "Concat": lambda node, inputs: torch.cat(inputs, int(node.attributes["axis"])),  # type: ignore[arg-type]
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Div": _arithmetic(_divided),
    "Exp": lambda node, inputs: inputs[0].exp(),
    "Flatten": lambda node, inputs: inputs[0].flatten(int(node.attributes.get("axis", 1))),  # type: ignore[arg-type]
    "Gather": _gathered,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node, inputs: inputs[0].mean((2, 3), keepdim=True),
    "Identity": lambda node, inputs: inputs[0],
    "LeakyRelu": lambda node, inputs: functional.leaky_relu(inputs[0], float(node.attributes.get("alpha", 0.01))),  # type: ignore[arg-type]
    "MatMul": lambda node, inputs: inputs[0] @ inputs[1],
    "MaxPool": lambda node, inputs: _pooled(node, inputs, highest=True),
    "Mul": _arithmetic(torch.mul),
    "Pad": _padding,
    "Pow": _arithmetic(torch.pow),
    "Relu": lambda node, inputs: functional.relu(inputs[0]),
    "Reshape": _reshaped,
    "Resize": _resized,
    "Shape": lambda node, inputs: torch.tensor(inputs[0].shape, dtype=torch.int64),
    "SiLU": lambda node, inputs: functional.silu(inputs[0]),
    "Sigmoid": lambda node, inputs: inputs[0].sigmoid(),
    "Slice": _sliced,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": lambda node, inputs: inputs[0].sqrt(),
    "Squeeze": _squeezed,
    "Sub": _arithmetic(torch.sub),
    "Tanh": lambda node, inputs: inputs[0].tanh(),
    "Transpose": lambda node, inputs: inputs[0].permute(_ints(node.attributes["perm"])),
    "Unsqueeze": _unsqueezed,
    "Upsample": _resized,
}
_HOST_ARGUMENTS: Final = {"Resize", "Upsample", "Slice", "Reshape", "Pad", "Clip", "Split", "Unsqueeze", "Squeeze"}
"""Operators whose arguments after the first are read in Python."""
