"""Class ids: COCO's 80 classes are 0..79 in their usual order; the platform's own start at 1000."""

from __future__ import annotations

from typing import Final

COCO_CLASSES: Final[tuple[str, ...]] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

PERSON: Final = 0
FACE: Final = 1000
LICENCE_PLATE: Final = 1001

CLASS_NAMES: Final[dict[int, str]] = {**dict(enumerate(COCO_CLASSES)), FACE: "face", LICENCE_PLATE: "licence plate"}
CLASS_IDS: Final[dict[str, int]] = {name: class_id for class_id, name in CLASS_NAMES.items()}
