"""detections: what is found in a clip's sampled frames: to PostgreSQL, to Parquet, and current ones to Redis."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import TYPE_CHECKING, BinaryIO

from cv_platform.pipeline.cold_rows import bring_back
from cv_platform.pipeline.outputs import upload_output
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.rules import look_filter
from cv_platform.pipeline.sealing import unseal_object
from cv_platform.pipeline.stage import ClaimLost, ClipRefused, Finished
from cv_platform.storage.archive import write_detections_file
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.cold_days import require_warm
from cv_platform.storage.ledger.days import days_of
from cv_platform.storage.ledger.model import DECODED_FRAMES, DETECTIONS, Claim
from cv_platform.storage.ledger.withdrawal import delete_rows
from cv_platform.storage.objects import ObjectMissing
from cv_platform.storage.sealed import SealBroken
from cv_platform.storage.warehouse import DetectionRows, ensure_days, write_detections

if TYPE_CHECKING:
    from cv_platform.vision.detections import Detections as Found
    from cv_platform.vision.detectors.base import Detector


@dataclass
class Detections:
    """Runs a detector over a clip's shard."""

    version: str
    detector: Detector
    stage: str = DETECTIONS

    def work(self, platform: Platform, claim: Claim, lost: Event) -> Finished:
        """See `ClipStage.work`."""
        import numpy as np

        from cv_platform.vision.detectors.streaming import detect_in_shard

        clip = claim.clip
        wanted = look_filter(platform.policy.rules_for(clip.site_id, clip.camera_id).look)
        offsets_us: list[int] = []
        size = (0, 0)
        frames: list[int] = []
        parts: list[Found] = []
        with _shard_of(platform, claim) as shard, closing(detect_in_shard(self.detector, shard)) as answers:
            for frame, found in answers:
                if lost.is_set():
                    raise ClaimLost
                size = size if offsets_us else (frame.width, frame.height)
                kept = wanted(found, frame.width, frame.height)
                frames.extend([len(offsets_us)] * len(kept))
                offsets_us.append(round(frame.pts_s * 1_000_000))
                parts.append(_normalised(kept, frame.width, frame.height))
        stamps = np.datetime64(clip.captured_at.replace(tzinfo=None), "us") + np.array(offsets_us, "timedelta64[us]")
        index = np.array(frames, np.int32)
        rows = DetectionRows(
            frames=index,
            timestamps=stamps[index] if len(index) else np.empty(0, "datetime64[us]"),
            class_ids=np.concatenate([part.class_ids for part in parts]) if parts else np.empty(0, np.int16),
            confidences=np.concatenate([part.scores for part in parts]) if parts else np.empty(0, np.float32),
            boxes=np.concatenate([part.boxes for part in parts]) if parts else np.empty((0, 4), np.float32),
            ids=_ids(clip.clip_id, claim.version, frames),
        )
        with platform.scratch() as folder:
            path = folder / "detections.parquet"
            write_detections_file(path, clip.camera_id, clip.published_key, rows)
            key = upload_output(platform, claim, "cold", "detections", path, suffix=".parquet")
        last_s = offsets_us[-1] / 1e6 if offsets_us else 0.0
        days = days_of(clip.captured_at, max(last_s, clip.duration_s or 0.0))
        bring_back(platform, clip.camera_id, days)
        ensure_days(platform.database, days)

        def write(connection: Connection) -> None:
            require_warm(connection, clip.camera_id, days)
            delete_rows(connection, clip.clip_id, ("detections",))
            write_detections(connection, clip.camera_id, clip.published_key, rows)
            connection.execute("DELETE FROM warehouse.clip_facts WHERE clip_id = %s", [clip.clip_id])
            connection.execute(
                "INSERT INTO warehouse.clip_facts (clip_id, site_id, camera_id, captured_at, frames, frame_width,"
                " frame_height, frame_offsets_us, clip_s3_key) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    clip.clip_id,
                    clip.site_id,
                    clip.camera_id,
                    clip.captured_at,
                    len(offsets_us),
                    *size,
                    offsets_us,
                    clip.published_key,
                ],
            )

        return Finished(
            output_key=key,
            counts={"frames": len(offsets_us), "detections": len(rows)},
            write=write,
            after_commit=lambda: _write_hot(platform, claim, rows, len(offsets_us), last_s),
        )


@contextmanager
def _shard_of(platform: Platform, claim: Claim) -> Iterator[BinaryIO]:
    """The clip's shard in the clear, as a file without a name: hours of frames do not fit in memory.

    Raises:
        ClipRefused: it is gone or damaged.
        KeyDestroyed, KeyEncryptionKeyError: as `unseal_object`.
    """
    key, sha256 = claim.inputs[DECODED_FRAMES]
    with platform.scratch_file() as file:
        try:
            if key is None:
                raise ObjectMissing("no shard")
            found = unseal_object(platform, platform.restricted, key, file, claim.clip.clip_id, "frames")
        except SealBroken:
            found = ""
        except ObjectMissing:
            raise ClipRefused(
                "frames_missing", "its sampled frames are gone; replay it while the raw clip exists"
            ) from None
        if found != sha256:
            raise ClipRefused("frames_damaged", "its sampled frames are not what was written; replay it")
        file.seek(0)
        yield file


def _normalised(found: Found, width: int, height: int) -> Found:
    """Boxes from pixels to 0..1, clipped to the picture: this is the warehouse's door."""
    import numpy as np

    from cv_platform.vision.detections import Detections as Found

    scale = np.array([width, height, width, height], np.float32)
    return Found(np.clip(found.boxes / scale, 0.0, 1.0), found.scores, found.class_ids)


def _ids(clip_id: uuid.UUID, version: str, frames: list[int]) -> list[uuid.UUID]:
    """UUIDv5 of clip, version, frame and index in the frame: working twice gives the same rows."""
    seen: Counter[int] = Counter()
    ids = []
    for frame in frames:
        ids.append(uuid.uuid5(clip_id, f"{version}/{frame}/{seen[frame]}"))
        seen[frame] += 1
    return ids


def _write_hot(platform: Platform, claim: Claim, rows: DetectionRows, frames: int, last_s: float) -> None:
    """Tell Redis what the camera sees now, where now it is: after the commit, and never in its way."""
    ends_at = claim.clip.captured_at + timedelta(seconds=last_s)
    if platform.hot is None or datetime.now(UTC) - ends_at > timedelta(seconds=platform.hot.ttl_s):
        return
    counts = Counter(int(class_id) for class_id in rows.class_ids[rows.frames == frames - 1])
    newest = {str(class_id): count for class_id, count in counts.items()}
    if not platform.hot.write_current(claim.clip.camera_id, ends_at, newest):
        platform.log.warning("Redis cannot be reached: live counts are behind, nothing is lost")
