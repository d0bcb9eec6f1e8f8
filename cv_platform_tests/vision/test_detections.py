"""The currency type: what it takes, what it refuses, how it is sliced."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from cv_platform.vision.detections import Detections


def three(**extra: Any) -> Detections:
    return Detections(
        np.arange(12).reshape(3, 4)[:, [0, 1, 2, 3]], np.array([0.1, 0.2, 0.3]), np.array([0, 1, 1001]), **extra
    )


def full() -> Detections:
    return three(track_ids=np.array([7, 8, 9]), embeddings=np.eye(3, 5))


def test_arrays_are_converted() -> None:
    found, names = full(), ("boxes", "scores", "class_ids", "track_ids", "embeddings")
    assert [getattr(found, name).dtype.name for name in names] == [
        "float32", "float32", "int16", "int32", "float32",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.zeros((3, 5))}, r"boxes have shape \(3, 5\); allowed is \(N, 4\)"),
        ({"boxes": [[0, 0, 1, np.nan]] * 3}, "NaN or infinity"),
        ({"boxes": [[5, 0, 1, 1]] * 3}, "x2 < x1"),
        ({"boxes": [[0, 5, 1, 1]] * 3}, "y2 < y1"),
        ({"scores": [0.1, 0.2]}, r"scores have shape \(2,\); allowed is \(3,\)"),
        ({"scores": [0.1, 0.2, 1.1]}, "scores lie outside 0..1"),
        ({"scores": [0.1, np.nan, 1.0]}, "scores lie outside 0..1"),
        ({"class_ids": [[0], [1], [2]]}, r"class_ids have shape \(3, 1\)"),
        ({"track_ids": [1]}, r"track_ids have shape \(1,\)"),
        ({"embeddings": np.zeros((2, 8))}, r"embeddings have shape \(2, 8\); allowed is \(3, D\)"),
        ({"embeddings": np.zeros(3)}, r"embeddings have shape \(3,\)"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"boxes": [[0, 0, 1, 1]] * 3, "scores": [0.1] * 3, "class_ids": [0] * 3}
    with pytest.raises(ValueError, match=message):
        Detections(**{**given, **change})


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (slice(1, None), [8, 9]),
        (np.array([True, False, True]), [7, 9]),
        (np.array([2, 0]), [9, 7]),
        ([1], [8]),
        ([], []),
        (np.array([False] * 3), []),
    ],
)
def test_slicing_takes_every_column_along(index: Any, expected: list[int]) -> None:
    part = full()[index]
    assert part.track_ids is not None
    assert part.embeddings is not None
    assert part.track_ids.tolist() == expected
    assert part.embeddings.shape == (len(expected), 5)
    assert len(part) == len(part.boxes) == len(part.scores) == len(part.class_ids) == len(expected)


def test_it_cannot_be_changed_or_hashed() -> None:
    with pytest.raises(FrozenInstanceError):
        full().scores = np.zeros(3, np.float32)  # type: ignore[misc]
    with pytest.raises(TypeError):
        hash(full())


def test_equality_compares_every_column() -> None:
    assert full() == full()
    assert full() != three()
    assert full() != full()[[0, 1]]
    assert full() != three(track_ids=np.array([7, 8, 0]), embeddings=np.eye(3, 5))
    assert (full() == "detections") is False


def test_concatenation() -> None:
    both = Detections.concatenate([full(), Detections.empty(), full()])
    assert both.track_ids is not None
    assert both.track_ids.tolist() == [7, 8, 9, 7, 8, 9]
    assert Detections.concatenate([full(), three()]).track_ids is None
    assert Detections.concatenate([]) == Detections.empty()


def test_the_representation_shows_shapes_and_no_numbers() -> None:
    assert repr(full()) == (
        "Detections(boxes=float32(3, 4), scores=float32(3,), class_ids=int16(3,), track_ids=int32(3,),"
        " embeddings=float32(3, 5))"
    )
    assert repr(Detections([], [], [])) == "Detections(boxes=float32(0, 4), scores=float32(0,), class_ids=int16(0,))"  # type: ignore[arg-type]
