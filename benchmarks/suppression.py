"""Suppression and fusion against torchvision, OpenCV and ensemble-boxes, at 100, 1,000 and 5,000 boxes.

    python -m benchmarks.suppression [--sizes 100 1000 5000] [--rounds 7] [--json FILE]

Peers come from the `bench` and `torch` extras; one that is not installed is left out. Patterns: "clustered" is what a
detector gives before suppression (many shifted boxes round each object), "uniform" is small boxes all over a picture of
1920 × 1080, "wide" boxes of all sizes (corners drawn at random), where hardly anything can be skipped. Every case first
checks that the contenders agree.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from typing import Any

from benchmarks._timing import Case, arguments, compare, pin_cores, report

WIDTH, HEIGHT = 1920, 1080
MODELS = 3


def uniform(n: int, rng: Any) -> Any:
    """Small boxes all over the picture."""
    import numpy as np

    corner = rng.random((n, 2)) * [WIDTH - 110, HEIGHT - 110]
    return np.hstack([corner, corner + rng.random((n, 2)) * 100 + 10]).astype(np.float32)


def wide(n: int, rng: Any) -> Any:
    """Boxes whose corners are drawn at random: a third of the picture's width on average."""
    import numpy as np

    corners = np.sort(rng.random((n, 2, 2)), axis=1) * [WIDTH, HEIGHT]
    return corners.reshape(n, 4).astype(np.float32)


def clustered(n: int, rng: Any) -> Any:
    """Fifty boxes round each object, shifted by some six hundredths of its size."""
    import numpy as np

    objects = uniform(max(1, n // 50), rng)[rng.integers(0, max(1, n // 50), n)]
    size = np.tile(objects[:, 2:] - objects[:, :2], 2)
    moved = objects + rng.normal(0, 0.06, (n, 4)) * size
    low, high = np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])
    return np.clip(np.hstack([low, high]), 0, [WIDTH, HEIGHT] * 2).astype(np.float32)


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 5000], help="numbers of boxes")
    options = parser.parse_args()
    pin_cores(options.cores)
    warnings.simplefilter("ignore")  # ensemble-boxes warns of every coordinate that rounding put past 1
    import numpy as np

    cases: list[Case] = []
    for pattern in (clustered, uniform, wide):
        for n in options.sizes:
            rng = np.random.default_rng(n)
            boxes, scores, classes = pattern(n, rng), rng.random(n).astype(np.float32), rng.integers(0, 80, n)
            for kind, contenders in (
                ("nms", hard(boxes, scores)),
                ("batched_nms", per_class(boxes, scores, classes.astype(np.int16))),
                ("soft_nms gaussian", soft(boxes, scores, "gaussian")),
                ("soft_nms linear", soft(boxes, scores, "linear")),
                ("wbf 80 labels", fusion(boxes, scores, classes)),
                ("wbf 1 label", fusion(boxes, scores, np.zeros(n, np.int64))),
            ):
                name = f"{kind} {n} {pattern.__name__}"
                cases.append(compare(name, contenders, rounds=options.rounds, warmup=1, units=n))
                ratios = [f"{peer} {cases[-1].ratio(peer):.1f}x" for peer in contenders if peer != cases[-1].ours]
                print(f"{name}: {', '.join(ratios)}", file=sys.stderr, flush=True)
    packages = ("torch", "torchvision", "ensemble-boxes")
    report("suppression and fusion, one core", cases, packages=packages, json_path=options.json)


def hard(boxes: Any, scores: Any) -> dict[str, Callable[[], object]]:
    """Contenders for suppression without classes."""
    import cv2
    import numpy as np

    from cv_platform.vision.nms import nms

    ours = nms(boxes, scores, 0.45).tolist()
    corner_and_size = boxes.copy()
    corner_and_size[:, 2:] -= corner_and_size[:, :2]
    contenders: dict[str, Callable[[], object]] = {"cv_platform": lambda: nms(boxes, scores, 0.45)}
    if installed("torchvision"):
        import torch
        from torchvision.ops import nms as theirs

        b, s = torch.from_numpy(boxes), torch.from_numpy(scores)
        agree(ours, theirs(b, s, 0.45).tolist())
        contenders["torchvision"] = lambda: theirs(b, s, 0.45)
    contenders["cv2.dnn.NMSBoxes"] = lambda: cv2.dnn.NMSBoxes(corner_and_size, scores, 0.0, 0.45)
    if installed("ensemble_boxes"):
        import ensemble_boxes

        fractions, labels = boxes / np.array([WIDTH, HEIGHT] * 2, np.float32), np.zeros(len(boxes), np.int64)
        contenders["ensemble_boxes.nms"] = lambda: ensemble_boxes.nms([fractions], [scores], [labels], iou_thr=0.45)
    return contenders


