"""torchvision's own detection models on a GPU: RetinaNet, Faster R-CNN, FCOS, SSD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cv_platform.vision.detections import Detections
from cv_platform.vision.detectors.heads import COCO91_TO_COCO80
from cv_platform.vision.detectors.torch_backend import Pending, Picture, Precision
from cv_platform.vision.gpu.lost import telling_loss
from cv_platform.vision.gpu.resample import Surface, nv12_to_rgb

_CODE_VERSION = 1
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchvisionDetector:
    """A detector of `torchvision.models.detection` (see `base.Detector`); it resizes and suppresses by itself.

    Args:
        builder: torchvision's name of the model, e.g. "retinanet_resnet50_fpn".
        weights: torchvision's name of trained weights ("DEFAULT", fetched by torchvision), a file with a state dict
            (`torch.save`), or None for random ones, which find nothing and serve for measuring.
        class_ids: the platform's class id of each of the network's labels; None for torchvision's COCO numbering.
        score_threshold: least score, 0..1.
        max_detections: most boxes a frame.
        batch_size: most frames in one run; halved for good where the device's memory does not suffice.
        precision: of the network.
        device: "cuda", "cuda:1", …, or "cpu" (fp32 only).

    Raises:
        ValueError: an unknown model, or weights that are not its own.
    """

    def __init__(
        self,
        builder: str,
        *,
        weights: str | Path | None = "DEFAULT",
        class_ids: Sequence[int] | None = None,
        score_threshold: float = 0.25,
        max_detections: int = 1000,
        batch_size: int = 16,
        precision: Precision = "fp16",
        device: str = "cuda",
    ) -> None:
        from torchvision.models import detection, get_model

        if builder not in detection.__dict__:
            known = sorted(name for name in detection.__dict__ if name.endswith(("fpn", "fpn_v2", "ssd300_vgg16")))
            raise ValueError(f"torchvision has no detector {builder!r}; allowed is one of {', '.join(known)}")
        file = isinstance(weights, Path)
        model = get_model(builder, weights=None if file else weights, weights_backbone=None)
        if isinstance(weights, Path):
            try:
                model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
            except (RuntimeError, OSError) as error:
                raise ValueError(f"the weights file is not one of {builder}: {type(error).__name__}") from None
        self._device, self._dtype, self._precision = torch.device(device), _DTYPES[precision], precision
        self.model = model.eval().requires_grad_(False).to(self._device, self._dtype)
        if self._device.type == "cuda":
            self.model = self.model.to(memory_format=torch.channels_last)
        # the default stream is the clips' decoder's too: its frames would wait behind the network
        self._stream = torch.cuda.Stream(self._device, priority=-1) if self._device.type == "cuda" else None
        self._name, self._weights = builder, str(weights.name if isinstance(weights, Path) else weights)
        self._class_ids = np.asarray(COCO91_TO_COCO80 if class_ids is None else class_ids, np.int16)
        self._score_threshold, self._max_detections = score_threshold, max_detections
        self.batch_size = batch_size

    @property
    def classes(self) -> tuple[int, ...]:
        """The class ids that the model's labels stand for."""
        return tuple(sorted({int(class_id) for class_id in self._class_ids if class_id >= 0}))

    @property
    def version(self) -> str:
        """Name, weights, code and parameters."""
        return (
            f"torchvision:{self._name}@{self._weights}:v{_CODE_VERSION}-{self._precision}"
            f"/{self._score_threshold:g}/{self._max_detections}"
        )

    def warmup(self) -> None:
        """Run one full batch of grey pictures."""
        self.detect([np.full((540, 960, 3), 114, np.uint8)] * self.batch_size)

    def detect(self, frames: Sequence[Picture]) -> list[Detections]:
        """Find objects; one `Detections` a frame, boxes in its pixels, highest score first."""
        found: list[Detections] = []
        start = 0
        while start < len(frames):
            chunk = frames[start : start + self.batch_size]
            try:
                found.extend(self.submit(chunk).result())
            except torch.cuda.OutOfMemoryError:
                self.halve_batch()
                continue
            start += len(chunk)
        return found

    def halve_batch(self) -> None:
        """Take half as many frames at once from now on.

        Raises:
            MemoryError: one frame at once does not fit either.
        """
        torch.cuda.empty_cache()
        if self.batch_size == 1:
            raise MemoryError(f"model {self._name} does not fit into the GPU's memory, not even with one frame at once")
        self.batch_size //= 2

    @contextmanager
    def without_capture(self) -> Iterator[None]:
        """As `TorchDetector.without_capture`; this one never captures."""
        yield

    def submit(self, frames: Sequence[Picture]) -> Pending:
        """Run a batch; its boxes come back in one transfer when the result is asked for."""
        if self._stream is not None and any(isinstance(frame, Tensor) and frame.is_cuda for frame in frames):
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with telling_loss(), torch.inference_mode(), torch.cuda.stream(self._stream):
            outputs = self.model([self._picture(frame) for frame in frames])
            counts = [len(output["scores"]) for output in outputs]
            rows = torch.cat(
                [
                    torch.cat(
                        [o["boxes"].float(), o["scores"].float()[:, None], o["labels"].float()[:, None]],
                        1,
                    )
                    for o in outputs
                ]
            )

        def read() -> list[Detections]:
            with torch.cuda.stream(self._stream):
                table = rows.cpu().numpy()
            parts = np.split(table, np.cumsum(counts)[: len(frames) - 1])  # `frames` is held until here
            return [self._detections(part) for part in parts]

        return Pending([read], [range(len(frames))])

    def _picture(self, frame: Picture) -> Tensor:
        """A frame as torchvision's models take it: RGB, 0..1, (3, H, W)."""
        if isinstance(frame, Surface):
            planes = nv12_to_rgb(
                frame.nv12[None],
                frame.shrunk_size,
                frame.shrunk_size,
                frame.colour_space,
                frame.colour_range,
                self._dtype,
            )
            picture = torch.rot90(planes[0], frame.rotation // 90, (1, 2)).round()
        elif isinstance(frame, Tensor):
            picture = frame.to(self._device).to(self._dtype)
        else:
            picture = torch.from_numpy(frame).to(self._device).permute(2, 0, 1).flip(0).to(self._dtype)
        return picture / 255

    def _detections(self, rows: Any) -> Detections:
        labels = rows[:, 5].astype(np.int64)
        known = (labels >= 0) & (labels < len(self._class_ids))
        class_ids = np.where(known, self._class_ids[np.where(known, labels, 0)], -1)
        boxes = rows[:, :4]
        usable = (class_ids >= 0) & (rows[:, 4] > self._score_threshold) & np.isfinite(boxes).all(1)
        usable &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        rows, class_ids = rows[usable], class_ids[usable]
        order = np.argsort(-rows[:, 4], kind="stable")[: self._max_detections]
        return Detections(rows[order, :4], np.clip(rows[order, 4], 0, 1), class_ids[order].astype(np.int16))
