"""norfair in a process of its own: reads a task, then runs it as often as it is told. Needs only norfair and NumPy.

Speaks JSON lines. First line in: {"distance_threshold": ..., "sequences": [[frame, ...], ...]}, a frame being a list
of [x1, y1, x2, y2, score]. Then each line "run" is answered by {"answers": ...} the first time and {} afterwards; an
answer has for each frame [track id, row of the detection, estimated box] of the tracks that a detection of this frame
belongs to. Detections are made within a run, since norfair writes into them.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import numpy as np


def main() -> None:
    """Serve standard input until it ends."""
    logging.disable(logging.WARNING)
    import norfair

    task = json.loads(sys.stdin.readline())
    sequences = [
        [(np.array([[x1, y1], [x2, y2]]), np.array([score, score])) for x1, y1, x2, y2, score in frame]
        for sequence in task["sequences"]
        for frame in sequence
    ]
    lengths = [len(sequence) for sequence in task["sequences"]]
    answered = False
    for _ in sys.stdin:
        answers: list[list[Any]] = []
        position = 0
        for length in lengths:
            tracker = norfair.Tracker(distance_function="iou", distance_threshold=task["distance_threshold"])
            answer = []
            for frame in sequences[position : position + length]:
                detections = [norfair.Detection(points, scores) for points, scores in frame]
                answer.append((detections, tracker.update(detections)))
                if not answered:
                    answer[-1] = matched(*answer[-1])
            position += length
            answers.append(answer)
        print(json.dumps({} if answered else {"answers": answers}), flush=True)
        answered = True


def matched(detections: list[Any], tracks: list[Any]) -> list[Any]:
    """The tracks that one of `detections` belongs to."""
    rows = {id(detection): row for row, detection in enumerate(detections)}
    return [
        [track.id, rows[id(track.last_detection)], track.estimate.ravel().tolist()]
        for track in tracks
        if id(track.last_detection) in rows
    ]


if __name__ == "__main__":
    main()
