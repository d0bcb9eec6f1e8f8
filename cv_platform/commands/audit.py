"""`cv-platform audit verify|show|export`: who did what, and whether anyone changed the record."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from cv_platform.commands.console import JsonOption, connected_settings, err, fail, out, print_json

app = typer.Typer(no_args_is_help=True, help="The audit log: append-only, each entry chained to the one before it.")


@app.command("verify")
def verify_chain(
    certificates: Annotated[
        list[Path] | None,
        typer.Option("--certificate", help="Certificates of erasure: the heads in them must stand in the chain."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check the chain in the database and the one exported to the store. Exit status 1: it was tampered with."""
    from cv_platform.governance.audit import AuditHead, head_of
    from cv_platform.governance.audit_export import verify_audit

    platform = _platform()
    known = []
    for path in certificates or []:
        try:
            head = jsonlib.loads(path.read_text())["audit_head"]
            known.append(AuditHead(int(head["seq"]), str(head["entry_hash"])))
        except (OSError, ValueError, KeyError, TypeError):
            fail(f"{path} is no certificate of erasure", code=2)
    found = list(verify_audit(platform.database, platform.cold, known=known))
    head = head_of(platform.database)
    if json:
        print_json({"entries": head.seq, "head": head.entry_hash, "problems": found})
    elif not found:
        out.print(f"good: {head.seq} entries, head {head.entry_hash}", markup=False)
    if found and not json:
        for problem in found:
            err.print(problem, style="red", markup=False)
    if found:
        raise typer.Exit(1)


@app.command()
def show(
    last: Annotated[int, typer.Option(help="How many entries, counted from the end.", min=1)] = 20,
    json: JsonOption = False,
) -> None:
    """Print the newest entries."""
    from cv_platform.governance.audit import entries, head_of

    database = _platform().database
    found = list(entries(database, after=max(0, head_of(database).seq - last)))
    if json:
        print_json([jsonlib.loads(entry.to_json()) for entry in found])
        return
    from rich.table import Table

    table = Table("entry", "at", "who", "what", "details")
    for entry in found:
        table.add_row(
            str(entry.seq), f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.actor, entry.action, jsonlib.dumps(entry.details)
        )
    out.print(table)


@app.command()
def export(json: JsonOption = False) -> None:
    """Write what is new to the store, under Object Lock where the bucket has it. A daily job does the same."""
    from cv_platform.governance.audit_export import export_audit

    platform = _platform()
    done = export_audit(platform.database, platform.cold, keep=platform.policy.default_rules.keep.audit)
    if json:
        print_json(vars(done))
    else:
        lock = "kept by Object Lock" if done.locked or not done.files else "the store has no Object Lock"
        out.print(f"{done.entries} entries in {done.files} files; {lock}")
        if done.missing:
            err.print(f"{done.missing} of them had been exported before and were gone from the store", style="red")


def _platform() -> Any:
    from cv_platform.pipeline.platform import open_platform
    from cv_platform.storage.provision import database_at

    settings = connected_settings()
    return open_platform(settings, database_at(str(settings.postgres_url)))
