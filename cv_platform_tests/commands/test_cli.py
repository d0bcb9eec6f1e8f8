"""The command line: quick to answer, clear when something is wrong, JSON where a script reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("demo", "up", "down", "env", "doctor", "settings")


def cv_platform(*arguments: str, state_dir: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the console script as a user does."""
    environment = {**os.environ, "CV_PLATFORM_STATE_DIR": str(state_dir), "COLUMNS": "200", **variables}
    command = [str(Path(sys.executable).with_name("cv-platform")), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_help_names_every_command(tmp_path: Path) -> None:
    result = cv_platform("--help", state_dir=tmp_path)
    assert result.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    result = cv_platform(command, "--help", state_dir=tmp_path)
    assert result.returncode == 0
    assert "--json" in result.stdout
    assert list(tmp_path.iterdir()) == [], "asking for help must leave nothing behind"


def test_asking_for_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, cv_platform.cli;"
        "print([m for m in ('dagster', 'cv2', 'av', 'onnxruntime', 'numba', 'numpy', 'torch', 'psycopg', 'boto3')"
        " if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_unknown_command_is_an_error_with_the_usage(tmp_path: Path) -> None:
    result = cv_platform("no-such-command", state_dir=tmp_path)
    assert result.returncode == 2
    assert "No such command" in result.stderr


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("CV_PLATFORM_LEASE_S", "-3", ["CV_PLATFORM_LEASE_S", "greater than 0", "-3"]),
        ("CV_PLATFORM_EXECUTOR", "threads", ["CV_PLATFORM_EXECUTOR", "in_process", "threads"]),
        ("CV_PLATFORM_POSTGRES_URL", "mysql://u:hidden@h/d", ["CV_PLATFORM_POSTGRES_URL", "postgresql://user@host"]),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(
    variable: str, value: str, says: list[str], tmp_path: Path
) -> None:
    result = cv_platform("settings", state_dir=tmp_path, **{variable: value})
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for words in says:
        assert words in result.stderr
    assert "hidden" not in result.stderr + result.stdout


def test_env_prints_exports_that_name_this_state(tmp_path: Path) -> None:
    result = cv_platform("env", state_dir=tmp_path / "state")
    assert result.returncode == 0
    assert all(line.startswith("export ") for line in result.stdout.splitlines())
    variables = json.loads(cv_platform("env", "--json", state_dir=tmp_path / "state").stdout)
    assert variables["CV_PLATFORM_DAGSTER_POSTGRES_URL"].startswith("postgresql+psycopg2://")
    assert variables["CV_PLATFORM_STATE_DIR"] == str(tmp_path / "state")
    assert not (tmp_path / "state" / "postgres").exists(), "printing addresses must start nothing"


def test_settings_hide_secrets(tmp_path: Path) -> None:
    result = cv_platform(
        "settings",
        "--json",
        state_dir=tmp_path,
        CV_PLATFORM_ANALYST_PASSWORD="hunter2",
        CV_PLATFORM_POSTGRES_URL="postgresql://me:hunter2@host/db",
    )
    shown = json.loads(result.stdout)
    assert "hunter2" not in result.stdout
    assert shown["CV_PLATFORM_POSTGRES_URL"] == "postgresql://me:•••@host/db"


def test_down_with_nothing_running_is_no_error(tmp_path: Path) -> None:
    result = cv_platform("down", "--json", state_dir=tmp_path / "state")
    assert result.returncode == 0
    assert json.loads(result.stdout) == {"stopped": {}}


def test_the_settings_page_is_up_to_date() -> None:
    from cv_platform.commands.settings import markdown_page
    from cv_platform_tests.conftest import REPOSITORY

    page = (REPOSITORY / "docs" / "settings.md").read_text()
    assert page == markdown_page(), "run: cv-platform settings --markdown > docs/settings.md"
