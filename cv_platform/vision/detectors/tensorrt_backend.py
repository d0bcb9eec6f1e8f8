"""ONNX models on a GPU through TensorRT: the torch backend with another engine for the network (see there).

Never run (see `gpu.tensorrt_engine`); used from Python, not from the settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cv_platform.vision.detectors.onnx import InputSize
from cv_platform.vision.detectors.onnx_batch import with_free_batch
from cv_platform.vision.detectors.torch_backend import TorchDetector
from cv_platform.vision.gpu import tensorrt_engine
from cv_platform.vision.gpu.lost import telling_loss
from cv_platform.vision.gpu.tensorrt_engine import Engine, EngineFolder, EngineKey, EnginePrecision


class TensorRtDetector(TorchDetector):
    """As `TorchDetector`, the network run by an engine: found in the folder, or built and kept there.

    Args:
        model, name, digest, head, input_size, class_ids: as there.
        engines: folder of built engines.
        precision: of the engine; "int8" needs calibration. TensorRT 11: "fp32" alone, see `tensorrt_engine`.
        calibration: prepared batches, float32 (N, 3, H, W) on the GPU, from pictures of our own shards.
        more: as `TorchDetector`.

    Raises:
        EngineRefused: TensorRT is not installed or does not take the model; a kept engine is foreign or stale.
    """

    def __init__(
        self,
        model: bytes,
        *,
        name: str,
        digest: str,
        head: str,
        input_size: InputSize,
        class_ids: Sequence[int],
        engines: Path,
        precision: EnginePrecision = "fp16",
        calibration: Iterable[Tensor] = (),
        **more: Any,
    ) -> None:
        self._folder, self._engine_precision = EngineFolder(engines), precision
        self._calibration = list(calibration)
        self._tensorrt = tensorrt_engine.version()
        super().__init__(
            model, name=name, digest=digest, head=head, input_size=input_size, class_ids=class_ids,
            precision="fp32", **more,
        )  # fmt: skip

    @property
    def version(self) -> str:
        """As there, with TensorRT's version and the engine's precision and calibration."""
        calibrated = f"-{self._calibration_digest()[:12]}" if self._calibration else ""
        return f"{super().version}:tensorrt{self._tensorrt}-{self._engine_precision}{calibrated}"

    def _loaded(self, model: bytes) -> Callable[[Tensor], dict[str, Tensor]]:
        freed, most = with_free_batch(model), self.batch_size
        engines: dict[tuple[int, int], Engine] = {}

        def run(batch: Tensor) -> dict[str, Tensor]:
            height, width = batch.shape[2:]
            if (height, width) not in engines:
                engines[height, width] = self._engine(freed, height, width, most)
            with telling_loss():
                return engines[height, width](batch)

        return run

    def _engine(self, model: bytes, height: int, width: int, most: int) -> Engine:
        key = EngineKey(
            hashlib.sha256(model).hexdigest(), self._tensorrt, _gpu(self._device), self._engine_precision,
            height, width, most, self._calibration_digest() if self._engine_precision == "int8" else "",
        )  # fmt: skip
        plan = self._folder.find(key)
        if plan is None:
            plan = tensorrt_engine.build(model, key, calibration=self._calibration)
            self._folder.keep(key, plan)
        return Engine(plan)

    def _calibration_digest(self) -> str:
        digest = hashlib.sha256()
        for batch in self._calibration:
            digest.update(str(tuple(batch.shape)).encode() + batch.float().contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()


def _gpu(device: torch.device) -> str:
    if device.type != "cuda":
        return "none"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} {major}.{minor}"
