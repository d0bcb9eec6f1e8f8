"""The trackers that ours are measured against, each as: a fresh one, and what it answers to a frame.

`trackers` (Roboflow) with its defaults, without camera motion and masks where those take pictures: the benchmark has
none. norfair with IoU, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._mot import Answer, MotSequence

WITHOUT_PICTURES: dict[str, dict[str, Any]] = {
    "SORTTracker": {},
    "ByteTrackTracker": {},
    "OCSORTTracker": {},
    "BoTSORTTracker": {"enable_cmc": False},
    "McByteTracker": {"enable_cmc": False},
    "CBIoUTracker": {},
}


class TrackersPeer:
    """One class of `trackers`."""

    def __init__(self, name: str, sequences: list[MotSequence]) -> None:
        import supervision
        import trackers

        self._make: Callable[[], Any] = lambda: getattr(trackers, name)(**WITHOUT_PICTURES[name])
        self._inputs = [
            [
                supervision.Detections(
                    xyxy=found.boxes, confidence=found.scores, class_id=found.class_ids.astype(np.int64)
                )
                for found in sequence.detections
            ]
            for sequence in sequences
        ]

    def run(self) -> list[list[Any]]:
        """Track all sequences; what is timed."""
        results = []
        for inputs in self._inputs:
            tracker = self._make()
            results.append([tracker.update(found) for found in inputs])
        return results

    def answers(self) -> list[Answer]:
        """The answer to each sequence: detections with an id."""
        return [[self._answer(found) for found in results] for results in self.run()]

    @staticmethod
    def _answer(found: Any) -> tuple[Any, Any]:
        ids = np.full(len(found), -1) if found.tracker_id is None else np.asarray(found.tracker_id, np.int64)
        return np.asarray(found.xyxy, np.float64)[ids >= 0], ids[ids >= 0]


class NorfairPeer:
    """norfair in another environment's Python; boxes as detected, or as it estimates them."""

    def __init__(self, python: Path, sequences: list[MotSequence], distance_threshold: float = 0.7) -> None:
        worker = Path(__file__).with_name("norfair_worker.py")
        self._process = subprocess.Popen(
            [str(python), str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
        )
        self._sequences = sequences
        frames = [
            [np.column_stack([f.boxes, f.scores]).astype(float).tolist() for f in sequence.detections]
            for sequence in sequences
        ]
        self._send(json.dumps({"distance_threshold": distance_threshold, "sequences": frames}))
        self._first = self._ask()["answers"]

    def run(self) -> None:
        """Track all sequences; what is timed. The message there and back takes about 0.1 ms."""
        self._ask()

    def answers(self, *, estimated: bool) -> list[Answer]:
        """The answer to each sequence: tracks that a detection of the frame belongs to, nothing only predicted."""
        return [
            [
                self._answer(rows, found.boxes, estimated)
                for rows, found in zip(frames, sequence.detections, strict=True)
            ]
            for frames, sequence in zip(self._first, self._sequences, strict=True)
        ]

    @staticmethod
    def _answer(rows: list[Any], boxes: Any, estimated: bool) -> tuple[Any, Any]:
        chosen = [box if estimated else boxes[row] for _, row, box in rows]
        return np.array(chosen, np.float64).reshape(-1, 4), np.array([number for number, _, _ in rows], np.int64)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _ask(self) -> Any:
        self._send("run")
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("norfair's process ended; does its environment hold benchmarks/peers/norfair.txt?")
        return json.loads(line)


class Ours:
    """One of our trackers."""

    def __init__(self, name: str, sequences: list[MotSequence], **parameters: Any) -> None:
        from cv_platform.vision.tracking import make_tracker

        self._make = lambda: make_tracker(name, **parameters)
        self._sequences = sequences

    def run(self) -> list[list[Any]]:
        """Track all sequences; what is timed."""
        results = []
        for sequence in self._sequences:
            tracker = self._make()
            results.append([tracker.update(found) for found in sequence.detections])
        return results

    def answers(self) -> list[Answer]:
        """The answer to each sequence."""
        return [
            [(np.asarray(found.boxes, np.float64), np.asarray(found.track_ids, np.int64)) for found in results]
            for results in self.run()
        ]


def crowd(boxes: int, frames: int = 60) -> MotSequence:
    """A made-up sequence: `boxes` people a frame who walk through a 1920 × 1080 picture, detected with noise."""
    from cv_platform.vision.detections import Detections

    rng = np.random.default_rng(0)
    corner = rng.uniform((0, 0), (1880, 1000), (boxes, 2))
    size = np.column_stack([rng.uniform(15, 40, boxes), rng.uniform(40, 80, boxes)])
    speed = rng.normal(0, 2, (boxes, 2))
    found = []
    for index in range(frames):
        low = np.abs(corner + speed * index + rng.normal(0, 1, (boxes, 2)))
        found.append(Detections(np.hstack([low, low + size]), rng.uniform(0.7, 1, boxes), np.zeros(boxes, np.int16)))
    nobody = (np.empty((0, 4)), np.empty(0, np.int64))
    return MotSequence(f"{boxes} boxes a frame", 30.0, 1920, 1080, found, [nobody] * frames)
