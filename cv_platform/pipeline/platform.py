"""What work is done with: settings, stores, a folder for temporary bytes, and the parts that tests may swap."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from cv_platform.governance.keys import ClipKeys, open_clip_keys
from cv_platform.governance.policy import Policy
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform.storage.hot import HotStore
from cv_platform.storage.ledger.log_secret import log_secret
from cv_platform.storage.objects import ObjectStore
from cv_platform.structured_logs import about, camera_reference

if TYPE_CHECKING:
    from cv_platform.storage.ledger.model import Clip
    from cv_platform.vision.anonymise import Certificate
    from cv_platform.vision.detectors.base import Detector
    from cv_platform.vision.tracking.base import Tracker


@dataclass
class Parts:
    """Makers of the vision parts; a test hands in its own. None means the ones that the settings name."""

    detector: Callable[[], Detector] | None = None
    anonymise: Callable[[Clip, Path, Path, Callable[[], bool]], Certificate] | None = None
    tracker: Callable[[], Tracker] | None = None


@dataclass
class Platform:
    """Everything that a stage needs.

    Attributes:
        restricted: store of raw clips, frames and quarantine.
        cold: store of published clips, Parquet and previews.
        hot: Redis, or None where there is none.
        run_id: who claims; Dagster's run id.
        log: takes lines without personal data.
        should_stop: asked between clips.
        progress: told (clips done, clips known to be open).
    """

    settings: Settings
    database: Database
    restricted: ObjectStore
    cold: ObjectStore
    hot: HotStore | None = None
    run_id: str = "local"
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("cv_platform"))
    should_stop: Callable[[], bool] = lambda: False
    progress: Callable[[int, int], None] = lambda done, waiting: None
    parts: Parts = field(default_factory=Parts)

    @cached_property
    def policy(self) -> Policy:
        """The policy in force. Raises PolicyError, FileNotFoundError."""
        return Policy.read(self.settings.policy_file)

    @cached_property
    def keys(self) -> ClipKeys:
        """Clips' keys. Raises KeyEncryptionKeyError where they cannot be opened."""
        return open_clip_keys(self.settings, self.database)

    @cached_property
    def _log_secret(self) -> bytes:
        return log_secret(self.database)

    @contextmanager
    def working_on(self, stage: str, clip_id: uuid.UUID, camera_id: str) -> Iterator[None]:
        """What is logged in this block is about that clip; its camera is named by a reference, never by its id."""
        camera = camera_reference(self._log_secret, camera_id)
        with about(run=self.run_id, stage=stage, clip=str(clip_id), camera=camera):
            yield

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder of this piece of work under the one 0700 work root; gone afterwards.

        Its lock ends with this process, however that ends: from then on `sweep_scratch` deletes it.
        """
        root = _work_root(self.settings)
        with _locked(root, fcntl.LOCK_SH):  # no sweep sees the folder before it is locked
            folder = Path(tempfile.mkdtemp(prefix="work-", dir=root))
            mine = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(mine, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(mine)

    @contextmanager
    def scratch_file(self) -> Iterator[BinaryIO]:
        """A file under the work root that has no name: nothing of it is left, not even by a process that is killed."""
        with tempfile.TemporaryFile(dir=_work_root(self.settings)) as file:
            yield cast("BinaryIO", file)


def open_platform(settings: Settings, database: Database) -> Platform:
    """The platform that settings describe, with stores made where they are folders."""
    restricted = ObjectStore(
        settings.raw_store_url,
        endpoint_url=settings.s3_endpoint_url,
        region=settings.s3_region,
        access_key_id=settings.restricted_s3_access_key_id,
        secret_access_key=secret.get_secret_value()
        if (secret := settings.restricted_s3_secret_access_key) is not None
        else None,
    )
    cold = ObjectStore(settings.store_url, endpoint_url=settings.s3_endpoint_url, region=settings.s3_region)
    hot = HotStore(settings.redis_url, ttl_s=settings.hot_ttl_s) if settings.redis_url else None
    return Platform(settings=settings, database=database, restricted=restricted, cold=cold, hot=hot)


_UNFINISHED_AFTER = timedelta(days=1)


def sweep_unfinished_uploads(platform: Platform) -> int:
    """Delete parts of objects that killed writers left in the stores: raw bytes that no listing shows."""
    places = [(platform.restricted, name) for name in ("raw", "vault", "frames")]
    places += [(platform.cold, name) for name in ("staging", "blurred", "previews", "detections")]
    return sum(store.sweep_unfinished(name, older_than=_UNFINISHED_AFTER) for store, name in places)


def sweep_scratch(settings: Settings) -> int:
    """Delete what processes that are gone left in the work root; returns how much. What is in use stays."""
    root = settings.scratch
    if not root.is_dir():
        return 0
    gone = 0
    with _locked(root, fcntl.LOCK_EX):
        for entry in root.iterdir():
            gone += _removed(entry)
    return gone


def _removed(entry: Path) -> bool:
    """Delete a folder that no process holds a lock on, and a file that should not be there."""
    if not entry.is_dir() or entry.is_symlink():
        entry.unlink(missing_ok=True)
        return True
    if entry.name == "dbt":
        return False  # the only other thing here; no raw bytes
    folder = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(entry, ignore_errors=True)
        return True
    finally:
        os.close(folder)


def _work_root(settings: Settings) -> Path:
    root = settings.scratch
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)
    return root


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
