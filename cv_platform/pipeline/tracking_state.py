"""A camera's tracking across clips: what carries over from one clip to the next, and how it is compared.

The tracker knows frames; this knows days. Ids count per (camera, UTC day of first sighting). A gap over `track_gap_s`
between clips starts a new segment: the tracker is fresh, the day's count goes on.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cv_platform.storage.warehouse import EventRow, TrackRow

if TYPE_CHECKING:
    from cv_platform.vision.detections import Detections
    from cv_platform.vision.tracking.base import Tracker

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER_S = -1e9
"""As `track_gap_s`: nothing goes on, however close."""


def micros(at: datetime) -> int:
    """Microseconds since 1970, exact."""
    return (at - EPOCH) // timedelta(microseconds=1)


def moment(us: int) -> datetime:
    """The inverse of `micros`."""
    return EPOCH + timedelta(microseconds=us)


@dataclass
class OpenTrack:
    """A track that may go on in the next frame or clip."""

    day: str
    track_id: int
    class_id: int
    last_us: int


@dataclass
class CameraState:
    """What a camera's tracking knows after a clip.

    Attributes:
        tracker: the tracker's own state, or None at the start of a segment.
        open: by the tracker's id, tracks that may go on; below 0 those that the tracker has let go, whose time is
            not over yet.
        ended: tracks that a gap ended; the next clip says so.
        next_id: next track id by UTC day, only for the newest day.
        last_us: time of the last frame tracked.
    """

    tracker: dict[str, Any] | None = None
    open: dict[int, OpenTrack] = field(default_factory=dict)
    ended: list[OpenTrack] = field(default_factory=list)
    next_id: dict[str, int] = field(default_factory=dict)
    last_us: int | None = None

    def to_bytes(self) -> bytes:
        """The same state gives the same bytes."""
        return json.dumps(_plain(vars(self)), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> CameraState:
        """The inverse of `to_bytes`."""
        raw = json.loads(data)
        return cls(
            tracker=_arrays(raw["tracker"]),
            open={int(key): OpenTrack(**value) for key, value in raw["open"].items()},
            ended=[OpenTrack(**value) for value in raw["ended"]],
            next_id=raw["next_id"],
            last_us=raw["last_us"],
        )

    def digest(self) -> str:
        """sha256 of the bytes, hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def begin_clip(before: CameraState | None, captured_at: datetime, *, track_gap_s: float) -> CameraState:
    """The state with which a clip is tracked, given the one that the camera's clip before it left.

    Where nothing can carry over, this is the same state whatever came before: a change then reaches no further.
    """
    if before is None:
        return CameraState()
    start_us = micros(captured_at)
    day = captured_at.date().isoformat()
    if before.last_us is not None and start_us - before.last_us <= track_gap_s * 1e6:
        return before
    return CameraState(
        ended=sorted(before.open.values(), key=lambda track: (track.day, track.track_id)),
        next_id={key: value for key, value in before.next_id.items() if key >= day},
    )


@dataclass
class TrackedClip:
    """What tracking made of one clip."""

    tracks: list[TrackRow]
    events: list[EventRow]
    track_ids: dict[uuid.UUID, int]
    after: CameraState


