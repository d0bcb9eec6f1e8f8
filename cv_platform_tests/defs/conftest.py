"""What tests of sensors need: settings that name no model file, clips in the ledger, one tick at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from cv_platform.pipeline.keys import upload_key
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.registration import Upload, register_uploads


@pytest.fixture
def light(settings: Settings) -> Settings:
    """No model file is looked for, no interval holds a sensor back."""
    names = {"detectors": "hog_people", "face_detector": "hog_people", "face_verifier": "hog_people"}
    return settings.model_copy(update={**names, "min_run_interval_s": 0.0, "max_requests_per_tick": 5})


@pytest.fixture
def ledger(light: Settings) -> Iterator[Database]:
    database = Database(str(light.postgres_url), max_size=3)
    yield database
    database.close()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance of its own: only what a sensor asks of it is the point here."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def noon(days_ago: int) -> datetime:
    """Noon UTC of a day; tomorrow's is `days_ago=-1`."""
    today = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    return today - timedelta(days=days_ago)


@pytest.fixture
def add_clip(ledger: Database) -> Callable[..., None]:
    """Register a clip at a site and time, as an upload that was found."""

    def add(site: str, at: datetime) -> None:
        key = upload_key(site, f"{site}-cam", at)
        register_uploads(ledger, [Upload(key, "etag", 1000, site, f"{site}-cam", at)])

    return add
