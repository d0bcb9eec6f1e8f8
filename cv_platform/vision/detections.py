"""`Detections`: the one currency type, from detector to warehouse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Index = slice | npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]] | Sequence[int]


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """Objects found in one frame.

    Attributes:
        boxes: float32 (N, 4), x1, y1, x2, y2 in pixels, x2 >= x1 and y2 >= y1.
        scores: float32 (N,), confidence in 0..1.
        class_ids: int16 (N,), see `cv_platform.vision.classes`.
        track_ids: int32 (N,), or None where nothing was tracked.
        embeddings: float32 (N, D), or None.

    Arrays of other dtypes are converted; of other shapes or with NaN refused with ValueError.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int16]
    track_ids: npt.NDArray[np.int32] | None = None
    embeddings: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, dtype=np.float32)
        if boxes.size == 0:
            boxes = boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes have shape {boxes.shape}; allowed is (N, 4): x1, y1, x2, y2 in pixels")
        n = len(boxes)
        if not np.isfinite(boxes).all():
            raise ValueError("boxes hold NaN or infinity; allowed are finite pixel coordinates")
        if n and not ((boxes[:, 2] >= boxes[:, 0]).all() and (boxes[:, 3] >= boxes[:, 1]).all()):
            raise ValueError("boxes hold x2 < x1 or y2 < y1; allowed is x1, y1, x2, y2 with x2 >= x1 and y2 >= y1")
        scores = self._column("scores", self.scores, np.float32, n)
        if not ((scores >= 0) & (scores <= 1)).all():
            raise ValueError("scores lie outside 0..1 or hold NaN; allowed is a confidence in 0..1")
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "class_ids", self._column("class_ids", self.class_ids, np.int16, n))
        if self.track_ids is not None:
            object.__setattr__(self, "track_ids", self._column("track_ids", self.track_ids, np.int32, n))
        if self.embeddings is not None:
            embeddings = np.asarray(self.embeddings, dtype=np.float32)
            if embeddings.ndim != 2 or len(embeddings) != n:
                raise ValueError(f"embeddings have shape {embeddings.shape}; allowed is ({n}, D), one row a box")
            object.__setattr__(self, "embeddings", embeddings)

    @staticmethod
    def _column(name: str, values: Any, dtype: Any, n: int) -> npt.NDArray[Any]:
        column = np.asarray(values, dtype=dtype)
        if column.size == 0:
            column = column.reshape(-1)
        if column.shape != (n,):
            raise ValueError(f"{name} have shape {column.shape}; allowed is ({n},), one a box")
        return column

    @classmethod
    def empty(cls) -> Detections:
        """Nothing found."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int16))

    @classmethod
    def concatenate(cls, parts: Sequence[Detections]) -> Detections:
        """All parts in order. Track ids and embeddings are kept only where every non-empty part has them."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return cls.empty()
        ids = [part.track_ids for part in parts if part.track_ids is not None]
        vectors = [part.embeddings for part in parts if part.embeddings is not None]
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.class_ids for part in parts]),
            np.concatenate(ids) if len(ids) == len(parts) else None,
            np.concatenate(vectors) if len(vectors) == len(parts) else None,
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Index) -> Detections:
        """The chosen rows: a slice, a mask, or indices."""
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.size == 0 and index.dtype != np.bool_:
                index = index.astype(np.intp)
        return Detections(
            self.boxes[index],
            self.scores[index],
            self.class_ids[index],
            None if self.track_ids is None else self.track_ids[index],
            None if self.embeddings is None else self.embeddings[index],
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented

        def same(a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None) -> bool:
            return (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))

        return (
            same(self.boxes, other.boxes)
            and same(self.scores, other.scores)
            and same(self.class_ids, other.class_ids)
            and same(self.track_ids, other.track_ids)
            and same(self.embeddings, other.embeddings)
        )

    __hash__ = None  # type: ignore[assignment]  # holds arrays

    def __repr__(self) -> str:
        parts = [
            f"{name}={value.dtype}{value.shape}"
            for name in ("boxes", "scores", "class_ids", "track_ids", "embeddings")
            if (value := getattr(self, name)) is not None
        ]
        return f"Detections({', '.join(parts)})"
