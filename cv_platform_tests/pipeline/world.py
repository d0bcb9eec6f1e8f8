"""What tests of the pipeline share: a platform on the test's own servers, made-up clips, fast parts, a worker process.

The fast parts are deterministic and need no model: a detector that finds where a frame is bright, an anonymiser that
writes the clip's digest. They stand in only where neither detector nor anonymiser is the point.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from cv_platform.faults import VARIABLE
from cv_platform.pipeline.blurred_clips import BlurredClips
from cv_platform.pipeline.decoded_frames import DecodedFrames
from cv_platform.pipeline.detections import Detections as DetectionsStage
from cv_platform.pipeline.ingest import ingest_listing
from cv_platform.pipeline.keys import upload_key
from cv_platform.pipeline.platform import Platform, open_platform
from cv_platform.pipeline.raw_clips import RawClips
from cv_platform.pipeline.sealing import Kind, unseal_object
from cv_platform.pipeline.stage import StageReport, run_stage
from cv_platform.pipeline.tracks import Tracks
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.model import (
    BLURRED_CLIPS,
    DECODED_FRAMES,
    DETECTIONS,
    RAW_CLIPS,
    STAGES,
    TRACKS,
    Clip,
    Scope,
)
from cv_platform.vision.anonymise import Certificate
from cv_platform.vision.classes import FACE
from cv_platform.vision.detections import Detections
from cv_platform.vision.tracking import make_tracker
from cv_platform.vision.video.sandbox import extract_frames
from cv_platform_tests.vision.video.clips import write_clip

MORNING = datetime(2026, 3, 1, 8, tzinfo=UTC)
VERSIONS = dict.fromkeys(STAGES, "v1")


class BrightSpots:
    """Finds two boxes whose place follows the frame's brightness; three where it is very bright."""

    classes = (0,)
    version = "bright-1"

    def warmup(self) -> None:
        """Nothing to load."""

    def detect(self, frames: Sequence[np.ndarray]) -> list[Detections]:
        """See `Detector.detect`."""
        found = []
        for frame in frames:
            level = round(float(frame.mean())) % 32
            boxes = [[4 + level / 4, 4, 16 + level / 4, 30], [40, 10 + level / 8, 52, 40 + level / 8]]
            found.append(Detections(np.array(boxes), np.array([0.9, 0.8]), np.array([0, 0])))
        return found


def certify(clip: Clip, source: Path, destination: Path, should_stop: Callable[[], bool]) -> Certificate:
    """Writes a file that depends on the source alone, and a certificate of it."""
    data = source.read_bytes()
    output = b"blurred:" + hashlib.sha256(data).digest() * 100
    destination.write_bytes(output)
    return Certificate(
        input_sha256=hashlib.sha256(data).hexdigest(),
        input_bytes=len(data),
        output_sha256=hashlib.sha256(output).hexdigest(),
        output_bytes=len(output),
        detector="none",
        verifier="another",
        policy={"classes": [FACE], "zones": [], "cover_share": 0.95},
        width=64,
        height=48,
        frames=1,
        duration_s=1.0,
        faces=0,
        tracks=0,
        face_frames=0,
        frames_touched=0,
        frames_detected=1,
        frames_verified=1,
        verified_share=1.0,
        verified_faces=0,
        worst_coverage=1.0,
        rounds=0,
    )


def work_of(stage: str, version: str) -> Any:
    """A stage with the fast parts."""
    if stage == TRACKS:
        return Tracks(version, lambda: make_tracker("sort"))
    makers: dict[str, Callable[[], Any]] = {
        RAW_CLIPS: lambda: RawClips(version),
        DECODED_FRAMES: lambda: DecodedFrames(version, extract_frames),
        DETECTIONS: lambda: DetectionsStage(version, BrightSpots()),
        BLURRED_CLIPS: lambda: BlurredClips(version, certify),
    }
    return makers[stage]()


