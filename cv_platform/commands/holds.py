"""`cv-platform hold place|release|list|show`: legal holds, while which nothing that they cover is deleted."""

from __future__ import annotations

import getpass
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cv_platform.commands.console import JsonOption, connected_settings, fail, out, print_json

if TYPE_CHECKING:
    from cv_platform.governance.holds import Hold
    from cv_platform.storage.database import Database

app = typer.Typer(no_args_is_help=True, help="Legal holds: what they cover is not deleted, by anything.")

ByOption = Annotated[str | None, typer.Option(help="Who does it; without one: the user of this shell.")]
HoldArgument = Annotated[str, typer.Argument(help="The hold's id, as `hold list` shows it.")]


@app.command()
def place(
    reason: Annotated[str, typer.Option(help="Why, such as a case number. Name no person.")],
    site: Annotated[str | None, typer.Option(help="All clips of a site.")] = None,
    camera: Annotated[str | None, typer.Option(help="All clips of a camera.")] = None,
    clip: Annotated[str | None, typer.Option(help="One clip, by its id.")] = None,
    since: Annotated[str | None, typer.Option(help="Captured at or after, ISO 8601 with offset.")] = None,
    before: Annotated[str | None, typer.Option(help="Captured before, ISO 8601 with offset.")] = None,
    until: Annotated[str | None, typer.Option(help="When the hold ends by itself; without one: by a release.")] = None,
    by: ByOption = None,
    json: JsonOption = False,
) -> None:
    """Place a hold on clips; those that come later and fit are held too. Says how many it covers now."""
    from cv_platform.governance.holds import HoldScope, place_hold

    try:
        scope = HoldScope(site, camera, _id(clip), _moment("--since", since), _moment("--before", before))
        hold_id, covered = place_hold(
            _database(), scope, reason=reason, by=by or getpass.getuser(), until=_moment("--until", until)
        )
    except ValueError as error:
        fail(str(error), code=2)
    if json:
        print_json({"hold": str(hold_id), "clips": covered})
    else:
        out.print(f"hold {hold_id} covers {covered} clips now", markup=False)


@app.command()
def release(hold: HoldArgument, by: ByOption = None, json: JsonOption = False) -> None:
    """Release a hold. Clips that no other hold covers follow their terms again. Exit status 1: it was not in force."""
    from cv_platform.governance.holds import release_hold

    released = release_hold(_database(), _required(hold), by=by or getpass.getuser())
    if json:
        print_json({"released": released})
    elif released:
        out.print("released; what the hold put off is done by the next run of the job `expire`")
    if not released:
        fail("no hold in force has that id; `cv-platform hold list` shows them")


@app.command("list")
def list_(
    all_: Annotated[bool, typer.Option("--all", help="Also those that were released or have ended.")] = False,
    json: JsonOption = False,
) -> None:
    """List holds in force, newest first."""
    from rich.table import Table

    from cv_platform.governance.holds import list_holds

    holds = list_holds(_database(), all_=all_)
    if json:
        print_json([_told(hold) for hold in holds])
    elif not holds:
        out.print("no hold is in force" if not all_ else "there never was a hold")
    else:
        table = Table("hold", "covers", "reason", "placed by", "ends")
        for hold in holds:
            ends = "released" if hold.released_at else hold.until.isoformat() if hold.until else "when released"
            table.add_row(str(hold.hold_id), _covers(hold), hold.reason, hold.placed_by, ends)
        out.print(table)


@app.command()
def show(hold: HoldArgument, json: JsonOption = False) -> None:
    """Show one hold, and how many clips it covers now, by their state."""
    from cv_platform.governance.holds import covered_clips, list_holds

    database, hold_id = _database(), _required(hold)
    for found in list_holds(database, all_=True):
        if found.hold_id == hold_id:
            told = {**_told(found), "in_force": found.in_force(), "clips": covered_clips(database, hold_id)}
            if json:
                print_json(told)
            else:
                for name, value in told.items():
                    out.print(f"{name:<12} {'' if value is None else value}", markup=False)
            return
    fail("there is no hold of that id; `cv-platform hold list --all` shows all")


def _database() -> Database:
    from cv_platform.storage.provision import database_at

    return database_at(str(connected_settings().postgres_url))


def _told(hold: Hold) -> dict[str, Any]:
    scope = {name: None if value is None else str(value) for name, value in vars(hold.scope).items()}
    return {
        "hold": str(hold.hold_id),
        **scope,
        **{k: v for k, v in vars(hold).items() if k not in ("hold_id", "scope")},
    }


def _covers(hold: Hold) -> str:
    scope = hold.scope
    parts = [f"site {scope.site_id}" if scope.site_id else "", f"camera {scope.camera_id}" if scope.camera_id else ""]
    parts += [f"clip {scope.clip_id}" if scope.clip_id else ""]
    parts += [f"from {scope.starts_at.isoformat()}" if scope.starts_at else ""]
    parts += [f"before {scope.ends_at.isoformat()}" if scope.ends_at else ""]
    return ", ".join(part for part in parts if part)


def _id(text: str | None) -> uuid.UUID | None:
    return None if text is None else _required(text)


def _required(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        fail(f"{text!r} is no id; allowed is a UUID such as the lists show", code=2)


def _moment(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"{option} is {text!r}; allowed is ISO 8601 such as 2026-03-01T08:00:00+01:00", code=2)
    if moment.tzinfo is None:
        fail(f"{option} is {text!r} without an offset; add Z or one such as +01:00", code=2)
    return moment
