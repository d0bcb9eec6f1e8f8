"""ONNX models on a GPU through torch: everything between the pictures and the kept boxes stays on the device."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cv_platform.vision.detections import Detections
from cv_platform.vision.detectors.architectures import ARCHITECTURES
from cv_platform.vision.detectors.base import ShardPicture
from cv_platform.vision.detectors.onnx import InputSize
from cv_platform.vision.gpu.boxes import HEADS, Dense, Kept, select
from cv_platform.vision.gpu.lost import telling_loss
from cv_platform.vision.gpu.network import OnnxNetwork
from cv_platform.vision.gpu.resample import DevicePreprocessor, Surface
from cv_platform.vision.nms import batched_nms

Precision = Literal["fp32", "fp16", "bf16"]
Picture: TypeAlias = npt.NDArray[np.uint8] | Tensor | Surface
"""What a detector of this kind takes: a BGR array (H, W, 3), an RGB tensor uint8 (3, H, W), a decoded frame."""

_CODE_VERSION = 3
_DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_FEW_CANDIDATES: Final = 128
_MOST_ON_DEVICE: Final = 1024
"""Candidates a picture for which overlaps are worked out on the device; above, K² of them would fill its memory."""


@dataclass
class _Program:
    """A batch of one size, ready to be run again and again."""

    batch: Tensor
    geometry: Tensor
    threshold: Tensor
    rows: Tensor
    counts: Tensor
    run: Callable[[], None]
    captured: bool = True


class Pending:
    """A batch that is being worked on; `result()` waits for it."""

    def __init__(self, parts: Sequence[Callable[[], list[Detections]]], places: Sequence[Sequence[int]]) -> None:
        self._parts, self._places = parts, places

    def result(self) -> list[Detections]:
        """One `Detections` a picture, in the order in which they were submitted."""
        found = [Detections.empty()] * sum(len(places) for places in self._places)
        with telling_loss():
            for part, places in zip(self._parts, self._places, strict=True):
                for place, detections in zip(places, part(), strict=True):
                    found[place] = detections
        return found


class TorchDetector:
    """An ONNX model of a known architecture, run by torch (see `base.Detector`).

    Batches are filled up to the next power of two, each of which is one CUDA graph (network, head, suppression); its
    result comes back in one transfer. With `submit` a batch is worked on while the caller prepares the next one.

    Args:
        model: the file's bytes.
        name: what the registry calls it.
        digest: of the file, hexadecimal; part of `version`.
        head: a name in `gpu.boxes.HEADS`.
        input_size: how large a picture the network sees.
        class_ids: the platform's class id of each of the network's labels; −1 for labels to leave out.
        score_threshold: least score, 0..1.
        iou_threshold: overlap above which the weaker of two boxes of one class goes.
        max_detections: most boxes a frame, the best ones.
        batch_size: most frames in one run; halved for good where the device's memory does not suffice.
        precision: of the network; boxes are always worked out in float32.
        device: "cuda", "cuda:1", …, or "cpu" (fp32 only, for tests).
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
        score_threshold: float = 0.25,
        iou_threshold: float = 0.45,
        max_detections: int = 1000,
        batch_size: int = 64,
        precision: Precision = "fp16",
        device: str = "cuda",
    ) -> None:
        if head not in HEADS:
            raise ValueError(f"head is {head!r}; the torch backend knows {', '.join(HEADS)}")
        if precision not in get_args(Precision):
            raise ValueError(f"precision is {precision!r}; allowed is one of {', '.join(get_args(Precision))}")
        if not 0 < score_threshold < 1:
            raise ValueError(f"score_threshold is {score_threshold}; allowed is above 0 and below 1")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; allowed is 1 or more")
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device is {device!r}, but torch finds no CUDA GPU here; set the onnx backend")
        self._dtype = _DTYPES[precision]
        self._precision = precision
        self._name, self._digest, self._head, self._size = name, digest, head, input_size
        self._score_threshold, self._iou_threshold = score_threshold, iou_threshold
        self._max_detections = max_detections
        self.batch_size = batch_size
        self._architecture = ARCHITECTURES[head]
        self._network = self._loaded(model)
        self._labels = torch.tensor(list(class_ids), dtype=torch.int64, device=self._device)
        self._classes = tuple(sorted({int(class_id) for class_id in class_ids if class_id >= 0}))
        # of high priority: torch deals out plain streams in turns, so a decoder's thread could be given the same one
        self._stream = torch.cuda.Stream(self._device, priority=-1) if self._device.type == "cuda" else None
        self._most = _FEW_CANDIDATES
        self._may_capture = True
        self._programs: dict[tuple[int, int, int, int], _Program] = {}
        self._preprocessors: dict[tuple[int, int], DevicePreprocessor] = {}

    def _loaded(self, model: bytes) -> Callable[[Tensor], dict[str, Tensor]]:
        """What runs the network on a batch; another engine than torch is another one here."""
        network = OnnxNetwork(model).eval().requires_grad_(False).to(self._device, self._dtype)
        return network.to(memory_format=torch.channels_last) if self._device.type == "cuda" else network

    @property
    def classes(self) -> tuple[int, ...]:
        """The class ids that the model's labels stand for."""
        return self._classes

    @property
    def version(self) -> str:
        """Name, file, code and parameters. The batch size is none of them: it changes no answer beyond rounding."""
        return (
            f"{self._name}@{self._digest[:12]}:torch{_CODE_VERSION}-{self._precision}:{self._head}/{self._size}"
            f"/{self._score_threshold:g}/{self._iou_threshold:g}/{self._max_detections}"
        )

    def warmup(self) -> None:
        """Run one full batch of grey pictures, so that the graphs and the device's libraries are ready."""
        side = 640 if self._size.long_side is None else min(640, self._size.long_side)
        self.detect([np.full((side * 3 // 4, side, 3), 114, np.uint8)] * self.batch_size)

    def detect(self, frames: Sequence[Picture], *, score_threshold: float | None = None) -> list[Detections]:
        """Find objects; one `Detections` a frame, boxes in its pixels, highest score first.

        Args:
            frames: BGR arrays, RGB tensors or decoded frames (see `Picture`); sizes may differ.
            score_threshold: instead of the detector's own, for this call.
        """
        found: list[Detections] = []
        start = 0
        while start < len(frames):
            chunk = frames[start : start + self.batch_size]
            try:
                found.extend(self.submit(chunk, score_threshold=score_threshold).result())
            except torch.cuda.OutOfMemoryError:
                self.halve_batch()
                continue
            start += len(chunk)
        return found

    def detect_shard(self, shard: BinaryIO) -> Generator[tuple[ShardPicture, Detections]]:
        """See `base.ShardDetector`; nvJPEG's pixels are a few levels from those of the processor's decoder.

        Raises:
            ValueError: the shard or one of its pictures is damaged.
            DeviceLost: a CUDA error: end the process.
        """
        from cv_platform.vision.gpu.jpeg import detect_in_shard

        yield from detect_in_shard(self, shard, device=str(self._device))

    def halve_batch(self) -> None:
        """Take half as many frames at once from now on.

        Raises:
            MemoryError: one frame at once does not fit either.
        """
        self._programs.clear()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
        if self.batch_size == 1:
            raise MemoryError(f"model {self._name} does not fit into the GPU's memory, not even with one frame at once")
        self.batch_size //= 2

    def submit(self, frames: Sequence[Picture], *, score_threshold: float | None = None) -> Pending:
        """Start work on at most `batch_size` frames. At most two batches may be pending.

        Raises:
            ValueError: a frame of another form than `Picture`, or too many.
            torch.cuda.OutOfMemoryError: see `halve_batch`.
            DeviceLost: a CUDA error, here or in `Pending.result`: end the process.
        """
        if len(frames) > self.batch_size:
            raise ValueError(f"{len(frames)} frames are submitted at once; allowed are {self.batch_size}")
        threshold = self._score_threshold if score_threshold is None else score_threshold
        groups: dict[tuple[int, int], list[int]] = {}
        for place, frame in enumerate(frames):
            groups.setdefault(self._size.for_frame(*_size_of(frame)), []).append(place)
        with telling_loss():
            parts = [self._start([frames[i] for i in places], size, threshold) for size, places in groups.items()]
        return Pending(parts, list(groups.values()))

    def _start(
        self, frames: Sequence[Picture], size: tuple[int, int], threshold: float
    ) -> Callable[[], list[Detections]]:
        """Start one run; returns what waits for it and reads it."""
        if self._stream is not None and any(isinstance(frame, Tensor) and frame.is_cuda for frame in frames):
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.inference_mode(), _on(self._stream):
            program = self._program(len(frames), size)
            geometry = self._fill(frames, size, program.batch)
            program.geometry[: len(frames)].copy_(geometry, non_blocking=True)
            program.threshold.fill_(threshold)
            program.run()
            rows, counts, done = self._fetched(program, len(frames))

        def read() -> list[Detections]:
            if done is not None:
                done.synchronize()
            most = int(counts[:, 0].max())
            if most > rows.shape[1]:
                # more candidates than there was room for: make room for good, and run these again
                self._most = 1 << (most - 1).bit_length()
                self._programs.clear()
                return self._start(frames, size, threshold)()
            # `frames` is held until here: nothing may write to their memory before the device has read it
            return self._read(rows, counts[:, 1] > 0)

        return read

    def _fetched(self, program: _Program, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Any]:
        """The result's way back to the processor, begun; and what says when it is there."""
        if self._stream is None:
            return program.rows[:count].numpy().copy(), program.counts[:count].numpy().copy(), None
        rows = torch.empty((count, *program.rows.shape[1:]), dtype=torch.float32, pin_memory=True)
        counts = torch.empty((count, 2), dtype=torch.int32, pin_memory=True)
        rows.copy_(program.rows[:count], non_blocking=True)
        counts.copy_(program.counts[:count], non_blocking=True)
        done = torch.cuda.Event()
        done.record(self._stream)
        return rows.numpy(), counts.numpy(), done

    def _read(self, rows: npt.NDArray[np.float32], settled: npt.NDArray[np.bool_]) -> list[Detections]:
        """The result's rows as `Detections`, one a picture."""
        stays = (rows[..., 4] > 0) & ((rows[..., 6] > 0) | ~settled[:, None])
        kept, ends = rows[stays], np.cumsum(stays.sum(1)).tolist()
        boxes, scores = kept[:, :4], np.clip(kept[:, 4], 0, 1)
        class_ids = kept[:, 5].astype(np.int16)
        found, start = [], 0
        for end, whole in zip(ends, settled.tolist(), strict=True):
            part: slice | npt.NDArray[np.int64] = slice(start, min(end, start + self._max_detections))
            if not whole:
                chosen = batched_nms(boxes[start:end], scores[start:end], class_ids[start:end], self._iou_threshold)
                part = start + chosen[: self._max_detections]
            found.append(Detections(boxes[part], scores[part], class_ids[part]))
            start = end
        return found

    def _program(self, count: int, size: tuple[int, int]) -> _Program:
        rounded = min(self.batch_size, 1 << (count - 1).bit_length())
        key = (rounded, *size, self._most)
        if key not in self._programs:
            whole = (self.batch_size, *size, self._most)
            if not self._may_capture and whole in self._programs:
                return self._programs[whole]
            self._programs[key] = self._made(rounded, size)
        return self._programs[key]

    @contextmanager
    def without_capture(self) -> Iterator[None]:
        """Capture no graph in here: what other threads do on the device (a decoder that opens, say) would spoil it.

        A batch for which there is no graph yet is filled up to one for which there is, else run without.
        """
        self._may_capture = False
        try:
            yield
        finally:
            self._may_capture = True
            self._programs = {key: program for key, program in self._programs.items() if program.captured}

    def _made(self, count: int, size: tuple[int, int]) -> _Program:
        """Memory for a batch, and its run, captured as a CUDA graph where there is a GPU."""
        device = self._device
        batch = torch.zeros((count, 3, *size), dtype=self._dtype, device=device)
        if self._stream is not None:
            batch = batch.to(memory_format=torch.channels_last)
        geometry = torch.ones((count, 6), dtype=torch.float32, device=device)
        threshold = torch.full((), self._score_threshold, dtype=torch.float32, device=device)

        def compute() -> Kept:
            dense = self.infer(batch)
            return select(
                dense,
                self._labels,
                geometry,
                score_threshold=threshold,
                iou_threshold=self._iou_threshold,
                most=self._most,
                suppress=self._most <= _MOST_ON_DEVICE,
            )

        kept = compute()
        if self._most > _MOST_ON_DEVICE:
            kept = Kept(kept.rows, kept.counts * kept.counts.new_tensor([1, 0]))  # suppression is left to the processor
        if self._stream is None or not self._may_capture:
            rows, counts = kept

            def run_here() -> None:
                again = compute()
                rows.copy_(again.rows)
                counts[:, 0].copy_(again.counts[:, 0])
                if self._most <= _MOST_ON_DEVICE:
                    counts[:, 1].copy_(again.counts[:, 1])

            return _Program(batch, geometry, threshold, rows, counts, run_here, captured=False)
        compute()  # libraries choose their kernels on the first runs, which must not happen while capturing
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            captured = compute()
            if self._most > _MOST_ON_DEVICE:
                captured.counts[:, 1].zero_()
        return _Program(batch, geometry, threshold, captured.rows, captured.counts, graph.replay)

    def infer(self, batch: Tensor) -> Dense:
        """The network and its head on a prepared batch, (N, 3, H, W) in the network's dtype."""
        # TF32 would round float32 to 10 bits, and boxes move by pixels for it
        with torch.backends.cudnn.flags(enabled=True, benchmark=self._dtype != torch.float32, allow_tf32=False):
            outputs = self._network(batch)
        return HEADS[self._head](outputs, batch.shape[2], batch.shape[3])

    def _fill(self, frames: Sequence[Picture], size: tuple[int, int], batch: Tensor) -> Tensor:
        """Write the frames into the batch; returns where they lie in it, as `boxes.select` wants it."""
        prepare = self._preprocessors.get(size)
        if prepare is None:
            prepare = self._preprocessors[size] = DevicePreprocessor(self._architecture, size, self._dtype)
        geometry = np.empty((len(frames), 6), np.float32)
        for start, end in _runs(frames):
            part, target = frames[start:end], batch[start:end]
            first = part[0]
            if isinstance(first, Surface):
                surfaces = [surface for surface in part if isinstance(surface, Surface)]
                prepare.write_surfaces(surfaces, target)
            elif isinstance(first, Tensor):
                pictures = [p for p in part if isinstance(p, Tensor)]
                prepare.write_pictures([p.to(self._device) for p in pictures], target, channels="rgb")
            else:
                stacked = torch.from_numpy(np.stack([p for p in part if isinstance(p, np.ndarray)]))
                prepare.write_pictures(stacked.to(self._device).permute(0, 3, 1, 2), target, channels="bgr")
            place = prepare.place(*_size_of(first))
            geometry[start:end] = (
                place.width / place.frame_width,
                place.height / place.frame_height,
                place.left,
                place.top,
                place.frame_width,
                place.frame_height,
            )
        return torch.from_numpy(geometry)


def _on(stream: Any) -> Any:
    """The context in which work goes to the stream; a null context on the processor."""
    return torch.cuda.stream(stream)


def _size_of(frame: Picture) -> tuple[int, int]:
    """Height and width in which boxes are.

    Raises:
        ValueError: no picture.
    """
    if isinstance(frame, Surface):
        return frame.size
    shape, is_bytes = tuple(frame.shape), frame.dtype in (np.uint8, torch.uint8)
    channels = shape[0] if isinstance(frame, Tensor) and shape else shape[-1] if shape else 0
    if len(shape) != 3 or channels != 3 or not is_bytes or 0 in shape:
        raise ValueError(
            f"a frame is {frame.dtype} {shape}; "
            "allowed is a uint8 array (H, W, 3), BGR, or a uint8 tensor (3, H, W), RGB"
        )
    return (shape[1], shape[2]) if isinstance(frame, Tensor) else (shape[0], shape[1])


def _runs(frames: Sequence[Picture]) -> Iterator[tuple[int, int]]:
    """Stretches of frames that are prepared alike."""

    def kind(frame: Picture) -> tuple[Any, ...]:
        if isinstance(frame, Surface):
            return (
                Surface,
                frame.nv12.shape,
                frame.long_side,
                frame.rotation,
                frame.colour_space,
                frame.colour_range,
            )
        return (type(frame) is np.ndarray, tuple(frame.shape))

    start = 0
    for place in range(1, len(frames) + 1):
        if place == len(frames) or kind(frames[place]) != kind(frames[start]):
            yield start, place
            start = place
