"""MOT-format sequences: reading them, and scoring a tracker's answer with TrackEval.

Read: `det/det.txt`, `gt/gt.txt` and `seqinfo.ini` of one folder, as the MOT Challenge lays them out. Scored: HOTA
(mean over its thresholds), and MOTA, IDF1 and ID switches at IoU 0.5, on the ground truth that is marked to count; of
later years' format, which tells classes, that of pedestrians. Sequences are combined as TrackEval combines them: counts
are added, not scores averaged.
"""

from __future__ import annotations

import configparser
import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cv_platform.vision.detections import Detections

_COLUMNS_WITH_CLASS, _PEDESTRIAN = 9, 1

FrameAnswer = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]
"""Boxes (K, 4) x1, y1, x2, y2 and track ids (K,) of one frame."""
Answer = list[FrameAnswer]


@dataclass(frozen=True)
class MotSequence:
    """One sequence: detections and ground truth of each frame, from frame 1 to the length that seqinfo.ini states.

    `truth` is what is marked to count; `ignored` are the boxes, (K, 4) a frame, that are marked not to: finding such a
    person is neither right nor wrong.
    """

    name: str
    frame_rate: float
    width: int
    height: int
    detections: list[Detections]
    truth: Answer = field(repr=False)
    ignored: list[npt.NDArray[np.float64]] = field(repr=False, default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> MotSequence:
        """Read one folder. Raises SystemExit that says what is missing."""
        for part in ("seqinfo.ini", "det/det.txt", "gt/gt.txt"):
            if not (folder / part).is_file():
                raise SystemExit(f"{folder} is not a MOT-format sequence: it has no {part}")
        parser = configparser.ConfigParser()
        parser.read(folder / "seqinfo.ini")
        info = parser["Sequence"]
        length = info.getint("seqLength")
        found = _rows(folder / "det" / "det.txt")
        truth = _rows(folder / "gt" / "gt.txt")
        counts = truth[:, 6] != 0
        if truth.shape[1] == _COLUMNS_WITH_CLASS:
            counts &= truth[:, 7] == _PEDESTRIAN
        ignored, truth = truth[~counts], truth[counts]
        detections, answers, left_out = [], [], []
        for number in range(1, length + 1):
            rows = found[found[:, 0] == number]
            boxes = _corners(rows)
            valid = (boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])
            scores = np.clip(rows[valid, 6], 0, 1)
            detections.append(Detections(boxes[valid], scores, np.zeros(int(valid.sum()), np.int16)))
            rows = truth[truth[:, 0] == number]
            answers.append((_corners(rows), rows[:, 1].astype(np.int64)))
            left_out.append(_corners(ignored[ignored[:, 0] == number]))
        return cls(
            info.get("name", folder.name),
            info.getfloat("frameRate", 30.0),
            info.getint("imWidth", 1920),
            info.getint("imHeight", 1080),
            detections,
            answers,
            left_out,
        )


def track(sequence: MotSequence, update: Callable[[Detections], Any]) -> Answer:
    """Run `update` over the sequence; its results need `boxes` and `track_ids`."""
    answer = []
    for detections in sequence.detections:
        found = update(detections)
        answer.append((np.asarray(found.boxes, np.float64), np.asarray(found.track_ids, np.int64)))
    return answer


class Scores:
    """TrackEval's raw results of some sequences, and the figures that one reads."""

    def __init__(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            from trackeval.metrics import CLEAR, HOTA, Identity

            self._metrics = {
                "HOTA": HOTA(),
                "CLEAR": CLEAR({"THRESHOLD": 0.5, "PRINT_CONFIG": False}),
                "Identity": Identity({"THRESHOLD": 0.5, "PRINT_CONFIG": False}),
            }
        self._raw: dict[str, dict[str, Any]] = {}

    def add(self, sequence: MotSequence, answer: Answer) -> None:
        """Score one sequence."""
        data = _as_trackeval(sequence, answer)
        with contextlib.redirect_stdout(io.StringIO()):
            self._raw[sequence.name] = {name: metric.eval_sequence(data) for name, metric in self._metrics.items()}

    def take(self, other: Scores, name: str) -> None:
        """Take one sequence's scores over from another."""
        self._raw[name] = other._raw[name]

    def figures(self, names: Sequence[str] | None = None) -> dict[str, float]:
        """HOTA, MOTA, IDF1 (percent) and IDSW of these sequences combined; of all of them where left out."""
        chosen = list(self._raw) if names is None else list(names)
        combined = {
            name: metric.combine_sequences({key: self._raw[key][name] for key in chosen})
            for name, metric in self._metrics.items()
        }
        return {
            "HOTA": round(100 * float(np.mean(combined["HOTA"]["HOTA"])), 2),
            "MOTA": round(100 * float(combined["CLEAR"]["MOTA"]), 2),
            "IDF1": round(100 * float(combined["Identity"]["IDF1"]), 2),
            "IDSW": int(combined["CLEAR"]["IDSW"]),
            "FP": int(combined["CLEAR"]["CLR_FP"]),
            "FN": int(combined["CLEAR"]["CLR_FN"]),
            "truth": int(combined["CLEAR"]["CLR_TP"]) + int(combined["CLEAR"]["CLR_FN"]),
        }


def _rows(path: Path) -> npt.NDArray[np.float64]:
    return np.loadtxt(path, delimiter=",", ndmin=2)


def _corners(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.column_stack([rows[:, 2], rows[:, 3], rows[:, 2] + rows[:, 4], rows[:, 3] + rows[:, 5]])


def _iou(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = np.prod(a[:, 2:] - a[:, :2], axis=1)[:, None] + np.prod(b[:, 2:] - b[:, :2], axis=1)[None, :]
    return np.where(areas > shared, shared / np.maximum(areas - shared, 1e-12), 0.0)


def _as_trackeval(sequence: MotSequence, answer: Answer) -> dict[str, Any]:
    """The dictionary that TrackEval's metrics read: ids numbered from 0 without gaps, similarities frame by frame."""

    def numbered(frames: Answer) -> tuple[list[npt.NDArray[np.int64]], int]:
        known = np.unique(np.concatenate([ids for _, ids in frames] or [np.empty(0, np.int64)]))
        return [np.searchsorted(known, ids) for _, ids in frames], len(known)

    truth_ids, truths = numbered(sequence.truth)
    answer_ids, tracks = numbered(answer)
    return {
        "num_timesteps": len(sequence.truth),
        "num_gt_ids": truths,
        "num_tracker_ids": tracks,
        "num_gt_dets": sum(map(len, truth_ids)),
        "num_tracker_dets": sum(map(len, answer_ids)),
        "gt_ids": truth_ids,
        "tracker_ids": answer_ids,
        "similarity_scores": [
            _iou(truth, found) for (truth, _), (found, _) in zip(sequence.truth, answer, strict=True)
        ],
        "seq": sequence.name,
    }
