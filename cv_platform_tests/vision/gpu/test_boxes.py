"""Suppression of whole batches gives what suppression of one picture gives, and says where it did not settle."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'cv-platform[torch]'")

from cv_platform.vision.gpu.boxes import HEADS, Dense, select, suppressed  # noqa: E402
from cv_platform.vision.nms import batched_nms  # noqa: E402


def candidates(seed: int, n: int, *, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, spread, (n, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (n, 2))], 1).astype(np.float32)
    scores = np.sort(rng.uniform(0.1, 1, n).astype(np.float32))[::-1].copy()
    return boxes, scores, rng.integers(0, 3, n)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("spread", [30.0, 200.0])
def test_same_boxes_as_one_by_one(seed: int, spread: float) -> None:
    boxes, scores, classes = candidates(seed, 120, spread=spread)
    stays, settled = suppressed(
        torch.from_numpy(boxes)[None], torch.from_numpy(classes)[None], torch.ones(1, 120, dtype=torch.bool), 0.45
    )
    expected = np.sort(batched_nms(boxes, scores, classes, 0.45))
    assert settled.item()
    assert np.flatnonzero(stays[0].numpy()).tolist() == expected.tolist()


def test_a_chain_longer_than_the_rounds_is_reported() -> None:
    left = np.arange(60, dtype=np.float32) * 3
    boxes = torch.from_numpy(np.stack([left, left * 0, left + 10, left * 0 + 10], 1))
    stays, settled = suppressed(boxes[None], torch.zeros(1, 60), torch.ones(1, 60, dtype=torch.bool), 0.5)
    assert not settled.item()
    assert stays[0, 0]


def test_select_counts_what_has_no_room_and_stays_in_the_frame() -> None:
    boxes = torch.tensor([[[-5.0, 1, 20, 30], [50, 50, 500, 500], [3, 3, 3, 9]]])
    found = Dense(boxes, torch.tensor([[0.9, 0.8, 0.99]]), torch.tensor([[0, 1, 0]]))
    geometry = torch.tensor([[0.5, 0.5, 0, 0, 100, 80]])
    kept = select(found, torch.tensor([7, 8]), geometry, score_threshold=torch.tensor(0.3), iou_threshold=0.5, most=1)
    assert kept.counts.tolist() == [[2 - 1, 1]]  # the second lies outside the frame, the third has no area
    assert kept.rows[0, 0].tolist() == pytest.approx([0, 2, 40, 60, 0.9, 7, 1])


def test_a_head_says_what_it_expects() -> None:
    with pytest.raises(ValueError, match="YOLOX head gives"):
        HEADS["yolox"]({"out": torch.zeros(1, 10, 85)}, 64, 64)
