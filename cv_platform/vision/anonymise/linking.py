"""Sightings linked into tracks over the whole clip, filled in both directions, extended at both ends.

Not a tracker for live video: here the future is known, so a gap is bridged by what comes after it as well as by what
came before, and one confident sighting is enough to hide a track over its whole life.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cv_platform.vision.anonymise.policy import AnonymisePolicy
from cv_platform.vision.anonymise.sightings import Boxes, FrameSightings

_MAX_SCALE_CHANGE = 1.8
_NEAR = 0.6
_FAR = 2.5
_SPEED_FRAMES = 4


@dataclass
class Track:
    """One thing seen over time.

    Attributes:
        class_id: see `cv_platform.vision.classes`.
        frames: where it was sighted, rising.
        boxes: the sightings, coded pixels.
        scores: theirs.
    """

    class_id: int
    frames: list[int] = field(default_factory=list)
    boxes: list[Boxes] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """Its highest score."""
        return max(self.scores, default=0.0)

    def add(self, frame: int, box: Boxes, score: float) -> None:
        self.frames.append(frame)
        self.boxes.append(box)
        self.scores.append(score)

    def split(self, longest: int) -> list[Track]:
        """The track in pieces, none with a gap of more than `longest` frames."""
        pieces: list[Track] = []
        for frame, box, score in zip(self.frames, self.boxes, self.scores, strict=True):
            if not pieces or frame - pieces[-1].frames[-1] > longest:
                pieces.append(Track(self.class_id))
            pieces[-1].add(frame, box, score)
        return pieces

    def speed(self) -> npt.NDArray[np.float32]:
        """Movement of the centre a frame over the last sightings, pixels (2,)."""
        if len(self.frames) < 2:
            return np.zeros(2, np.float32)
        first = max(0, len(self.frames) - _SPEED_FRAMES)
        span = self.frames[-1] - self.frames[first]
        moved = _centre(self.boxes[-1]) - _centre(self.boxes[first])
        return np.asarray(moved / max(span, 1), dtype=np.float32)

    def predict(self, frame: int) -> tuple[npt.NDArray[np.float32], float, float]:
        """Centre expected in this frame, half of the expected doubt in pixels, and size."""
        gap = frame - self.frames[-1]
        size = _size(self.boxes[-1])
        centre = _centre(self.boxes[-1]) + self.speed() * min(gap, 2 * _SPEED_FRAMES)
        doubt = _NEAR * size * min(1.0 + 0.35 * (gap - 1), _FAR)
        if len(self.frames) == 1:
            doubt = max(doubt, _NEAR * size * min(gap, _FAR))
        return centre, doubt, size


def link(
    sightings: dict[int, FrameSightings], cuts: list[int], frame_rate: float, policy: AnonymisePolicy
) -> list[Track]:
    """Link sightings into tracks; those that never reached the threshold are left out.

    A track without one sure sighting is bridged over short gaps only: what a detector half takes for a face now and
    then is texture more often than a face.

    Args:
        sightings: by examined frame; a sighting's score decides by `detect_threshold`.
        cuts: frames that start a new scene; no track crosses one.
        frame_rate: frames a second.
        policy: thresholds and the longest gap.
    """
    longest = max(policy.detect_stride + 1, round(policy.max_gap_s * frame_rate))
    boundaries = sorted(cuts)
    live: list[Track] = []
    done: list[Track] = []
    next_cut = 0
    for frame in sorted(sightings):
        while next_cut < len(boundaries) and frame >= boundaries[next_cut]:
            done += live
            live = []
            next_cut += 1
        done += [t for t in live if frame - t.frames[-1] > longest]
        live = [t for t in live if frame - t.frames[-1] <= longest]
        live += _assign(live, frame, sightings[frame])
    sure = [t for t in done + live if t.best >= policy.sure_threshold]
    doubtful = [t for t in done + live if t.best < policy.sure_threshold]
    pieces = [piece for t in doubtful for piece in t.split(2 * policy.detect_stride)]
    return [t for t in sure + pieces if t.best >= policy.detect_threshold]


def _assign(live: list[Track], frame: int, seen: FrameSightings) -> list[Track]:
    """Give each sighting to the nearest track that may take it, nearest pairs first; return the new tracks."""
    pairs: list[tuple[float, int, int]] = []
    for t, track in enumerate(live):
        centre, doubt, size = track.predict(frame)
        last = _centre(track.boxes[-1])
        for s in range(len(seen)):
            if seen.class_ids[s] != track.class_id:
                continue
            here = _centre(seen.boxes[s])
            scale = _size(seen.boxes[s]) / max(size, 1.0)
            if not 1 / _MAX_SCALE_CHANGE < scale < _MAX_SCALE_CHANGE:
                continue
            # a face may stop as well as go on
            away = min(float(np.hypot(*(here - centre))), float(np.hypot(*(here - last))))
            if away <= doubt:
                pairs.append((away / max(size, 1.0), t, s))
    taken_tracks: set[int] = set()
    taken: set[int] = set()
    for _, t, s in sorted(pairs):
        if t in taken_tracks or s in taken:
            continue
        taken_tracks.add(t)
        taken.add(s)
        live[t].add(frame, seen.boxes[s], float(seen.scores[s]))
    new = []
    for s in range(len(seen)):
        if s not in taken:
            track = Track(int(seen.class_ids[s]))
            track.add(frame, seen.boxes[s], float(seen.scores[s]))
            new.append(track)
    return new


def _centre(box: Boxes) -> npt.NDArray[np.float32]:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], dtype=np.float32)


def _size(box: Boxes) -> float:
    return float(np.sqrt(max(float((box[2] - box[0]) * (box[3] - box[1])), 1.0)))
