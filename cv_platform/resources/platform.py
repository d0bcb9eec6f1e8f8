"""The platform as a Dagster resource: stores and parts, opened where a step or a tick first needs them."""

from __future__ import annotations

from logging import Logger
from typing import Any

from cv_platform.pipeline.platform import Parts, Platform, open_platform
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform.storage.provision import database_at


class PlatformResource:
    """Opens the platform that settings describe; a plain object, so that a test hands in one with its own parts.

    Args:
        settings: of this process.
        parts: vision parts to use instead of those that the settings name.
    """

    def __init__(self, settings: Settings, parts: Parts | None = None) -> None:
        self.settings = settings
        self.parts = parts or Parts()

    def database(self) -> Database:
        """Ledger and warehouse. Raises RuntimeError where no address is set."""
        if self.settings.postgres_url is None:
            raise RuntimeError(
                "CV_PLATFORM_POSTGRES_URL is not set; start the embedded stack with `cv-platform up` and take its"
                ' addresses with `eval "$(cv-platform env)"`, or set the address of your own PostgreSQL'
            )
        return database_at(self.settings.postgres_url)

    def open(self, *, run_id: str = "local", log: Logger | Any = None) -> Platform:
        """A platform for one step or tick."""
        platform = open_platform(self.settings, self.database())
        platform.run_id = run_id
        platform.parts = self.parts
        if log is not None:
            platform.log = log
        return platform
