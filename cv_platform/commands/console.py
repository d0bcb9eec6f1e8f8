"""What every command shares: where it writes, how it fails, and how it reaches the stack.

Results go to standard output, progress and errors to standard error, so that `--json` can be piped.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from cv_platform.settings import Settings, get_settings

if TYPE_CHECKING:
    from cv_platform.embedded.stack import Stack

# A pipe or a log has no width of its own: wide enough for the tables.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, soft_wrap=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for scripts.")]


def print_json(value: Any) -> None:
    """A result as JSON, dates and paths as text."""
    typer.echo(json.dumps(value, indent=2, default=str))


def fail(message: str, *, code: int = 1) -> NoReturn:
    """End with one clear message on standard error."""
    err.print(message, style="red", markup=False)
    raise typer.Exit(code)


def stack() -> Stack:
    """The embedded stack of this process's settings; nothing is started."""
    from cv_platform.embedded.stack import Stack

    return Stack(get_settings())


def connected_settings() -> Settings:
    """Settings with every address filled in; embedded servers that are needed and do not run are started."""
    return stack().start_servers()
