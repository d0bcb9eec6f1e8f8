"""`cv-platform policy`: a file is checked, shown, and held against what is in force before anything goes by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cv_platform.cli import app
from cv_platform.settings import Settings, get_settings
from cv_platform_tests.pipeline.world import World, short_clip

Run = Callable[..., Result]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on the test's own servers."""
    for name, value in {
        "STATE_DIR": settings.state_dir,
        "POSTGRES_URL": settings.postgres_url,
        "REDIS_URL": settings.redis_url,
        "DAGSTER_POSTGRES_URL": str(settings.postgres_url).replace("postgresql:", "postgresql+psycopg2:", 1),
    }.items():
        monkeypatch.setenv(f"CV_PLATFORM_{name}", str(value))
    get_settings.cache_clear()
    return lambda *arguments: CliRunner().invoke(app, ["policy", *map(str, arguments)])


def test_what_a_change_would_delete_is_said_first(run: Run, settings: Settings, tmp_path: Path) -> None:
    world = World.at(settings)
    world.upload(short_clip(tmp_path / "a.mp4", frames=2))
    world.ingest()
    world.execute("UPDATE cv.clips SET received_at = now() - interval '2 days'")
    [(size,)] = world.rows("SELECT size_bytes FROM cv.clips")
    file = tmp_path / "policy.yaml"
    file.write_text("defaults: {}")
    assert json.loads(run("diff", file, "--json").stdout) == {"same": True, "deletes": [], "over quota": []}
    assert "the same rules" in run("diff", file).stdout
    file.write_text("defaults: {keep: {raw: 100d}}")
    assert "nothing sooner" in run("diff", file).stdout
    file.write_text("defaults: {keep: {raw: 1d, cold: 100y}}\nquota: {restricted: 1B}")
    told = json.loads(run("diff", file, "--json").stdout)
    assert [(entry["data_class"], entry["items"]) for entry in told["deletes"]] == [("raw", 1)]
    [over] = told["over quota"]
    assert (over["store"], over["items"], over["bytes"], over["held_bytes"]) == ("restricted", 1, size, 0)
    answer = run("diff", file).stdout
    assert f"{size:,} bytes, would go" in answer
    assert "raw" in answer
    assert world.states() == {"in_progress": 1}  # it only says so


def test_a_file_that_is_none_says_where(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("defaults: {hide: {classes: [ghost]}}")
    refused = run("check", file)
    assert refused.exit_code == 1
    assert "ghost" in refused.output
    file.write_text("defaults: {keep: {raw: 5h}}")
    assert run("check", file).exit_code == 0
    assert "5h" in run("show", "north/gate", "--file", file).stdout
