"""How fast a detector is on a clip, and how right.

    python -m benchmarks.detect --model yolox_nano --clip CLIP [--mot DIR] [--model-dir DIR] [--cores 2] [--json FILE]

Speed: end to end (decode every frame, letterbox, infer, decode the head, suppress; frames handed over as the graph
does, with `detect_each`) against the bare network on one prepared input, in turns: as many runs at once as the detector
does, each on one thread, and one run after the other on all threads with ONNX Runtime's own settings. The share is
that of the faster of the two. By processor time it is what the share can be at most with all cores busy; it holds on
a machine that others use, too.

Quality, with `--mot`: a MOT-format sequence whose n-th frame is the clip's n-th; its boxes are scaled from the
sequence's picture size to the clip's. AP50 is the area under the precision-recall curve at IoU 0.5 (every point,
precision made monotonic, as in VOC 2010 and later), of persons, from a score of 0.01 up. A detection goes to the free
truth that it overlaps most; one that hits only a person marked not to count (conf 0 in gt.txt) is left out, as in COCO
and the MOT Challenge. It is told twice: at the model's own suppression, and at that of YOLOX's published evaluation
(NMS 0.65). Precision and recall are at the model's own thresholds. Every frame counts: on vtest, every twelfth alone
scores 0.02 more.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks._timing import Case, arguments, compare, pin_cores, report

if TYPE_CHECKING:
    from benchmarks._mot import MotSequence
    from cv_platform.vision.detections import Detections
    from cv_platform.vision.detectors.base import Detector
    from cv_platform.vision.detectors.onnx import OnnxDetector

LEAST_SCORE = 0.01
PUBLISHED_NMS = 0.65
"""Of YOLOX's evaluation (Ge et al. 2021: `test_conf` 0.01, `nmsthre` 0.65)."""
IOU = 0.5


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = arguments(__doc__)
    parser.add_argument("--model", required=True, help="name in models.yaml")
    parser.add_argument("--clip", required=True, type=Path)
    parser.add_argument("--mot", type=Path, default=None, help="MOT-format sequence of the same footage")
    parser.add_argument("--model-dir", type=Path, default=None, help="folder with model files")
    parser.add_argument("--model-cache", type=Path, default=Path(".cv_platform/models"))
    parser.add_argument("--frames", type=int, default=150, help="frames timed in each round")
    parser.set_defaults(cores=2, rounds=5)
    options = parser.parse_args(argv)
    pin_cores(options.cores)

    from cv_platform.vision.detectors.build import make_detector
    from cv_platform.vision.models import ModelRegistry

    models = ModelRegistry(cache_dir=options.model_cache, model_dir=options.model_dir)
    detector = make_detector([options.model], models=models, threads=options.cores)
    content, _ = models.read(options.model) if models.entry(options.model).backend == "onnx" else (b"", "")
    case = speed(detector, options.clip, content, frames=options.frames, rounds=options.rounds)
    case.facts["detector"] = detector.version
    if options.mot is not None:
        threshold = models.entry(options.model).score_threshold or 0.25
        for iou, told in ((None, ""), (PUBLISHED_NMS, f" at NMS {PUBLISHED_NMS:g}")):
            low = make_detector(
                [options.model],
                models=models,
                threads=options.cores,
                score_threshold=LEAST_SCORE,
                iou_threshold=iou,
            )
            found = quality(low, options.clip, options.mot, threshold=threshold)
            case.facts.update(found if iou is None else {f"AP50{told}": found["AP50"]})
    report(f"detect: {options.model}", [case], packages=("onnxruntime", "av"), json_path=options.json)
    return 0


def speed(detector: Detector, clip: Path, model: bytes, *, frames: int, rounds: int) -> Case:
    """Frames a second end to end, and of the network alone where the detector is one."""
    from cv_platform.vision.detectors.onnx import OnnxDetector
    from cv_platform.vision.detectors.streaming import detect_each
    from cv_platform.vision.video.decode import decode_sampled

    def clip_frames() -> Any:
        return itertools.islice(decode_sampled(clip, fps=None, long_side=None), frames)

    pictures = [frame.image for frame in clip_frames()]

    def end_to_end() -> None:
        for _ in detect_each(detector, clip_frames(), lambda frame: frame.image):
            pass

    def decoded_before() -> None:
        for _ in detect_each(detector, pictures, lambda picture: picture):
            pass

    contenders: dict[str, Callable[[], object]] = {"end to end": end_to_end, "frames decoded before": decoded_before}
    if isinstance(detector, OnnxDetector):
        contenders.update(bare_runs(detector, pictures[0], model, len(pictures)))
    case = compare("speed", contenders, rounds=rounds, warmup=1, units=len(pictures))
    for name in contenders:
        case.facts[f"frames a second, {name}"] = round(len(pictures) / case.timings[name].median_s, 1)
    bare = [name for name in contenders if name.startswith("bare")]
    if bare:
        case.facts["end to end as a share of bare inference"] = round(min(map(case.ratio, bare)), 3)
        ours = case.timings[case.ours].cpu_s
        by_processor = [
            statistics.median(theirs / mine for theirs, mine in zip(case.timings[name].cpu_s, ours, strict=True))
            for name in bare
        ]
        case.facts["the same by processor time"] = round(min(by_processor), 3)
    return case


