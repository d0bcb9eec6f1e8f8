"""tracks: a camera's detections linked over time, clip after clip in order of capture.

A late clip is tracked from the state that its predecessor left; then the clips behind it are tracked again, for as long
as the state with which one begins differs from the one that it began with before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

import psycopg

from cv_platform import faults
from cv_platform.pipeline.cold_rows import bring_back
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.stage import LINES, StageReport, describe_error, give_back, retry_delay_s
from cv_platform.pipeline.tracking_state import (
    NEVER_S,
    CameraState,
    TrackedClip,
    begin_clip,
    micros,
    moment,
    track_clip,
)
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.claims import clip_of
from cv_platform.storage.ledger.cold_days import require_warm
from cv_platform.storage.ledger.days import days_of, mark_dirty
from cv_platform.storage.ledger.heads import (
    CameraClaim,
    OpenClip,
    TrackState,
    camera_kept,
    claim_camera,
    finish_tracks,
    lock_camera,
    lock_open_clip,
    open_clip,
    postpone_clip,
    release_camera,
    retrack,
    state_after,
    state_before,
    store_state,
    uncount_attempt,
)
from cv_platform.storage.ledger.model import TRACKS, Clip, Scope, StaleClaim
from cv_platform.storage.ledger.withdrawal import delete_rows, quarantine_clip
from cv_platform.storage.warehouse import ensure_days, read_detections, set_track_ids, write_events, write_tracks

if TYPE_CHECKING:
    import uuid

    from cv_platform.vision.detections import Detections
    from cv_platform.vision.tracking.base import Tracker


@dataclass
class Tracks:
    """Runs a tracker over cameras' clips."""

    version: str
    make_tracker: Callable[[], Tracker]
    stage: str = TRACKS

    def run(self, platform: Platform, scope: Scope) -> StageReport:
        """Track every camera of the scope whose next clip is ready, until none is left."""
        report = StageReport(self.stage)
        started = time.monotonic()
        given_up: set[str] = set()
        while not platform.should_stop():
            camera = claim_camera(
                platform.database,
                version=self.version,
                scope=scope,
                run_id=platform.run_id,
                lease_s=platform.settings.lease_s,
                skip=frozenset(given_up),
            )
            if camera is None:
                break
            try:
                with camera_kept(platform.database, camera, lease_s=platform.settings.lease_s) as lost:
                    if not self._track_camera(platform, camera, lost, report):
                        given_up.add(camera.camera_id)
            except StaleClaim:
                report.stale += 1
            finally:
                release_camera(platform.database, camera)
        report.seconds = time.monotonic() - started
        return report

    def _track_camera(self, platform: Platform, camera: CameraClaim, lost: Event, report: StageReport) -> bool:
        """Track the camera's clips in order for as long as the next one is ready; False after a failure."""
        while not lost.is_set() and not platform.should_stop():
            clip = open_clip(platform.database, camera)
            if clip is None:
                return True
            with platform.working_on(TRACKS, clip.clip_id, camera.camera_id):
                ended = self._track_one(platform, camera, clip, report)
            if ended is not None:
                return ended
            platform.progress(report.done, 0)
        return True

    def _track_one(self, platform: Platform, camera: CameraClaim, clip: OpenClip, report: StageReport) -> bool | None:
        """Track one clip; None: the camera's next one may follow, else what `_track_camera` returns."""
        started = time.monotonic()
        try:
            if clip.attempts > platform.settings.max_attempts:
                reason = f"tracks: {clip.attempts - 1} workers died on it"
                _quarantine(platform, camera, clip, "worker_died", reason, report)
            else:
                faults.point("tracks.claimed")
                self._track(platform, camera, clip, started, report)
        except StaleClaim:
            raise
        except (psycopg.OperationalError, psycopg.InterfaceError):
            give_back(partial(uncount_attempt, platform.database, clip))
            raise
        except Exception as error:  # noqa: BLE001  # one clip must not stop the other cameras
            return self._failed(platform, camera, clip, error, report)
        return None

    def _failed(
        self, platform: Platform, camera: CameraClaim, clip: OpenClip, error: Exception, report: StageReport
    ) -> bool:
        database, settings = platform.database, platform.settings
        if clip.attempts < settings.max_attempts:
            postpone_clip(database, clip, delay_s=retry_delay_s(platform, clip.attempts), error=describe_error(error))
            report.postponed += 1
            platform.log.warning("tracks: clip %s failed, will be tried again: %s", clip.clip_id, describe_error(error))
            return False
        reason = f"tracks failed {clip.attempts} times, last with {describe_error(error)}"
        _quarantine(platform, camera, clip, "failed_repeatedly", reason, report)
        return True

    def _track(
        self, platform: Platform, camera: CameraClaim, open_: OpenClip, started: float, report: StageReport
    ) -> None:
        database, gap_s = platform.database, platform.settings.track_gap_s
        with database.transaction() as connection:
            clip = clip_of(connection, open_.clip_id)
        days = set(days_of(clip.captured_at, clip.duration_s))
        bring_back(platform, clip.camera_id, days, told_by=clip.published_key)
        with database.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            clip = clip_of(connection, open_.clip_id)
            previous = state_before(connection, camera.camera_id, open_)
            frames_us, found = _detections_of(connection, clip)
        before = CameraState.from_bytes(previous.state) if previous else None
        # Another version's clip that can't be tracked anew: its tracks end there, and the day's count goes on.
        goes_on = previous is not None and previous.version == self.version
        state = begin_clip(before, clip.captured_at, track_gap_s=gap_s if goes_on else NEVER_S)
        before_sha256 = state.digest()
        result = track_clip(self.make_tracker(), state, clip.clip_id, frames_us, found, track_gap_s=gap_s)
        last_us = result.after.last_us if result.after.last_us is not None else micros(clip.captured_at)
        stored = TrackState(
            clip_id=clip.clip_id,
            captured_at=clip.captured_at,
            ends_at=moment(last_us),
            version=self.version,
            before_sha256=before_sha256,
            after_sha256=result.after.digest(),
            state=result.after.to_bytes(),
        )
        # Days on which the clip tells of something, and those in whose marts its tracks count.
        days |= {event.timestamp.date() for event in result.events} | {track.track_day for track in result.tracks}
        bring_back(platform, clip.camera_id, days)
        ensure_days(database, [event.timestamp.date() for event in result.events])
        counts = {"tracks": len(result.tracks), "frames": len(frames_us), "events": len(result.events)}
        seconds = time.monotonic() - started
        faults.point("tracks.before_commit")

        def commit(connection: Connection) -> None:
            lock_camera(connection, camera)
            finish_tracks(connection, camera, open_, seconds=seconds, counts=json.dumps(counts))
            store_state(connection, camera.camera_id, stored)
            successor = state_after(connection, camera.camera_id, open_)
            if successor is not None:
                begins = begin_clip(result.after, successor.captured_at, track_gap_s=gap_s)
                if begins.digest() != successor.before_sha256 or successor.version != self.version:
                    retrack(connection, successor.clip_id)
            require_warm(connection, clip.camera_id, days)
            _write(connection, clip, result)
            mark_dirty(connection, days_of(clip.captured_at, clip.duration_s))

        database.transact(commit)
        faults.point("tracks.after_commit")
        report.done += 1
        report.clips.append({**counts, "seconds": seconds})
        LINES.info("done in %.2f s", seconds)