@dataclass
class World:
    """A platform with clips in it."""

    settings: Settings
    platform: Platform

    @classmethod
    def at(cls, settings: Settings) -> World:
        """The platform that settings describe."""
        return cls(settings, open_platform(settings, Database(str(settings.postgres_url))))

    @property
    def database(self) -> Database:
        """Ledger and warehouse."""
        return self.platform.database

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query answers."""
        with self.database.transaction() as connection:
            return connection.execute(sql, values or None).fetchall()

    def execute(self, sql: str, *values: object) -> None:
        """Run a statement."""
        with self.database.transaction() as connection:
            connection.execute(sql, values or None)

    def upload(
        self, path: Path, at: datetime = MORNING, *, camera: str = "cam1", site: str = "north", key: str | None = None
    ) -> str:
        """Put a file under its upload key."""
        key = key or upload_key(site, camera, at, path.suffix.lstrip(".") or "mp4")
        self.platform.restricted.put_file(key, path)
        return key

    def ingest(self) -> Any:
        """One tick of `new_uploads`."""
        return ingest_listing(self.platform, limit=10_000)

    def run(
        self,
        *stages: str,
        versions: dict[str, str] = VERSIONS,
        scope: Scope = Scope(),  # noqa: B008  # read only
    ) -> dict[str, StageReport]:
        """Run stages in this process, all where none is named."""
        reports = {}
        for stage in stages or STAGES:
            work = work_of(stage, versions[stage])
            reports[stage] = (
                work.run(self.platform, scope) if stage == TRACKS else run_stage(self.platform, work, scope)
            )
        return reports

    def states(self) -> dict[str, int]:
        """Clips by state, without those that are none."""
        return dict(self.rows("SELECT state, count(*) FROM cv.clips GROUP BY state"))

    def picture(self) -> dict[str, Any]:
        """All that must be the same however the work came about: tables, ledger, stable objects."""
        clips = self.rows(
            "SELECT clip_id, state, quarantine_code, duration_s, content_sha256, published_sha256, copied_sha256"
            " FROM cv.clips ORDER BY 1"
        )
        stable = {
            info.key: hashlib.sha256(self.in_the_clear(info.key)).hexdigest()
            for info in self.platform.cold.list("blurred")
            if not info.key.endswith(".json")
        }
        return {
            "clips": clips,
            "stages": self.rows("SELECT clip_id, stage, state, version, attempts, counts FROM cv.stages ORDER BY 1, 2"),
            "tables": self.tables(),
            "stable": stable,
        }

    def in_the_clear(self, key: str, kind: Kind = "blurred", *, clip_id: uuid.UUID | None = None) -> bytes:
        """A sealed object's plain bytes; whose it is stands in the key of a published one."""
        store = self.platform.cold if kind == "blurred" else self.platform.restricted
        target = io.BytesIO()
        unseal_object(self.platform, store, key, target, clip_id or uuid.UUID(Path(key).stem), kind)
        return target.getvalue()

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """The warehouse's rows, in order of their ids, and the trackers' states."""
        tables = {name: self.rows(f"SELECT * FROM warehouse.{name} ORDER BY id") for name in _TABLES}
        tables["clip_facts"] = self.rows("SELECT * FROM warehouse.clip_facts ORDER BY clip_id")
        tables["states"] = self.rows("SELECT clip_id, before_sha256, after_sha256 FROM cv.track_states ORDER BY 1")
        return tables

    def start_worker(self, *stages: str, faults: str = "") -> subprocess.Popen[bytes]:
        """A worker in a process of its own, with faults."""
        return start_worker(self.settings, *stages, faults=faults)


_TABLES = ("detections", "tracks", "events")


def start_worker(settings: Settings, *stages: str, faults: str = "") -> subprocess.Popen[bytes]:
    """Run stages with the fast parts in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CV_PLATFORM_")}
    environment |= {
        "CV_PLATFORM_STATE_DIR": str(settings.state_dir),
        "CV_PLATFORM_POSTGRES_URL": str(settings.postgres_url),
        "CV_PLATFORM_LEASE_S": str(settings.lease_s),
        "CV_PLATFORM_RETRY_BASE_S": str(settings.retry_base_s),
        "OMP_NUM_THREADS": "1",
        VARIABLE: faults,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "cv_platform_tests.pipeline.world", *stages],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def with_settings(settings: Settings, **changes: Any) -> Settings:
    """Settings with some changed."""
    return Settings(**{**settings.model_dump(exclude_unset=True), **changes})


def short_clip(path: Path, *, frames: int = 10, first_level: int = 0, step_ms: int = 200) -> Path:
    """A clip of `frames` frames, `step_ms` apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_clip(path, [i * step_ms for i in range(frames)], first_level=first_level)


def three_clips(folder: Path, world: World) -> None:
    """Three clips of one camera, one after the other without a gap, uploaded and registered."""
    for n in range(3):
        path = short_clip(folder / f"{n}.mp4", first_level=10 * n)
        world.upload(path, MORNING + timedelta(seconds=2 * n))
    world.ingest()


if __name__ == "__main__":
    World.at(Settings()).run(*sys.argv[1:])
