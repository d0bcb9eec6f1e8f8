"""Engines of TensorRT: built from ONNX, kept by what they were built for, run on torch tensors.

Every call of TensorRT is here. None has ever run: its libraries could be had on no machine that this was written on.
What it calls is named in the bindings of 10.16 and 11.4, and tested against a stand-in. TensorRT 11 has strongly typed
networks only, which keep the file's own types: half precision and INT8 by calibration are TensorRT 10's.

Source: NVIDIA, "TensorRT Python API reference", versions 10 and 11.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

EnginePrecision = Literal["fp32", "fp16", "int8"]

_MAGIC: Final = b"cv_platform TensorRT engine 1\n"
_WORKSPACE_BYTES: Final = 4 << 30
_MOST_HEADER_BYTES: Final = 4096


class EngineRefused(ValueError):
    """A kept engine that is not what it should be, or a model of which there can be none."""


@dataclass(frozen=True)
class EngineKey:
    """All that an engine depends on; another value of any is another engine.

    Attributes:
        model_sha256: of the ONNX file, hexadecimal.
        tensorrt: the library's version.
        gpu: the GPU's name and compute capability.
        precision: of the arithmetic.
        height, width: of the input, pixels.
        most: pictures in a batch, at most; the profile is from 1 to these.
        calibration_sha256: of the pictures that INT8 was calibrated with; empty elsewhere.
    """

    model_sha256: str
    tensorrt: str
    gpu: str
    precision: EnginePrecision
    height: int
    width: int
    most: int
    calibration_sha256: str = ""

    def __post_init__(self) -> None:
        if self.precision not in get_args(EnginePrecision):
            raise ValueError(
                f"precision is {self.precision!r}; allowed is one of {', '.join(get_args(EnginePrecision))}"
            )
        if self.most < 1:
            raise ValueError(f"most is {self.most}; allowed is 1 or more")

    @property
    def digest(self) -> str:
        """Of all of it, hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class EngineFolder:
    """Engines in a folder, a file each: what it was built for, then the plan, with its digest.

    Deserialising a plan runs what is in it. So a file is taken only if this user owns it and nobody else may write it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, key: EngineKey) -> Path:
        """Where an engine lies."""
        return self._folder / f"{key.digest}.engine"

    def keep(self, key: EngineKey, plan: bytes) -> None:
        """Write an engine: whole or not at all."""
        header = json.dumps({**asdict(key), "plan_sha256": hashlib.sha256(plan).hexdigest()}, sort_keys=True).encode()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = self.path(key).with_suffix(f".{os.getpid()}")
        with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(_MAGIC + header + b"\n" + plan)
        written.replace(self.path(key))

    def find(self, key: EngineKey) -> bytes | None:
        """The plan; None where there is none yet.

        Raises:
            EngineRefused: the file is somebody else's, or others may write it; it is no engine or damaged; or it was
                built for another model, TensorRT, GPU, precision or size.
        """
        path = self.path(key)
        try:
            file = open(path, "rb")  # noqa: SIM115 - closed below, what is looked at is what is read
        except FileNotFoundError:
            return None
        with file:
            facts = os.fstat(file.fileno())
            if facts.st_uid != os.geteuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise EngineRefused(
                    f"the engine {path.name} belongs to user {facts.st_uid} with mode {stat.S_IMODE(facts.st_mode):o}; "
                    f"allowed is user {os.geteuid()} and nobody else's writing; delete it"
                )
            if file.read(len(_MAGIC)) != _MAGIC:
                raise EngineRefused(f"the file {path.name} is no engine of this version; delete it")
            line = file.readline(_MOST_HEADER_BYTES)
            plan = file.read()
        try:
            header = json.loads(line)
            claimed = header.pop("plan_sha256")
        except (ValueError, AttributeError, KeyError):
            raise EngineRefused(f"the engine {path.name} does not say what it was built for; delete it") from None
        wanted = asdict(key)
        if header != wanted:
            differ = sorted(name for name in wanted if header.get(name) != wanted[name])
            raise EngineRefused(f"the engine {path.name} was built for another {', '.join(differ)}; delete it")
        if hashlib.sha256(plan).hexdigest() != claimed:
            raise EngineRefused(f"the engine {path.name} is damaged or cut short; delete it")
        return plan


def version() -> str:
    """TensorRT's version.

    Raises:
        EngineRefused: it is not installed.
    """
    return str(_tensorrt().__version__)


def build(model: bytes, key: EngineKey, *, calibration: Iterable[Tensor] = ()) -> bytes:
    """Build an engine; takes minutes.

    Args:
        model: an ONNX file of one input (N, 3, H, W) with a free batch.
        key: what for.
        calibration: for INT8, prepared batches on the GPU, float32 (N, 3, height, width), all of one N.

    Raises:
        EngineRefused: TensorRT does not read the model or builds nothing of it; INT8 without calibration; a precision
            that TensorRT 11 can't be told.
    """
    trt = _tensorrt()
    typed = int(str(trt.__version__).partition(".")[0]) >= 11
    if typed and key.precision != "fp32":
        raise EngineRefused(
            f"TensorRT {trt.__version__} keeps the types of the model's file; "
            f"for {key.precision} install TensorRT 10, or give a file of those types and ask for fp32"
        )
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        said = "; ".join(str(parser.get_error(n).desc()) for n in range(min(3, parser.num_errors)))
        raise EngineRefused(f"TensorRT does not read the model: {said or 'no reason given'}")
    if network.num_inputs != 1:
        raise EngineRefused(f"the model has {network.num_inputs} inputs; allowed is one picture batch")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    profile = builder.create_optimization_profile()
    shapes = [(count, 3, key.height, key.width) for count in (1, key.most, key.most)]
    profile.set_shape(network.get_input(0).name, *shapes)
    config.add_optimization_profile(profile)
    if key.precision != "fp32":
        config.set_flag(trt.BuilderFlag.FP16)
    if key.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
        config.int8_calibrator = _calibrator(trt, calibration)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineRefused("TensorRT builds no engine of the model; its own messages say why")
    return bytes(plan)


class Engine:
    """An engine that runs on torch's current stream; can be part of a CUDA graph once it has run.

    Args:
        plan: what `build` gave, on this GPU, by this TensorRT.

    Raises:
        EngineRefused: TensorRT does not take it.
    """

    def __init__(self, plan: bytes) -> None:
        trt = _tensorrt()
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineRefused("TensorRT does not take the engine; delete it, and it is built again")
        self._context = self._engine.create_execution_context()
        types = {trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16, trt.DataType.INT32: torch.int32}
        names = [self._engine.get_tensor_name(n) for n in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self._types = {name: types[self._engine.get_tensor_dtype(name)] for name in names}
        (self._input,) = [name for name in names if is_input[name]]
        self._outputs = [name for name in names if not is_input[name]]

    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        """All outputs by name, in the network's order; their memory is torch's.

        Args:
            batch: (N, 3, height, width), on the GPU.

        Raises:
            ValueError: a batch that the profile does not allow.
            RuntimeError: TensorRT could not start it.
        """
        batch = batch.to(self._types[self._input]).contiguous()
        if not self._context.set_input_shape(self._input, tuple(batch.shape)):
            raise ValueError(f"the batch has shape {tuple(batch.shape)}, which the engine's profile does not allow")
        self._context.set_tensor_address(self._input, batch.data_ptr())
        outputs = {}
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            outputs[name] = torch.empty(shape, dtype=self._types[name], device=batch.device)
            self._context.set_tensor_address(name, outputs[name].data_ptr())
        stream = torch.cuda.current_stream(batch.device).cuda_stream if batch.is_cuda else 0
        if not self._context.execute_async_v3(stream):
            raise RuntimeError("TensorRT could not start the engine; its own messages say why")
        return outputs


def _calibrator(trt: Any, batches: Iterable[Tensor]) -> Any:
    """What TensorRT 10 asks for batches; nothing of it is kept but the engine."""
    held = [batch.float().contiguous() for batch in batches]
    if not held or len({tuple(batch.shape) for batch in held}) != 1:
        raise EngineRefused(f"INT8 is to be calibrated with {len(held)} batches; allowed is one or more of one shape")

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._next = 0

        def get_batch_size(self) -> int:
            return len(held[0])

        def get_batch(self, names: list[str]) -> list[int] | None:
            if self._next == len(held):
                return None
            self._next += 1
            return [held[self._next - 1].data_ptr()]

        def read_calibration_cache(self) -> None:
            return None

        def write_calibration_cache(self, cache: Any) -> None:
            """The engine itself is what is kept."""

    return Calibrator()


def _tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError:
        raise EngineRefused("TensorRT is not installed: pip install 'cv-platform[tensorrt]'") from None
    return tensorrt
