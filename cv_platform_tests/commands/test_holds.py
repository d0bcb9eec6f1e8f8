"""`cv-platform hold`: placed, listed, shown and released by the ids that it prints."""

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
    return lambda *arguments: CliRunner().invoke(app, ["hold", *arguments])


def test_a_hold_s_life(run: Run, settings: Settings, tmp_path: Path) -> None:
    world = World.at(settings)
    world.upload(short_clip(tmp_path / "a.mp4", frames=2))
    world.ingest()
    placed = run("place", "--reason", "case 1", "--camera", "cam1", "--by", "officer", "--json")
    assert placed.exit_code == 0, placed.output
    told = json.loads(placed.stdout)
    assert told["clips"] == 1
    [listed] = json.loads(run("list", "--json").stdout)
    assert (listed["hold"], listed["camera_id"], listed["reason"]) == (told["hold"], "cam1", "case 1")
    assert "camera cam1" in run("list").stdout
    shown = json.loads(run("show", told["hold"], "--json").stdout)
    assert (shown["in_force"], shown["clips"]) == (True, {"in_progress": 1})
    assert run("release", told["hold"], "--by", "officer").exit_code == 0
    assert run("release", told["hold"], "--by", "officer").exit_code == 1
    assert json.loads(run("list", "--json").stdout) == []
    assert "released" in run("list", "--all").stdout
    world.database.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["place", "--reason", "r"], "a site, a camera or a clip"),
        (["place", "--reason", " ", "--camera", "c"], "needs a reason"),
        (["place", "--reason", "r", "--camera", "c", "--since", "2026-03-01T08:00:00"], "without an offset"),
        (["place", "--reason", "r", "--camera", "c", "--until", "2020-01-01T00:00:00Z"], "has passed"),
        (["place", "--reason", "r", "--clip", "x"], "no id"),
        (["show", "00000000-0000-0000-0000-000000000000"], "no hold"),
    ],
)
def test_what_cannot_be_is_one_clear_error(run: Run, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert says in result.output
