"""What work is done with: settings, stores, a folder for temporary bytes, and the parts that tests may swap."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cv_platform.governance.policy import Policy
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform.storage.hot import HotStore
from cv_platform.storage.objects import ObjectStore

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

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder of this piece of work under the one 0700 work root; gone afterwards."""
        root = self.settings.scratch
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


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


def sweep_scratch(settings: Settings) -> int:
    """Delete what killed processes left in the work root; returns how many folders went."""
    root = settings.scratch
    if not root.is_dir():
        return 0
    gone = 0
    for folder in root.iterdir():
        owner = folder.name.split("-", 1)[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)
            gone += 1
    return gone