def bare_runs(detector: OnnxDetector, picture: Any, model: bytes, frames: int) -> dict[str, Callable[[], object]]:
    """The network alone, `frames` times on one prepared input: several runs at once, and one after the other."""
    import onnxruntime

    from cv_platform.vision.detectors.onnx import OnnxSession
    from cv_platform.vision.detectors.onnx_graph import optimisable

    prepared = detector.prepare([picture]).tensor.copy()
    one_thread = OnnxSession(model, threads=1)
    pool = ThreadPoolExecutor(detector.lanes)
    usual = onnxruntime.SessionOptions()
    usual.intra_op_num_threads = detector.lanes
    all_threads = onnxruntime.InferenceSession(optimisable(model), usual, providers=["CPUExecutionProvider"])
    name = all_threads.get_inputs()[0].name

    def at_once() -> None:
        for _ in pool.map(lambda _: one_thread.run(prepared), range(frames)):
            pass

    def in_turn() -> None:
        for _ in range(frames):
            all_threads.run(None, {name: prepared})

    runs: dict[str, Callable[[], object]] = {f"bare inference, {detector.lanes} at once": at_once}
    if detector.lanes > 1:
        runs[f"bare inference, {detector.lanes} threads"] = in_turn
    return runs


def quality(detector: Detector, clip: Path, mot: Path, *, threshold: float) -> dict[str, Any]:
    """AP50, and precision and recall at the threshold, of persons."""
    from benchmarks._mot import MotSequence
    from cv_platform.vision.detectors.streaming import detect_each
    from cv_platform.vision.video.decode import decode_sampled

    score = PersonScore(MotSequence.read(mot))
    decoded = decode_sampled(clip, fps=None, long_side=None)
    for frame, found in detect_each(detector, decoded, lambda frame: frame.image):
        score.add(frame.index, found, *frame.image.shape[:2])
    return score.result(threshold)


class PersonScore:
    """What a detector found of the persons of a MOT-format sequence, frame by frame."""

    def __init__(self, sequence: MotSequence) -> None:
        self._sequence = sequence
        self._scores: list[npt.NDArray[np.float32]] = []
        self._hits: list[npt.NDArray[np.bool_]] = []
        self._truths = 0

    def add(self, index: int, found: Detections, height: int, width: int) -> None:
        """What was found in the frame of this index, whose picture has this size."""
        from cv_platform.vision.classes import PERSON

        sequence = self._sequence
        if index >= len(sequence.truth):
            raise SystemExit(f"the clip has more frames than the {len(sequence.truth)} of the sequence")
        scale = np.array([width / sequence.width, height / sequence.height] * 2)
        truth = sequence.truth[index][0] * scale
        found = found[found.class_ids == PERSON]
        hit = matches(found.boxes, truth)
        counts = hit | ~overlaps_any(found.boxes, sequence.ignored[index] * scale)
        self._scores.append(found.scores[counts])
        self._hits.append(hit[counts])
        self._truths += len(truth)

    def result(self, threshold: float) -> dict[str, Any]:
        """AP50, and precision and recall at the threshold."""
        scores, hits = np.concatenate(self._scores), np.concatenate(self._hits)
        precision, recall = at_threshold(scores, hits, self._truths, threshold)
        return {
            "AP50": round(average_precision(scores, hits, self._truths), 4),
            f"precision at {threshold:g}": round(precision, 4),
            f"recall at {threshold:g}": round(recall, 4),
            "frames": len(self._scores),
            "truths": self._truths,
        }


def overlaps_any(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which boxes overlap one of the others by IOU or more."""
    return np.asarray((overlap(boxes, others) >= IOU).any(axis=1), bool)


def overlap(boxes: npt.NDArray[np.float32], truth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """IoU of each box with each truth, (N, M)."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)[:, None] + np.prod(truth[:, 2:] - truth[:, :2], axis=1)
    return np.asarray(shared / np.maximum(areas - shared, 1e-9), np.float64)


def matches(boxes: npt.NDArray[np.float32], truth: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which boxes, best score first, hit a truth that no better box has taken; each goes for the best free one."""
    hit = np.zeros(len(boxes), bool)
    if not len(truth):
        return hit
    free = np.ones(len(truth), bool)
    for i, overlaps in enumerate(overlap(boxes, truth)):
        best = int(np.where(free, overlaps, -1).argmax())
        if free[best] and overlaps[best] >= IOU:
            free[best], hit[i] = False, True
    return hit


def average_precision(scores: npt.NDArray[np.float32], hits: npt.NDArray[np.bool_], truths: int) -> float:
    """Area under the precision-recall curve, precision made monotonic from the right."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(hits[order])
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(np.concatenate([[0], found / truths])) * envelope))


def at_threshold(
    scores: npt.NDArray[np.float32], hits: npt.NDArray[np.bool_], truths: int, threshold: float
) -> tuple[float, float]:
    """Precision and recall of the boxes whose score is above the threshold."""
    taken = scores > threshold
    found = int(hits[taken].sum())
    return found / max(1, int(taken.sum())), found / max(1, truths)


if __name__ == "__main__":
    sys.exit(main())
