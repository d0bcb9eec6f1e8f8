"""ONNX models on the processor, through ONNX Runtime."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

from cv_platform.vision.detections import Detections
from cv_platform.vision.detectors.architectures import ARCHITECTURES, Architecture, as_floats
from cv_platform.vision.detectors.heads import Candidates
from cv_platform.vision.detectors.onnx_graph import optimisable
from cv_platform.vision.nms import batched_nms
from cv_platform.vision.preprocess import Batch, Placement, Preprocessor

_CODE_VERSION = 2
_KEPT_SIZES = 4
_MOST_LANES: Final = 8
"""Runs at once at most; each holds one picture's intermediate results in memory."""
_QUIET = 4  # ONNX Runtime's warnings name files and nodes; what fails raises


class OnnxSession:
    """One ONNX model, ready to run.

    Args:
        model: the file's bytes.
        threads: ONNX Runtime's own threads for one run; 0 for all cores.
        dynamic_inputs: let batch, height and width be of any size (see `onnx_graph.optimisable`).

    Raises:
        ValueError: not an ONNX model that can be loaded.
    """

    def __init__(self, model: bytes, *, threads: int = 0, dynamic_inputs: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # threads that spin while they wait take the cores from decoding, encoding and the other detector: 1.7 times
        # slower where clips are anonymised
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = _QUIET
        try:
            self._session = onnxruntime.InferenceSession(
                optimisable(model, dynamic_inputs=dynamic_inputs), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001 - its exceptions share no base class
            raise ValueError(f"ONNX Runtime cannot load the model: {type(error).__name__}") from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(f"the model has {len(inputs)} inputs; allowed is one picture batch")
        self._input = inputs[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        shape = inputs[0].shape
        self.input_shape: tuple[int | None, ...] = tuple(d if isinstance(d, int) else None for d in shape)
        """Batch, channels, height, width (or channels, height, width), None where any size goes."""

    def run(self, batch: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """All outputs by name."""
        return dict(zip(self._outputs, self._session.run(self._outputs, {self._input: batch}), strict=True))


@dataclass(frozen=True)
class InputSize:
    """How large a picture the network sees.

    Either `width` and `height` (pixels), or `long_side` and `multiple_of`: then pictures keep about their size (the
    next multiple), and are shrunk where the longer side is over `long_side`.
    """

    width: int | None = None
    height: int | None = None
    long_side: int | None = None
    multiple_of: int = 32

    def __post_init__(self) -> None:
        fixed = self.width is not None and self.height is not None
        if fixed == (self.long_side is not None):
            raise ValueError(f"{self} is ambiguous; allowed is width and height, or long_side and multiple_of")

    def for_frame(self, height: int, width: int) -> tuple[int, int]:
        """The input's height and width for a frame."""
        if self.width is not None and self.height is not None:
            return self.height, self.width
        assert self.long_side is not None
        scale, step = min(1.0, self.long_side / max(height, width)), self.multiple_of
        padded_h, padded_w = (max(step, -(-round(side * scale) // step) * step) for side in (height, width))
        return padded_h, padded_w

    def __str__(self) -> str:
        return f"{self.width}x{self.height}" if self.width else f"max{self.long_side}/{self.multiple_of}"


class _Lane:
    """A session, and the memory in which one caller at a time prepares its inputs."""

    def __init__(self, session: OnnxSession, architecture: Architecture) -> None:
        self.session = session
        self._architecture = architecture
        self._preprocessors: dict[tuple[int, int], Preprocessor] = {}

    def prepare(self, frames: Sequence[npt.NDArray[np.uint8]], size: tuple[int, int]) -> Batch:
        """The network's input of (height, width), in memory that the next call writes to again."""
        preprocessor = self._preprocessors.pop(size, None)
        if preprocessor is None:
            if len(self._preprocessors) >= _KEPT_SIZES:
                self._preprocessors.pop(next(iter(self._preprocessors))).close()
            preprocessor = self._architecture.preprocessor(size)
        self._preprocessors[size] = preprocessor
        return preprocessor(frames)


class OnnxDetector:
    """An ONNX model of a known architecture (see `base.Detector`).

    Of several frames that do not fit into one batch (an export frozen at one picture takes no more), as many go at once
    as there are threads, each run on one thread from the picture to its boxes: threads within a run wait for each other
    many times, and all of them while pictures are prepared and boxes suppressed. One caller at a time, but for
    `detect_alongside`.

    Args:
        model: the file's bytes.
        name: what the registry calls it.
        digest: of the file, hexadecimal; part of `version`.
        head: a name in `architectures.ARCHITECTURES`.
        input_size: how large a picture the network sees.
        class_ids: the platform's class id of each of the network's labels; −1 for labels to leave out.
        score_threshold: least score, 0..1.
        iou_threshold: overlap above which the weaker of two boxes of one class goes.
        max_detections: most boxes a frame, the best ones.
        threads: ONNX Runtime's own threads for one run; 0 for all cores.
        batch_size: most frames in one run, where the model takes any number.
    """

    def __init__(
        self,
        model: bytes,
        *,
        name: str,
        digest: str,
        head: Literal["yolox", "yolov5", "yolov8", "torchvision", "centerface", "yunet", "ultraface"] | str,
        input_size: InputSize,
        class_ids: Sequence[int],
        score_threshold: float = 0.25,
        iou_threshold: float = 0.45,
        max_detections: int = 1000,
        threads: int = 0,
        batch_size: int = 8,
    ) -> None:
        if head not in ARCHITECTURES:
            raise ValueError(f"head is {head!r}; allowed is one of {', '.join(ARCHITECTURES)}")
        if not 0 < score_threshold < 1:
            raise ValueError(f"score_threshold is {score_threshold}; allowed is above 0 and below 1")
        self._architecture: Architecture = ARCHITECTURES[head]
        self._class_ids = np.asarray(class_ids, np.int16)
        self._name, self._digest, self._head = name, digest, head
        self._size = input_size
        self._score_threshold = score_threshold
        self._iou_threshold = iou_threshold
        self._max_detections = max_detections
        self._model, self._threads = model, threads
        session = self._new_session(threads)
        self._lane = _Lane(session, self._architecture)
        self._pool: ThreadPoolExecutor | None = None
        self._lanes_opened = threading.Lock()
        self._free_lanes: SimpleQueue[_Lane] | None = None
        # torchvision's exports take one picture without a batch axis
        self._batched = len(session.input_shape) == 4
        fixed = session.input_shape[0] if self._batched else 1
        self._batch_size = fixed or batch_size
        self._fixed_batch = fixed is not None

    @property
    def classes(self) -> tuple[int, ...]:
        """The class ids that the model's labels stand for."""
        return tuple(sorted({int(class_id) for class_id in self._class_ids if class_id >= 0}))

    @property
    def version(self) -> str:
        """Name, file, code and parameters."""
        return (
            f"{self._name}@{self._digest[:12]}:v{_CODE_VERSION}:{self._head}/{self._size}"
            f"/{self._score_threshold:g}/{self._iou_threshold:g}/{self._max_detections}"
        )

    def warmup(self) -> None:
        """Run the network once on a grey picture."""
        side = 640 if self._size.long_side is None else min(640, self._size.long_side)
        self.detect([np.full((side * 3 // 4, side, 3), 114, np.uint8)])

    def detect(
        self, frames: Sequence[npt.NDArray[np.uint8]], *, score_threshold: float | None = None
    ) -> list[Detections]:
        """Find objects; one `Detections` a frame, boxes in its pixels, highest score first.

        Args:
            frames: BGR pictures, each uint8 (H, W, 3); sizes may differ.
            score_threshold: instead of the detector's own, for this call.
        """
        threshold = self._score_threshold if score_threshold is None else score_threshold
        chunks = list(self._chunks(frames))
        if len(chunks) > 1 and self.lanes > 1:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.lanes, thread_name_prefix="detect")
            found = list(self._pool.map(lambda chunk: self._detect_in_free_lane(chunk, threshold), chunks))
        else:
            found = [self._detect_in(self._lane, chunk, threshold) for chunk in chunks]
        return [one for some in found for one in some]

    def detect_alongside(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        """As `detect`, on one core, for one of up to `lanes` callers at once; more of them wait for each other."""
        found = [self._detect_in_free_lane(chunk, self._score_threshold) for chunk in self._chunks(frames)]
        return [one for some in found for one in some]

    @property
    def lanes(self) -> int:
        """How many batches at once `detect` works on, and how many callers at once `detect_alongside`."""
        return min(_MOST_LANES, self._threads or _cores())

    def _new_session(self, threads: int) -> OnnxSession:
        return OnnxSession(self._model, threads=threads, dynamic_inputs=self._size.long_side is not None)

    def _opened_lanes(self) -> SimpleQueue[_Lane]:
        with self._lanes_opened:
            if self._free_lanes is None:
                session = self._new_session(1)  # may be run from any number of threads at once
                self._free_lanes = SimpleQueue()
                for _ in range(self.lanes):
                    self._free_lanes.put(_Lane(session, self._architecture))
            return self._free_lanes

    def _detect_in_free_lane(self, chunk: Sequence[npt.NDArray[np.uint8]], threshold: float) -> list[Detections]:
        lanes = self._opened_lanes()
        lane = lanes.get()
        try:
            return self._detect_in(lane, chunk, threshold)
        finally:
            lanes.put(lane)

    def _detect_in(self, lane: _Lane, chunk: Sequence[npt.NDArray[np.uint8]], threshold: float) -> list[Detections]:
        """One batch, from pictures to boxes."""
        batch = self._prepare_in(lane, chunk)
        outputs = self._infer_in(lane, batch.tensor)
        return [
            self._detections(self.decode(outputs, i, batch, threshold), placement)
            for i, placement in enumerate(batch.placements[: len(chunk)])
        ]

    def _chunks(self, frames: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Sequence[npt.NDArray[np.uint8]]]:
        """Runs of frames that fit into one batch: no more than it takes, all of one input size."""
        sizes = [self._input_size(frame) for frame in frames]
        start = 0
        while start < len(frames):
            end = start + 1
            while end < len(frames) and end - start < self._batch_size and sizes[end] == sizes[start]:
                end += 1
            yield frames[start:end]
            start = end

    def _input_size(self, frame: npt.NDArray[np.uint8]) -> tuple[int, int]:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
            raise ValueError(f"a frame is {frame.dtype} {frame.shape}; allowed is uint8 (H, W, 3), BGR")
        return self._size.for_frame(frame.shape[0], frame.shape[1])

    def prepare(self, frames: Sequence[npt.NDArray[np.uint8]]) -> Batch:
        """The network's input for frames of one input size, in memory that the next call writes to again."""
        return self._prepare_in(self._lane, frames)

    def _prepare_in(self, lane: _Lane, frames: Sequence[npt.NDArray[np.uint8]]) -> Batch:
        # a network frozen at several pictures a run gets its last one again where there are fewer
        missing = self._batch_size - len(frames) if self._fixed_batch else 0
        return lane.prepare([*frames, *[frames[-1]] * missing], self._input_size(frames[0]))

    def infer(self, batch: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """The network's outputs for `prepare`'s batch."""
        return self._infer_in(self._lane, batch)

    def _infer_in(self, lane: _Lane, batch: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        outputs = lane.session.run(batch if self._batched else batch[0])
        return {name: as_floats(output) for name, output in outputs.items()}

    def decode(self, outputs: dict[str, npt.NDArray[Any]], i: int, batch: Batch, score_threshold: float) -> Candidates:
        """The candidates for the i-th picture of a batch, in pixels of the network's input."""
        height, width = batch.tensor.shape[-2:]
        return self._architecture.decode(outputs, i, height, width, score_threshold)

    def _detections(self, candidates: Candidates, placement: Placement) -> Detections:
        """Candidates suppressed, in the frame's pixels and inside it, under the platform's class ids."""
        if len(candidates.scores) == 0:
            return Detections.empty()
        known = (candidates.labels >= 0) & (candidates.labels < len(self._class_ids))
        class_ids = np.where(known, self._class_ids[np.where(known, candidates.labels, 0)], -1)
        usable = (class_ids >= 0) & np.isfinite(candidates.boxes).all(axis=1)
        boxes = placement.to_frame(candidates.boxes[usable])
        scores, class_ids = candidates.scores[usable], class_ids[usable]
        solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, scores, class_ids = boxes[solid], scores[solid], class_ids[solid]
        if self._architecture.suppressed:
            kept = np.argsort(-scores, kind="stable")
        else:
            kept = batched_nms(boxes, scores, class_ids, self._iou_threshold)
        kept = kept[: self._max_detections]
        return Detections(boxes[kept], np.clip(scores[kept], 0, 1), class_ids[kept].astype(np.int16))


def _cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
