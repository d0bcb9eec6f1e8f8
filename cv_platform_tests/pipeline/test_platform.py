"""The work root: what a living process holds stays, whatever else is there goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cv_platform.pipeline.platform import sweep_scratch, sweep_unfinished_uploads
from cv_platform_tests.pipeline.world import World

HOLDER = """
import sys
from cv_platform_tests.pipeline.world import World
from cv_platform.settings import Settings
with World.at(Settings()).platform.scratch() as folder:
    (folder / "clip").write_bytes(b"faces")
    print(folder, flush=True)
    sys.stdin.read()
"""


def hold(world: World) -> tuple[subprocess.Popen[str], Path]:
    """A process with a work folder, in which raw bytes lie; and the folder."""
    environment = {
        **os.environ,
        "CV_PLATFORM_STATE_DIR": str(world.settings.state_dir),
        "CV_PLATFORM_POSTGRES_URL": str(world.settings.postgres_url),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_sweep_knows_the_living_from_the_dead(world: World) -> None:
    process, folder = hold(world)
    try:
        assert (folder / "clip").read_bytes() == b"faces"
        assert sweep_scratch(world.settings) == 0
        assert (folder / "clip").exists()
    finally:
        process.kill()
        process.communicate()
    with world.platform.scratch() as mine:
        assert sweep_scratch(world.settings) == 1
        assert (folder.exists(), mine.exists()) == (False, True)


def test_whatever_else_lies_in_the_work_root_goes(world: World) -> None:
    with world.platform.scratch():
        pass
    root = world.settings.scratch
    (root / "clip.mp4").write_bytes(b"faces")
    (root / "work-0-left").mkdir()
    (root / "link").symlink_to(root)
    (root / "dbt").mkdir()
    assert sweep_scratch(world.settings) == 3
    assert [entry.name for entry in root.iterdir()] == ["dbt"]
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_scratch_file_has_no_name(world: World) -> None:
    with world.platform.scratch_file() as file:
        file.write(b"faces")
        assert list(world.settings.scratch.iterdir()) == []
        file.seek(0)
        assert file.read() == b"faces"


def test_parts_that_killed_uploads_left_are_deleted(world: World) -> None:
    store = world.platform.restricted
    store.put_bytes("raw/north/a.mp4", b"whole")
    assert store.folder is not None
    part = store.folder / "raw" / "north" / "b.mp4#1"
    part.write_bytes(b"faces")
    assert sweep_unfinished_uploads(world.platform) == 0  # it may be on its way
    os.utime(part, (0, 0))
    assert sweep_unfinished_uploads(world.platform) == 1
    assert [info.key for info in store.list("raw")] == ["raw/north/a.mp4"]
