"""Frames, times, boxes and AP50 against the processor's; precision and recall at the model's threshold."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any

from benchmarks.gpu._rig import Rig

COMPARED = 120
"""Frames of a clip, of which every tenth is looked at pixel by pixel."""


def measure(rig: Rig) -> dict[str, Any]:
    """First decoding, then detection on the clip of known truth."""
    result: dict[str, Any] = {}
    for clip in [c for c in (rig.vtest, rig.hevc, *rig.clip_list(2)) if c is not None]:
        for fps in (None, 5.0, 7.3):
            result[f"{clip.name} at {fps or 'every'}"] = decoding(rig, clip, fps)
    if rig.vtest is not None:
        result |= detection(rig, rig.vtest)
    return result


def decoding(rig: Rig, clip: Path, fps: float | None) -> dict[str, Any]:
    """Whether both decoders give the same frames at the same times, twice: the second decoder may be a kept one."""
    import numpy as np

    from cv_platform.vision.video.decode import decode_sampled
    from cv_platform.vision.video.nvdec import sampled_frames

    backend: Any = "cpu" if rig.device == "cpu" else "nvdec"
    theirs = list(itertools.islice(decode_sampled(clip, fps=fps, long_side=960, threads=0), COMPARED))
    differences, same = [], True
    for _ in range(2):
        count = 0
        for ours in sampled_frames(clip, fps=fps, long_side=960, backend=backend):
            if count < len(theirs):
                expected = theirs[count]
                same = same and (expected.index, expected.pts_s) == (ours.index, ours.pts_s)
                if count % 10 == 0:
                    picture: Any = ours.image() if backend == "nvdec" else ours.image  # type: ignore[operator]
                    differences.append(float(np.abs(picture.astype(int) - expected.image).mean()))
            count += 1  # to its end, after which the decoder is kept
        same = same and count >= len(theirs)
    return {
        "frames and times are the same": same,
        "mean difference of pixels, levels": round(statistics.mean(differences), 3),
        "largest of a frame": round(max(differences), 3),
    }


def detection(rig: Rig, clip: Path) -> dict[str, Any]:
    """Boxes against the processor's, and AP50 by the rule of `benchmarks.detect`."""
    from benchmarks._mot import MotSequence
    from benchmarks.detect import LEAST_SCORE, PersonScore
    from cv_platform.vision.detectors.onnx import OnnxDetector
    from cv_platform.vision.video.decode import decode_sampled
    from cv_platform.vision.video.nvdec import sampled_frames

    content, values = rig.model()
    threshold = values["score_threshold"] or 0.25
    values["score_threshold"] = LEAST_SCORE
    pictures = [frame.image for frame in decode_sampled(clip, fps=None, long_side=None, threads=0)]
    answers = {"processor": OnnxDetector(content, **values).detect(pictures)}
    for precision in ("fp32", "fp16"):
        detector = rig.detector(precision=precision, score_threshold=LEAST_SCORE)
        answers[f"torch {precision}, the same pictures"] = detector.detect(pictures)
        if rig.device != "cpu":
            surfaces: Any = list(sampled_frames(clip, fps=None, long_side=None, backend="nvdec"))
            answers[f"torch {precision}, NVDEC"] = detector.detect(surfaces)
    theirs = [found[found.scores > threshold] for found in answers["processor"]]
    sequence = MotSequence.read(rig.mot) if rig.mot else None
    result: dict[str, Any] = {}
    for name, found in answers.items():
        ours = [one[one.scores > threshold] for one in found]
        far = [_farthest(a, b) for a, b in zip(theirs, ours, strict=True)]
        entry: dict[str, Any] = {
            "largest difference of a matched box, pixels": round(max(f[0] for f in far), 3),
            "frames with a difference over 1 pixel": sum(f[0] > 1 for f in far),
            "boxes without a match": sum(f[1] for f in far),
            "boxes": sum(map(len, ours)),
        }
        if sequence is not None:
            score = PersonScore(sequence)
            for number, (one, picture) in enumerate(zip(found, pictures, strict=True)):
                score.add(number, one, *picture.shape[:2])
            entry |= score.result(threshold)
        result[name] = entry
    return result


def _farthest(a: Any, b: Any) -> tuple[float, int]:
    """Largest difference of a coordinate among boxes of one class that belong together, and how many belong nowhere."""
    import numpy as np

    largest, alone, free = 0.0, 0, np.ones(len(b), bool)
    for box, class_id in zip(a.boxes, a.class_ids, strict=True):
        gaps = np.where(free & (b.class_ids == class_id), np.abs(b.boxes - box).max(1) if len(b) else 0, np.inf)
        if not len(gaps) or gaps.min() > 10:
            alone += 1
            continue
        free[gaps.argmin()] = False
        largest = max(largest, float(gaps.min()))
    return largest, alone + int(free.sum())
