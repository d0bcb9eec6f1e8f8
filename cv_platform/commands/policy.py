"""`cv-platform policy check|show|diff`: what is ruled, and what a change would delete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cv_platform.commands.console import JsonOption, connected_settings, fail, out, print_json

app = typer.Typer(no_args_is_help=True, help="How long data is kept, what is hidden, what is looked for.")

FileArgument = Annotated[
    Path | None, typer.Argument(help="A policy file; without one: the one that CV_PLATFORM_POLICY_FILE names.")
]


@app.command()
def check(file: FileArgument = None) -> None:
    """Check a policy file: every word, duration, class and time zone. Exit status 1: it cannot be used."""
    policy = _read(file)
    out.print(f"good: {len(policy.sites)} sites with rules of their own, digest {policy.digest[:12]}", markup=False)


@app.command()
def show(
    place: Annotated[str, typer.Argument(help="A site, or site/camera; * is every other place.")] = "*",
    file: Annotated[Path | None, typer.Option(help="A policy file instead of the one in force.")] = None,
    json: JsonOption = False,
) -> None:
    """Print all that is ruled for a place, defaults filled in."""
    policy = _read(file)
    site, _, camera = place.partition("/")
    rules = (policy.default_rules if place == "*" else policy.rules_for(site, camera or None)).model_dump(mode="json")
    if json:
        print_json(rules)
        return
    import yaml

    out.print(yaml.safe_dump(rules, sort_keys=False, allow_unicode=True), markup=False, end="")


@app.command()
def diff(
    file: Annotated[Path, typer.Argument(help="The policy that would follow.", exists=True, dir_okay=False)],
    json: JsonOption = False,
) -> None:
    """Say what would be deleted if this policy followed the one in force. Changes nothing."""
    from rich.table import Table

    from cv_platform.governance.adoption import consequences, quota_consequences
    from cv_platform.governance.policy import format_duration
    from cv_platform.storage.provision import database_at

    before, after = _read(None), _read(file)
    database = database_at(str(connected_settings().postgres_url))
    found, over = consequences(database, before, after), quota_consequences(database, before, after)
    if json:
        rows: list[dict[str, Any]] = [
            {**vars(entry), "before": format_duration(entry.before), "after": format_duration(entry.after)}
            for entry in found
        ]
        print_json(
            {"same": before.digest == after.digest, "deletes": rows, "over quota": [vars(entry) for entry in over]}
        )
        return
    for entry in over:
        out.print(
            f"{entry.place}, {entry.store} store: {entry.after:,} bytes would be allowed; the {entry.items:,} oldest"
            f" pieces of clips, {entry.bytes:,} bytes, would go; {entry.held_bytes:,} bytes too many would stay held"
        )
    if over and not found:
        return
    if not found:
        out.print("the same rules" if before.digest == after.digest else "it would delete nothing sooner than now")
        return
    table = Table("place", "what", "kept now", "kept then", "clips deleted at once", title="what this would delete")
    for change in found:
        table.add_row(
            change.place,
            change.data_class,
            format_duration(change.before),
            format_duration(change.after),
            str(change.items),
        )
    out.print(table)


def _read(file: Path | None) -> Any:
    from cv_platform.governance.policy import Policy, PolicyError
    from cv_platform.pipeline.rules import check_classes
    from cv_platform.settings import get_settings

    path = file or get_settings().policy_file
    try:
        policy = Policy.read(path)
        check_classes(policy)
    except (PolicyError, FileNotFoundError) as error:
        fail(str(error))
    return policy
