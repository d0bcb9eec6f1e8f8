"""Worlds with footage that has passed every stage: made once a process, copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from cv_platform.pipeline.publishing import write_preview
from cv_platform.settings import Settings
from cv_platform.storage.ledger.versions import adopt_versions
from cv_platform_tests.pipeline.world import MORNING, VERSIONS, World, short_clip
from cv_platform_tests.servers import TestServers

CANARY = b"canary-9f2d1c"


def film(world: World, folder: Path) -> World:
    """Two cameras with three clips each, one after the other without a gap; the first clip of cam1 has a canary."""
    adopt_versions(world.database, VERSIONS)
    for camera in ("cam1", "cam2"):
        for n in range(3):
            path = short_clip(folder / f"{camera}-{n}.mp4", first_level=10 * n + (camera == "cam2"))
            if (camera, n) == ("cam1", 0):
                # A box that players skip (ISO/IEC 14496-12, 8.1.2).
                path.write_bytes(path.read_bytes() + (8 + len(CANARY)).to_bytes(4, "big") + b"free" + CANARY)
            world.upload(path, MORNING + timedelta(seconds=2 * n), camera=camera)
    world.ingest()
    world.run()
    for (clip_id,) in world.rows("SELECT clip_id FROM cv.clips"):
        assert write_preview(world.platform, clip_id, b"picture of " + str(clip_id).encode()) is not None
    return world


@pytest.fixture(scope="session")
def film_template(servers: TestServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A database and a folder, with `state` and the `clips` that were uploaded, to be copied."""
    name = f"filmed_{uuid4().hex[:12]}"
    folder = tmp_path_factory.mktemp("filmed")
    url = servers.postgres().ensure_database(name, template=servers.platform_template())
    world = film(World.at(Settings(state_dir=folder / "state", postgres_url=url)), folder / "clips")
    world.database.close()  # one that is in use cannot be copied
    yield name, folder
    servers.postgres().drop_database(name)


@pytest.fixture
def clips(film_template: tuple[str, Path]) -> Path:
    """The folder with the clips that were uploaded, as `cam1-0.mp4`."""
    return film_template[1] / "clips"


@pytest.fixture
def make_filmed(
    film_template: tuple[str, Path], servers: TestServers, redis_url: str, tmp_path: Path
) -> Iterator[Callable[[], World]]:
    """Makes copies, each with a database and a folder of its own."""
    template, folder = film_template
    made: list[tuple[str, World]] = []

    def make() -> World:
        name = f"film_{uuid4().hex[:12]}"
        url = servers.postgres().ensure_database(name, template=template)
        state = tmp_path / name
        shutil.copytree(folder / "state", state)
        made.append((name, World.at(Settings(state_dir=state, postgres_url=url, redis_url=redis_url))))
        return made[-1][1]

    yield make
    for name, world in made:
        world.database.close()
        servers.postgres().drop_database(name)
