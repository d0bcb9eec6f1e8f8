"""`cv-platform settings`: every setting, as it is here or as a page of the documentation."""

from __future__ import annotations

import re
from typing import Annotated, Any, get_args

import typer
from pydantic import SecretStr

from cv_platform.commands.console import JsonOption, out, print_json
from cv_platform.settings import Settings, get_settings

_SECRET = re.compile(r"password|secret|token|access_key")


def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/settings.md.")] = False,
    json: JsonOption = False,
) -> None:
    """Show every setting: its environment variable, its value here, what it means. Secrets are not shown."""
    if markdown:
        typer.echo(markdown_page(), nl=False)
        return
    here = get_settings()
    rows = {variable(name): shown(name, getattr(here, name)) for name in Settings.model_fields}
    if json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table("variable", "value here", "meaning")
    for name, field in Settings.model_fields.items():
        changed = name in here.model_fields_set
        table.add_row(variable(name), rows[variable(name)], field.description or "", style="bold" if changed else None)
    out.print(table)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"CV_PLATFORM_{name.upper()}"


def markdown_page() -> str:
    """The page docs/settings.md, made from the class alone."""
    lines = [
        "# Settings",
        "",
        "Every setting is an environment variable. Made by `cv-platform settings --markdown`; a test keeps it so.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{_plain(field.default)}`"
        choices = _choices(field.annotation)
        allowed = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
        lines.append(f"| `{variable(name)}` | {default} | {field.description}{allowed} |")
    return "\n".join(lines) + "\n"


def _choices(annotation: Any) -> tuple[str, ...]:
    arguments = get_args(annotation)
    return arguments if arguments and all(isinstance(argument, str) for argument in arguments) else ()


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown(name: str, value: object) -> str:
    """A value as it may be shown: no password, neither as a setting nor within an address."""
    if value is None:
        return ""
    if _SECRET.search(name) or isinstance(value, SecretStr):
        return "•••"
    if name.endswith(("key_encryption_key", "key_encryption_keys")):
        # The name of a source may be shown; what was put there by mistake may be the key itself.
        return ",".join(part if re.match(r"(file|env|kms):", part) else "•••" for part in str(value).split(","))
    return re.sub(r"(://[^:@/]*):[^@/]+@", r"\1:•••@", _plain(value))
