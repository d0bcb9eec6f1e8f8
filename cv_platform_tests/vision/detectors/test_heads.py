from __future__ import annotations

import numpy as np
import pytest

from cv_platform.vision.detectors import heads

BOX = (40.0, 24.0, 72.0, 88.0)
"""x1, y1, x2, y2: centre 56, 56; 32 wide, 64 high."""


def one(candidates: heads.Candidates, label: int = 0, score: float = 0.9, box=BOX) -> None:
    assert len(candidates.scores) == 1
    np.testing.assert_allclose(candidates.boxes, [box], atol=1e-3)
    np.testing.assert_allclose(candidates.scores, [score], atol=1e-6)
    assert candidates.labels.tolist() == [label]


def grid_row(level: int, column: int, row: int, size: int = 128) -> int:
    """Index of a cell among all cells of a square input with strides 8, 16, 32."""
    before = sum((size // stride) ** 2 for stride in (8, 16, 32)[:level])
    return before + row * (size // (8, 16, 32)[level]) + column


def test_yolox() -> None:
    output = np.zeros((16 * 16 + 8 * 8 + 4 * 4, 5 + 3), np.float32)
    output[grid_row(1, 3, 3)] = [0.5, 0.5, np.log(2), np.log(4), 0.95, 0.1, 0.9 / 0.95, 0.2]
    output[5, 4] = 0.99  # an object of no class
    one(heads.decode_yolox(output, height=128, width=128, score_threshold=0.3), label=1)


def test_yolov5() -> None:
    output = np.zeros((10, 5 + 3), np.float32)
    output[4] = [56, 56, 32, 64, 1.0, 0.0, 0.1, 0.9]
    one(heads.decode_yolov5(output, score_threshold=0.3), label=2)


def test_yolov8() -> None:
    output = np.zeros((4 + 3, 10), np.float32)
    output[:, 7] = [56, 56, 32, 64, 0.2, 0.9, 0.1]
    one(heads.decode_yolov8(output, score_threshold=0.3), label=1)


def test_torchvision() -> None:
    boxes, labels = np.array([BOX, BOX], np.float32), np.array([1, 3])
    one(heads.decode_torchvision(boxes, labels, np.array([0.9, 0.1], np.float32), score_threshold=0.3), label=1)


def test_centerface() -> None:
    heatmap, sizes, offsets = (np.zeros((n, 32, 32), np.float32) for n in (1, 2, 2))
    heatmap[0, 13, 13] = 0.9
    sizes[:, 13, 13] = np.log(64 / 4), np.log(32 / 4)  # height first
    offsets[:, 13, 13] = 0.5, 0.5
    one(heads.decode_centerface(heatmap, sizes, offsets, score_threshold=0.3))


def test_yunet() -> None:
    sizes = [16 * 16, 8 * 8, 4 * 4]
    classes, objects, boxes = ([np.zeros((n, width), np.float32) for n in sizes] for width in (1, 1, 4))
    cell = 3 * 8 + 3
    classes[1][cell], objects[1][cell] = 0.9, 0.9
    boxes[1][cell] = [0.5, 0.5, np.log(2), np.log(4)]
    one(heads.decode_yunet(classes, objects, boxes, height=128, width=128, score_threshold=0.3))


def test_ultraface() -> None:
    scores = np.array([[0.1, 0.9], [0.9, 0.1]], np.float32)
    boxes = np.array([np.array(BOX) / 128, [0, 0, 1, 1]], np.float32)
    one(heads.decode_ultraface(scores, boxes, height=128, width=128, score_threshold=0.3))


def test_nothing_above_the_threshold_gives_empty_candidates_of_the_right_shapes() -> None:
    empty = heads.decode_yolox(np.zeros((336, 85), np.float32), height=128, width=128, score_threshold=0.3)
    assert (empty.boxes.shape, empty.scores.shape, empty.labels.shape) == ((0, 4), (0,), (0,))


@pytest.mark.parametrize(
    "decode",
    [
        lambda: heads.decode_yolox(np.zeros((100, 85), np.float32), height=128, width=128, score_threshold=0.3),
        lambda: heads.decode_yolov5(np.zeros((100, 5), np.float32), score_threshold=0.3),
        lambda: heads.decode_yolov8(np.zeros((4, 100), np.float32), score_threshold=0.3),
        lambda: heads.decode_ultraface(
            np.zeros((9, 3), np.float32), np.zeros((9, 4), np.float32), height=9, width=9, score_threshold=0.3
        ),
    ],
)
def test_outputs_of_another_head_are_refused(decode) -> None:
    with pytest.raises(ValueError, match="gives"):
        decode()


def test_coco91_maps_onto_the_eighty_classes_in_order() -> None:
    mapped = heads.COCO91_TO_COCO80
    assert (mapped[1], mapped[3], mapped[13], mapped[90], mapped[0], mapped[12]) == (0, 2, 11, 79, -1, -1)
    assert sorted(mapped[mapped >= 0].tolist()) == list(range(80))
