"""The ledger's and the warehouse's PostgreSQL."""

from __future__ import annotations

import dagster as dg

from cv_platform.storage.database import Database


class DatabaseResource(dg.ConfigurableResource[Database]):
    """PostgreSQL by URL. The schema is brought up to date the first time that a process asks for it."""

    url: str

    def get(self) -> Database:
        """The database, with the newest schema; opens no connection of its own pool yet."""
        from cv_platform.storage.provision import database_at

        return database_at(self.url)