def per_class(boxes: Any, scores: Any, classes: Any) -> dict[str, Callable[[], object]]:
    """Contenders for suppression within each class."""
    import cv2
    import numpy as np

    from cv_platform.vision.nms import batched_nms

    corner_and_size, class_numbers = boxes.copy(), classes.astype(np.int32)
    corner_and_size[:, 2:] -= corner_and_size[:, :2]
    contenders: dict[str, Callable[[], object]] = {"cv_platform": lambda: batched_nms(boxes, scores, classes, 0.45)}
    if installed("torchvision"):
        import torch
        from torchvision.ops import batched_nms as theirs

        b, s, c = torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes.astype(np.int64))
        contenders["torchvision"] = lambda: theirs(b, s, c, 0.45)
    contenders["cv2.dnn.NMSBoxesBatched"] = lambda: cv2.dnn.NMSBoxesBatched(
        corner_and_size, scores, class_numbers, 0.0, 0.45
    )
    if installed("ensemble_boxes"):
        import ensemble_boxes

        fractions = boxes / np.array([WIDTH, HEIGHT] * 2, np.float32)
        contenders["ensemble_boxes.nms"] = lambda: ensemble_boxes.nms([fractions], [scores], [classes], iou_thr=0.45)
    return contenders


def soft(boxes: Any, scores: Any, method: Any) -> dict[str, Callable[[], object]]:
    """Contenders for soft suppression."""
    import numpy as np

    from cv_platform.vision.nms import soft_nms

    fractions = boxes / np.array([WIDTH, HEIGHT] * 2, np.float32)
    contenders: dict[str, Callable[[], object]] = {"cv_platform": lambda: soft_nms(fractions, scores, method=method)}
    if installed("ensemble_boxes"):
        import ensemble_boxes

        number, labels = {"linear": 1, "gaussian": 2}[method], np.zeros(len(boxes), np.int64)
        contenders["ensemble_boxes.soft_nms"] = lambda: ensemble_boxes.soft_nms(
            [fractions], [scores], [labels], method=number, iou_thr=0.45, sigma=0.5, thresh=0.001
        )
    return contenders


def fusion(boxes: Any, scores: Any, labels: Any) -> dict[str, Callable[[], object]]:
    """Contenders for weighted boxes fusion of three models."""
    import numpy as np

    from cv_platform.vision.fusion import weighted_boxes_fusion

    fractions = boxes.astype(np.float64) / np.array([WIDTH, HEIGHT] * 2)
    parts = np.array_split(np.arange(len(boxes)), MODELS)
    models = [fractions[p] for p in parts], [scores[p] for p in parts], [labels[p] for p in parts]
    contenders: dict[str, Callable[[], object]] = {"cv_platform": lambda: weighted_boxes_fusion(*models)}
    if installed("ensemble_boxes"):
        import ensemble_boxes

        for ours, theirs in zip(
            weighted_boxes_fusion(*models), ensemble_boxes.weighted_boxes_fusion(*models), strict=True
        ):
            agree(np.round(ours, 5).tolist(), np.round(theirs, 5).tolist())
        contenders["ensemble_boxes"] = lambda: ensemble_boxes.weighted_boxes_fusion(*models)
    return contenders


def installed(module: str) -> bool:
    """Whether a peer is there."""
    return importlib.util.find_spec(module) is not None


def agree(ours: Any, theirs: Any) -> None:
    """A contender that answers something else is no peer."""
    if ours != theirs:
        raise SystemExit("the contenders do not agree")


if __name__ == "__main__":
    main()