def _quarantine(
    platform: Platform, camera: CameraClaim, clip: OpenClip, code: str, reason: str, report: StageReport
) -> None:
    def work(connection: Connection) -> None:
        lock_camera(connection, camera)
        lock_open_clip(connection, clip)
        quarantine_clip(connection, clip.clip_id, stage=TRACKS, code=code, reason=reason)

    platform.database.transact(work)
    report.quarantined[code] += 1
    platform.log.warning("tracks: clip %s is quarantined: %s", clip.clip_id, reason)


def _write(connection: Connection, clip: Clip, result: TrackedClip) -> None:
    delete_rows(connection, clip.clip_id, ("tracks", "events"))
    write_tracks(connection, clip.camera_id, clip.published_key, result.tracks)
    write_events(connection, clip.camera_id, clip.published_key, result.events)
    end = clip.captured_at + timedelta(seconds=(clip.duration_s or 0.0) + 1.0)
    set_track_ids(connection, clip.camera_id, clip.published_key, clip.captured_at, end, result.track_ids)


def _detections_of(connection: Connection, clip: Clip) -> tuple[list[int], list[tuple[Detections, list[uuid.UUID]]]]:
    """Each frame's time and what was found in it, in pixels: empty frames too, the tracker must see them pass."""
    import numpy as np

    from cv_platform.vision.classes import FACE
    from cv_platform.vision.detections import Detections

    facts = connection.execute(
        "SELECT frame_width, frame_height, frame_offsets_us FROM warehouse.clip_facts WHERE clip_id = %s",
        [clip.clip_id],
    ).fetchone()
    if facts is None:
        raise StaleClaim("tracks: the clip's detections went away")
    width, height, offsets_us = facts
    end = clip.captured_at + timedelta(seconds=(clip.duration_s or 0.0) + 1.0)
    by_time: dict[int, list[tuple[uuid.UUID, int, float, list[float]]]] = {}
    for row_id, at, class_id, confidence, box in read_detections(
        connection, clip.camera_id, clip.published_key, clip.captured_at, end
    ):
        if class_id < FACE:
            by_time.setdefault(micros(at), []).append((row_id, class_id, confidence, box))
    scale = np.array([width, height, width, height], np.float32)
    start_us = micros(clip.captured_at)
    frames_us, found = [], []
    for offset_us in offsets_us:
        # By score and place, not by id: ids are derived from the version, and the same boxes must give the same tracks.
        rows = sorted(by_time.get(start_us + offset_us, []), key=lambda row: (-row[2], row[1], row[3]))
        frames_us.append(start_us + offset_us)
        detections = Detections(
            np.array([row[3] for row in rows], np.float32).reshape(-1, 4) * scale,
            np.array([row[2] for row in rows], np.float32),
            np.array([row[1] for row in rows], np.int16),
        )
        found.append((detections, [row[0] for row in rows]))
    return frames_us, found
