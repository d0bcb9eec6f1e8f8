"""What child processes find in their environment: every setting that is not the default, and Dagster's home."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

import cv_platform
from cv_platform.settings import Settings

# Folder of the clone: it holds dagster.yaml and workspace.yaml.
REPOSITORY = Path(cv_platform.__file__).resolve().parent.parent

_PATHS = ("state_dir", "model_dir", "model_cache_dir", "work_root")

# One machine and few clips: somebody watches, so the sensors look often.
_NIMBLE = {"sensor_interval_s": 5, "min_run_interval_s": 5.0}


def absolute(settings: Settings) -> Settings:
    """The same settings with absolute folders, so that they mean the same in a child that runs elsewhere."""
    found = {name: value.expanduser().resolve() for name in _PATHS if (value := getattr(settings, name)) is not None}
    return settings.model_copy(update=found)


def nimble(settings: Settings) -> Settings:
    """The same settings with the embedded stack's short intervals, where none were chosen."""
    return settings.model_copy(
        update={name: value for name, value in _NIMBLE.items() if name not in settings.model_fields_set}
    )


def dagster_home(settings: Settings) -> Path:
    """Dagster's home of the embedded stack: its logs lie there, its dagster.yaml is the clone's own.

    Raises:
        FileNotFoundError: the package runs outside a clone.
    """
    source = REPOSITORY / "dagster.yaml"
    if not source.exists():
        raise FileNotFoundError(
            f"no dagster.yaml in {REPOSITORY}: the embedded stack runs from a clone (pip install -e .), not from a "
            "package installed alone; set DAGSTER_HOME and the CV_PLATFORM_* addresses, and start Dagster yourself"
        )
    home = settings.state_dir.resolve() / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    link = home / "dagster.yaml"
    if not link.is_symlink() or link.readlink() != source:
        link.unlink(missing_ok=True)
        link.symlink_to(source)
    return home


def exports(settings: Settings) -> dict[str, str]:
    """The variables that make another process see these settings, by name."""
    defaults = Settings.model_construct()
    variables = {
        f"CV_PLATFORM_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in settings
        if value is not None and value != getattr(defaults, name)
    }
    variables["CV_PLATFORM_STATE_DIR"] = str(settings.state_dir)
    variables["DAGSTER_HOME"] = str(dagster_home(settings))
    return variables


def child_environment(settings: Settings, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment of a child: ours, the settings over it, and no word home from the tools it uses."""
    ours = dict(os.environ if base is None else base)
    caches = settings.state_dir / "cache"
    quiet = {
        "PYTHONUNBUFFERED": "1",
        "DO_NOT_TRACK": "1",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        # A home may be missing or read-only.
        "MPLCONFIGDIR": str(caches / "matplotlib"),
    }
    return {**quiet, **ours, **exports(settings)}


def shell_lines(variables: Mapping[str, str]) -> str:
    """`export NAME='value'`, one a line, for `eval "$(cv-platform env)"`."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in sorted(variables.items()))