def track_clip(
    tracker: Tracker,
    state: CameraState,
    clip_id: uuid.UUID,
    frames_us: Sequence[int],
    found: Sequence[tuple[Detections, Sequence[uuid.UUID]]],
    *,
    track_gap_s: float,
) -> TrackedClip:
    """Track one clip.

    Args:
        tracker: fresh; it is given the state's.
        state: from `begin_clip`; is not changed.
        frames_us: time of each sampled frame, microseconds since 1970, ascending.
        found: for each frame, detections in pixels and their row ids.
        track_gap_s: a track that was not seen for so long has ended.

    Frames at or before the last one tracked (clips that overlap) are left out: each moment is tracked once.
    """
    if state.tracker is not None:
        tracker.load_state_dict(state.tracker)
    open_tracks = {key: OpenTrack(**vars(track)) for key, track in state.open.items()}
    next_id = dict(state.next_id)
    last_us = state.last_us
    pieces: dict[tuple[str, int], _Piece] = {}
    events: list[EventRow] = [_event(clip_id, "track_ended", track, track.last_us) for track in state.ended]
    track_ids: dict[uuid.UUID, int] = {}
    gap_us = track_gap_s * 1e6
    for at_us, (detections, row_ids) in zip(frames_us, found, strict=True):
        if last_us is not None and at_us <= last_us:
            continue
        last_us = at_us
        for key in [key for key, track in open_tracks.items() if at_us - track.last_us > gap_us]:
            track = open_tracks.pop(key)
            events.append(_event(clip_id, "track_ended", track, track.last_us))
        answer = tracker.update(detections)
        assert answer.track_ids is not None  # the protocol's promise
        for row, internal, class_id, score in zip(
            tracker.matched_rows, answer.track_ids, answer.class_ids, answer.scores, strict=True
        ):
            track_or_none = open_tracks.get(int(internal))
            if track_or_none is None:
                day = moment(at_us).date().isoformat()
                number = next_id.get(day, 1)
                next_id[day] = number + 1
                track = OpenTrack(day, number, int(class_id), at_us)
                open_tracks[int(internal)] = track
                events.append(_event(clip_id, "track_started", track, at_us))
            else:
                track = track_or_none
            track.last_us = at_us
            piece = pieces.setdefault((track.day, track.track_id), _Piece(track.class_id, at_us))
            piece.add(at_us, float(score))
            track_ids[row_ids[int(row)]] = track.track_id
    after = CameraState(*_settled(tracker, open_tracks), [], _counting(next_id, last_us), last_us)
    tracks = [piece.row(clip_id, day, number) for (day, number), piece in sorted(pieces.items())]
    return TrackedClip(tracks, events, track_ids, after)


def _settled(tracker: Tracker, open_tracks: dict[int, OpenTrack]) -> tuple[dict[str, Any], dict[int, OpenTrack]]:
    """The tracker's state and the open tracks, in the form that all histories with the same future share.

    Else a clip that comes late would change the states behind it for ever, by their count of frames alone.
    """
    new_ids = tracker.settle()
    by_age = sorted(open_tracks.items(), key=lambda item: (item[1].day, item[1].track_id))
    gone = -sum(key not in new_ids for key, _ in by_age)
    settled = {}
    for key, track in by_age:
        if key in new_ids:
            settled[new_ids[key]] = track
        else:
            settled[gone] = track
            gone += 1
    return tracker.state_dict(), settled


def _counting(next_id: dict[str, int], last_us: int | None) -> dict[str, int]:
    """The counts that a later frame may go on with."""
    day = "" if last_us is None else moment(last_us).date().isoformat()
    return {key: value for key, value in next_id.items() if key >= day}


@dataclass
class _Piece:
    class_id: int
    first_us: int
    last_us: int = 0
    count: int = 0
    score: float = 0.0

    def add(self, at_us: int, score: float) -> None:
        self.last_us = at_us
        self.count += 1
        self.score += score

    def row(self, clip_id: uuid.UUID, day: str, number: int) -> TrackRow:
        return TrackRow(
            id=uuid.uuid5(clip_id, f"track/{day}/{number}"),
            timestamp=moment(self.first_us),
            track_day=date.fromisoformat(day),
            track_id=number,
            class_id=self.class_id,
            last_seen_at=moment(self.last_us),
            detections=self.count,
            confidence=self.score / self.count,
        )


def _event(clip_id: uuid.UUID, kind: str, track: OpenTrack, at_us: int) -> EventRow:
    return EventRow(
        id=uuid.uuid5(clip_id, f"{kind}/{track.day}/{track.track_id}"),
        timestamp=moment(at_us),
        kind=kind,
        class_id=track.class_id,
        track_id=track.track_id,
        track_day=date.fromisoformat(track.day),
    )


def _plain(value: Any) -> Any:
    """Arrays as dtype, shape and bytes: exact, and the same for the same array."""
    import numpy as np

    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value)
        return {"__array__": [data.dtype.str, list(data.shape), data.tobytes().hex()]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, OpenTrack):
        return dict(vars(value))
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _arrays(value: Any) -> Any:
    import numpy as np

    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            dtype, shape, data = value["__array__"]
            return np.frombuffer(bytes.fromhex(data), dtype=dtype).reshape(shape).copy()
        return {key: _arrays(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_arrays(entry) for entry in value]
    return value
