"""One whole platform for the end-to-end tests: the embedded stack, the daemon, tiny clips, and an undisturbed twin."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cv_platform.demo.footage import Scene, write_clip
from cv_platform.demo.readback import DagsterStorage
from cv_platform.demo.watch import read_progress
from cv_platform.embedded.environment import exports
from cv_platform.embedded.stack import Stack
from cv_platform.pipeline.ingest import ingest_listing
from cv_platform.pipeline.keys import upload_key
from cv_platform.pipeline.platform import Platform, open_platform
from cv_platform.pipeline.stages import run_named_stage
from cv_platform.pipeline.versions import current_versions
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.model import STAGES, Scope
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform_tests.conftest import REPOSITORY, SHARED_DATA
from cv_platform_tests.dbt.warehouse import build

DAY = datetime.now(UTC).date() - timedelta(days=2)
NEXT_DAY = DAY + timedelta(days=1)
CLIP_S = 1.0
# Names that stand nowhere else: a scan of Dagster's storage finds them if they are there.
QUAY, HALL = "cam-quay-4711", "cam-hall-4712"


@dataclass(frozen=True)
class Upload:
    """A clip to upload."""

    site: str
    camera: str
    at: datetime
    scene_s: float

    @property
    def key(self) -> str:
        return upload_key(self.site, self.camera, self.at)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC)


# Two sites, two days; the quay's clips follow each other over midnight.
UPLOADS = (
    Upload("harbour", QUAY, _midnight(NEXT_DAY) - timedelta(seconds=CLIP_S), 0.0),
    Upload("harbour", QUAY, _midnight(NEXT_DAY), CLIP_S),
    Upload("market", HALL, _midnight(DAY) + timedelta(hours=12), 50.0),
)
SCENES = {QUAY: Scene(seed=3), HALL: Scene(seed=29)}


def settings(state_dir: Path, **values: Any) -> Settings:
    """Cheap models, short intervals. The face model comes from the cache of the clone, or the package index."""
    return Settings(
        state_dir=state_dir,
        model_dir=SHARED_DATA / "models" if SHARED_DATA.is_dir() else None,
        model_cache_dir=REPOSITORY / ".cv_platform" / "models",
        partitions_start=DAY - timedelta(days=1),
        detectors="hog_people",
        face_detector="centerface",
        face_verifier="yunet",
        inference_threads=1,
        frames_fps=4.0,
        **values,
    )


def footage(folder: Path) -> dict[str, Path]:
    """The clips as files, by upload key."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for number, upload in enumerate(UPLOADS):
        files[upload.key] = folder / f"{number}.mp4"
        write_clip(files[upload.key], SCENES[upload.camera], start_s=upload.scene_s, duration_s=CLIP_S)
    return files


@dataclass
class Finished:
    """A stack whose daemon has done everything, though workers were killed.

    Attributes:
        began: seconds since 1970.
        killed: the files that the killed workers left as they died.
        seconds: how long the daemon took.
    """

    stack: Stack
    platform: Platform
    dagster: DagsterStorage
    instance: dg.DagsterInstance
    began: float
    killed: list[Path] = field(default_factory=list)
    seconds: float = 0.0


@contextmanager
def finished_stack(folder: Path) -> Iterator[Finished]:
    """Start everything, upload, let the daemon work while two of its workers are killed, wait until all is done."""
    killed = [folder / "killed-detections", folder / "killed-blurred"]
    patch = pytest.MonkeyPatch()
    patch.setenv(
        "CV_PLATFORM_FAULTS",
        # The first has uploaded its Parquet and not committed; the second has committed and not copied.
        f"detections.before_commit=kill@{killed[0]},blurred_clips.after_commit=kill@{killed[1]}",
    )
    files = footage(folder / "footage")
    stack = Stack(settings(folder / "state", lease_s=3.0, sensor_interval_s=3, min_run_interval_s=12.0))
    try:
        full = stack.start_servers()
        for name, value in exports(full).items():
            patch.setenv(name, value)
        platform = open_platform(full, Database(str(full.postgres_url)))
        for key, path in files.items():
            platform.restricted.put_file(key, path)
        began = time.time()
        stack.start_daemon()
        patch.delenv("CV_PLATFORM_FAULTS")
        twin(folder / "twin", stack, files)  # meanwhile
        dagster = DagsterStorage(exports(full))
        wait(stack, platform, dagster)
        with dg.DagsterInstance.get() as instance:
            yield Finished(stack, platform, dagster, instance, began, killed, time.time() - began)
        platform.database.close()
    finally:
        stack.stop()
        patch.undo()


def wait(stack: Stack, platform: Platform, dagster: DagsterStorage, *, timeout_s: float = 540.0) -> None:
    """Until the ledger rests and no run is left. Raises TimeoutError with what was still open."""
    deadline = time.monotonic() + timeout_s
    while True:
        progress = read_progress(platform.database, [upload.key for upload in UPLOADS])
        if progress.at_rest and not dagster.active_runs():
            return
        if time.monotonic() > deadline or "daemon" not in stack.running():
            log = (stack.logs / "daemon.log").read_text(errors="replace")[-3000:]
            raise TimeoutError(f"not at rest: {progress.line()}; the daemon's log ends:\n{log}")
        time.sleep(0.3)


def twin(folder: Path, stack: Stack, files: dict[str, Path]) -> None:
    """The same clips through the same stages and marts in this process, one after the other, nothing killed."""
    from cv_platform.storage.schema import migrate

    url = stack.postgres.ensure_database("twin")
    migrate(url)
    platform = open_platform(settings(folder).model_copy(update={"postgres_url": url}), Database(url))
    for key, path in files.items():
        platform.restricted.put_file(key, path)
    ingest_listing(platform, limit=100)
    adopt_versions(platform.database, current_versions(platform))
    for stage in STAGES:
        run_named_stage(platform, stage, Scope())
    build(platform.database, folder / "dbt", k=platform.settings.suppression_k)
    platform.database.close()


def twin_database(stack: Stack) -> Database:
    """The twin's database."""
    return Database(stack.postgres.ensure_database("twin"))
