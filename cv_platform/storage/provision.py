"""Databases ready for use: one pool a URL and process, schema brought up to date once."""

from __future__ import annotations

import threading

from cv_platform.storage.database import Database

_ready: dict[str, Database] = {}
_lock = threading.Lock()


def database_at(url: str) -> Database:
    """The database at `url`, migrated; the same object for the same URL in this process."""
    with _lock:
        if url not in _ready:
            from cv_platform.storage.schema import migrate

            migrate(url)
            _ready[url] = Database(url)
        return _ready[url]
