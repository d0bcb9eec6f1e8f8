"""Worlds: platforms with their own database and folder, beside each other in one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cv_platform.settings import Settings
from cv_platform_tests.pipeline.filmed import clips, film_template, make_filmed
from cv_platform_tests.pipeline.world import World, with_settings
from cv_platform_tests.servers import TestServers

__all__ = ["clips", "film_template", "make_filmed"]


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    """An empty platform on a folder."""
    made = World.at(settings)
    yield made
    made.database.close()


@pytest.fixture
def make_world(settings: Settings, servers: TestServers, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes platforms, each with a database and folder of its own; takes settings to change."""
    names: list[str] = []
    worlds: list[World] = []

    def make(**changes: Any) -> World:
        name = f"world_{uuid4().hex[:12]}"
        names.append(name)
        url = servers.postgres().ensure_database(name, template=servers.platform_template())
        changes = {"postgres_url": url, "state_dir": tmp_path / name, **changes}
        worlds.append(World.at(with_settings(settings, **changes)))
        return worlds[-1]

    yield make
    for world in worlds:
        world.database.close()
    for name in names:
        servers.postgres().drop_database(name)
