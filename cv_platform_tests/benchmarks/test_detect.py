"""The figures that `benchmarks.detect` tells: average precision, and what counts as right and as wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks._mot import MotSequence
from benchmarks.detect import average_precision, matches, overlaps_any


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_a_truth_is_hit_once_and_by_the_better_box() -> None:
    truth = boxes((0, 0, 10, 10), (20, 0, 30, 10)).astype(np.float64)
    found = boxes((0, 0, 10, 9), (0, 0, 10, 10), (20, 0, 30, 4), (20, 0, 30, 10))
    assert matches(found, truth).tolist() == [True, False, False, True]
    assert matches(found, truth[:0]).tolist() == [False] * 4
    assert overlaps_any(found, truth[1:]).tolist() == [False, False, False, True]
    assert overlaps_any(found, truth[:0]).tolist() == [False] * 4


@pytest.mark.parametrize(
    ("hits", "truths", "expected"),
    [
        ([True, True], 2, 1.0),
        ([True, True], 4, 0.5),
        ([True, False, True], 2, 0.5 + 0.5 * 2 / 3),
        ([False, True], 1, 0.5),
        ([False, True, True], 2, 2 / 3),  # precision is made monotonic from the right
        ([False], 3, 0.0),
    ],
)
def test_average_precision_by_hand(hits: list[bool], truths: int, expected: float) -> None:
    scores = np.linspace(0.9, 0.1, len(hits), dtype=np.float32)
    backwards = slice(None, None, -1)
    assert average_precision(scores, np.array(hits), truths) == pytest.approx(expected)
    assert average_precision(scores[backwards], np.array(hits)[backwards], truths) == pytest.approx(expected)


def test_people_marked_not_to_count_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "det").mkdir()
    (tmp_path / "gt").mkdir()
    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nname=made\nframeRate=7\nseqLength=2\nimWidth=64\nimHeight=48\n")
    (tmp_path / "det" / "det.txt").write_text("1,-1,1,1,5,5,0.9,-1,-1,-1\n")
    (tmp_path / "gt" / "gt.txt").write_text(
        "1,1,1,2,3,4,1,-1,-1,-1\n1,2,10,20,3,4,0,-1,-1,-1\n2,2,11,20,3,4,0,-1,-1,-1\n"
    )
    sequence = MotSequence.read(tmp_path)
    assert [len(boxes) for boxes, _ in sequence.truth] == [1, 0]
    assert [one.tolist() for one in sequence.ignored] == [[[10, 20, 13, 24]], [[11, 20, 14, 24]]]
