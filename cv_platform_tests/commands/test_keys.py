"""`cv-platform keys` and `cv-platform clips`: the key-encryption key from the command line, and a clip in the clear."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cv_platform.cli import app
from cv_platform.governance.audit import entries
from cv_platform.settings import Settings, get_settings
from cv_platform.storage.ledger.clip_keys import destroy_keys
from cv_platform.storage.ledger.published import published_clips
from cv_platform_tests.pipeline.world import World, short_clip

Run = Callable[..., Result]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on the test's own servers; words like NAME=value set a setting for it and those after it."""
    for name, value in {
        "STATE_DIR": settings.state_dir,
        "POSTGRES_URL": settings.postgres_url,
        "REDIS_URL": settings.redis_url,
        "DAGSTER_POSTGRES_URL": str(settings.postgres_url).replace("postgresql:", "postgresql+psycopg2:", 1),
    }.items():
        monkeypatch.setenv(f"CV_PLATFORM_{name}", str(value))

    def invoke(*arguments: str, **variables: str) -> Result:
        for name, value in variables.items():
            monkeypatch.setenv(f"CV_PLATFORM_{name}", value)
        get_settings.cache_clear()
        return CliRunner().invoke(app, arguments)

    return invoke


@pytest.fixture
def published(settings: Settings, tmp_path: Path) -> World:
    """A platform with one clip, published."""
    world = World.at(settings)
    world.upload(short_clip(tmp_path / "a.mp4", frames=2))
    world.ingest()
    world.run("raw_clips", "blurred_clips")
    return world


def test_a_published_clip_in_the_clear(run: Run, published: World, tmp_path: Path) -> None:
    [clip] = published_clips(published.database)
    assert json.loads(run("clips", "list", "--json").stdout)[0]["clip_id"] == str(clip.clip_id)
    assert str(clip.clip_id) in run("clips", "list", "--site", "north", "--day", "2026-03-01").stdout
    assert "no clip is published" in run("clips", "list", "--day", "2026-03-02").stdout
    target = tmp_path / "out.mp4"
    got = run("clips", "get", str(clip.clip_id), "-o", str(target), "--by", "officer")
    assert got.exit_code == 0, got.output
    assert hashlib.sha256(target.read_bytes()).hexdigest() == clip.sha256
    assert target.stat().st_mode & 0o077 == 0
    certificate = json.loads(target.with_name("out.mp4.certificate.json").read_text())
    assert certificate["output_sha256"] == clip.sha256
    [entry] = entries(published.database)
    assert (entry.actor, entry.action, entry.details) == ("officer", "clip.read", {"clip": str(clip.clip_id)})
    assert run("clips", "get", str(clip.clip_id), "-o", str(target)).exit_code == 2  # nothing is overwritten
    with published.database.transaction() as connection:
        destroy_keys(connection, [clip.clip_id])
    late = run("clips", "get", str(clip.clip_id), "-o", str(tmp_path / "late.mp4"))
    assert (late.exit_code, (tmp_path / "late.mp4").exists()) == (1, False)
    assert "key was destroyed" in late.output
    assert [entry.action for entry in entries(published.database)] == ["clip.read"]  # nobody read it


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("clips", "get", "x", "-o", "f"), "a clip's id is a UUID"),
        (("clips", "list", "--day", "today"), "allowed is a date"),
    ],
)
def test_mistakes_are_said(run: Run, arguments: tuple[str, ...], told: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert told in result.output


def test_a_key_encryption_key_is_changed_from_the_command_line(run: Run, published: World, tmp_path: Path) -> None:
    status = json.loads(run("keys", "status", "--json").stdout)
    assert status == {"current": status["current"], "keys": {status["current"]: 1}, "destroyed": 0}
    made = run("keys", "new", str(tmp_path / "kek"))
    source = made.stdout.strip().removeprefix("CV_PLATFORM_KEY_ENCRYPTION_KEY=")
    assert source == f"file:{tmp_path / 'kek'}"
    assert (tmp_path / "kek").read_text().strip() not in made.stdout
    assert "never overwritten" in run("keys", "new", str(tmp_path / "kek")).output
    refused = run("keys", "status", KEY_ENCRYPTION_KEY=source)
    assert refused.exit_code == 1
    assert "keys rotate" in refused.output
    old = f"file:{published.settings.state_dir / 'key-encryption-key'}"
    assert "wraps them anew" in run("keys", "status", PREVIOUS_KEY_ENCRYPTION_KEYS=old).stdout
    assert json.loads(run("keys", "rotate", "--json").stdout) == {"keys": 1, "retired": [status["current"]]}
    assert run("keys", "status", PREVIOUS_KEY_ENCRYPTION_KEYS="").exit_code == 0
    [clip] = published_clips(published.database)
    assert run("clips", "get", str(clip.clip_id), "-o", str(tmp_path / "out.mp4")).exit_code == 0


def test_scrubbing_says_what_it_did(run: Run) -> None:
    assert json.loads(run("keys", "scrub", "--json").stdout)["rewritten"] is False
    assert "written anew" in run("keys", "scrub", "--full").stdout


def test_a_key_put_into_the_setting_itself_is_not_shown(run: Run) -> None:
    secret = "0123456789abcdef" * 4
    for arguments in (("keys", "status"), ("settings",), ("settings", "--json")):
        assert secret not in run(*arguments, KEY_ENCRYPTION_KEY=secret, COLUMNS="400").output
