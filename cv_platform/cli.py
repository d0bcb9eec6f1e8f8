"""`cv-platform …`: the root of the command line. What a command does is in `commands/`.

Those modules import nothing heavy until a command runs: `cv-platform --help` answers at once.
"""

from __future__ import annotations

import sys

import typer
from pydantic import ValidationError

from cv_platform.commands import (
    access,
    anonymise,
    audit,
    clips,
    demo,
    doctor,
    erasure,
    holds,
    keys,
    metrics,
    models,
    policy,
    query,
    settings,
    stack,
)
from cv_platform.commands.console import err

app = typer.Typer(
    name="cv-platform",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A computer-vision data platform: clips in; detections, tracks, face-blurred clips and analysts' tables out.",
    epilog="Settings are environment variables CV_PLATFORM_…; docs/settings.md lists them.",
)

app.command()(demo.demo)
app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.env)
app.command()(clips.upload)
app.command()(clips.status)
app.add_typer(clips.app, name="clips")
app.add_typer(clips.quarantine_app, name="quarantine")
app.add_typer(anonymise.app, name="anonymise")
app.add_typer(models.app, name="models")
app.add_typer(policy.app, name="policy")
app.add_typer(erasure.app, name="erasure")
app.command()(access.access)
app.add_typer(audit.app, name="audit")
app.add_typer(holds.app, name="hold")
app.add_typer(keys.app, name="keys")
app.command()(query.query)
app.command()(metrics.metrics)
app.command()(doctor.doctor)
app.command()(settings.settings)


def main() -> None:
    """The console script: errors that a user can mend are one message, without a stack trace."""
    try:
        app()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"])
            found = settings.shown(name, problem["input"])
            err.print(f"CV_PLATFORM_{name.upper()}: {problem['msg']} (found {found!r})", style="red", markup=False)
        sys.exit(2)
    except Exception as error:
        if not _mendable(error):
            raise
        err.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        err.print("`cv-platform doctor` checks every part and says how to mend it.", style="dim")
        sys.exit(1)


def _mendable(error: Exception) -> bool:
    """Whether an error says by itself what is wrong: the stack's own, or a server that does not answer."""
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    return bool(
        kinds
        & {
            "cv_platform.embedded.stack.StackError",
            "cv_platform.embedded.postgres.PostgresError",
            "cv_platform.embedded.redis.RedisError",
            "cv_platform.governance.keys.KeyEncryptionKeyError",
            "psycopg.OperationalError",
            "psycopg_pool.PoolTimeout",
            "redis.exceptions.ConnectionError",
            "builtins.FileNotFoundError",
            "builtins.PermissionError",
        }
    )
