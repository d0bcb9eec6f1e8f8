"""Appearance embeddings: what somebody looks like, as a vector. Personal data; see the platform's rules before use.

`Embedder` is the protocol, `OnnxEmbedder` runs a re-identification network (such as OSNet, Zhou et al., ICCV 2019) on
all boxes of a frame in batches.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt

from cv_platform.vision.detectors.onnx import OnnxSession
from cv_platform.vision.detectors.onnx_batch import with_free_batch

Vectors = npt.NDArray[np.float32]

_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255  # of ImageNet, RGB
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32) * 255


@runtime_checkable
class Embedder(Protocol):
    """Turns the boxes of one frame into vectors whose dot product says how alike two objects look."""

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""

    @property
    def version(self) -> str:
        """Changes whenever equal pictures might give other vectors."""

    def embed(self, frame: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]) -> Vectors:
        """Vectors of the boxes.

        Args:
            frame: BGR uint8 (H, W, 3).
            boxes: float32 (N, 4), x1, y1, x2, y2 in pixels; parts outside the frame are cut off.

        Returns:
            float32 (N, D), each of length 1; zeros for a box of which less than a pixel lies in the frame.
        """


class OnnxEmbedder:
    """A re-identification network on the processor.

    Args:
        model: path of the ONNX file: one input (batch, 3, height, width), RGB normalised as for ImageNet, one output
            (batch, D). A file whose export froze the batch at 1 is run in batches all the same where that gives the
            same vectors, which is tried when it is loaded.
        threads: ONNX Runtime's own threads; 0 for all cores.
        batch_size: most crops in one run.

    Raises:
        ValueError: for a file that is no such network, or a batch size below 1.
    """

    def __init__(self, model: str | Path, *, threads: int = 0, batch_size: int = 32) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; allowed is 1 or more")
        content = Path(model).read_bytes()
        self._session = OnnxSession(content, threads=threads)
        shape = self._session.input_shape
        if len(shape) != 4 or shape[1] != 3:
            raise ValueError(f"the model's input is {shape}; allowed is (batch, 3, height, width)")
        self._height, self._width = shape[2] or 256, shape[3] or 128
        self._batch_size = batch_size
        trial = np.random.default_rng(0).normal(size=(2, 3, self._height, self._width)).astype(np.float32)
        single = np.concatenate([self._run(trial[:1]), self._run(trial[1:])])
        self._dimension = int(single.shape[1])
        if shape[0] == 1:
            self._batch_size = 1
            if batch_size > 1:
                batched = _batched_session(content, threads, trial, single)
                if batched is not None:
                    self._session, self._batch_size = batched, batch_size
        digest = hashlib.sha256(content).hexdigest()[:16]
        self._version = f"onnx-embedder-1:{digest}"

    @property
    def dimension(self) -> int:
        """See `Embedder.dimension`."""
        return self._dimension

    @property
    def version(self) -> str:
        """See `Embedder.version`."""
        return self._version

    @property
    def batch_size(self) -> int:
        """Most crops in one run: 1 where the network takes no more."""
        return self._batch_size

    def embed(self, frame: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]) -> Vectors:
        """See `Embedder.embed`. Raises ValueError for a frame that is not BGR uint8."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"the frame is {frame.dtype} {frame.shape}; allowed is BGR uint8 (H, W, 3)")
        vectors = np.zeros((len(boxes), self._dimension), np.float32)
        limits = np.array([frame.shape[1], frame.shape[0]] * 2, np.float32)
        inside = np.clip(np.rint(np.asarray(boxes, np.float32).reshape(-1, 4)), 0, limits).astype(np.int64)
        rows = np.flatnonzero((inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1]))
        for start in range(0, len(rows), self._batch_size):
            chosen = rows[start : start + self._batch_size]
            batch = np.empty((len(chosen), 3, self._height, self._width), np.float32)
            for index, (x1, y1, x2, y2) in enumerate(inside[chosen]):
                crop = cv2.resize(frame[y1:y2, x1:x2], (self._width, self._height), interpolation=cv2.INTER_LINEAR)
                batch[index] = crop[:, :, ::-1].transpose(2, 0, 1)
            batch -= _MEAN[:, None, None]
            batch /= _DEVIATION[:, None, None]
            vectors[chosen] = self._run(batch)
        return vectors

    def _run(self, batch: Vectors) -> Vectors:
        return _normalised(self._session, batch)


def _normalised(session: OnnxSession, batch: Vectors) -> Vectors:
    outputs = list(session.run(batch).values())
    if len(outputs) != 1 or outputs[0].ndim != 2 or len(outputs[0]) != len(batch):
        found = [output.shape for output in outputs]
        raise ValueError(f"the model's outputs are {found} for {len(batch)} pictures; allowed is one (batch, D)")
    vectors: Vectors = outputs[0].astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    normalised: Vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return normalised


def _batched_session(content: bytes, threads: int, trial: Vectors, single: Vectors) -> OnnxSession | None:
    """The network with a free batch; None where its vectors are not those of one picture at a time."""
    try:
        session = OnnxSession(with_free_batch(content), threads=threads, dynamic_inputs=True)
        agrees = np.allclose(_normalised(session, trial), single, atol=1e-4)
    except Exception:  # noqa: BLE001 - ONNX Runtime's exceptions share no base class; the frozen graph still works
        return None
    return session if agrees else None
