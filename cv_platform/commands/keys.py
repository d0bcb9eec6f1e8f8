"""`cv-platform keys status|new|rotate|scrub`: the key-encryption key, and what becomes of destroyed keys."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cv_platform.commands.console import JsonOption, connected_settings, fail, out, print_json

if TYPE_CHECKING:
    from cv_platform.governance.keys import ClipKeys
    from cv_platform.storage.database import Database

app = typer.Typer(
    no_args_is_help=True, help="Clips' keys: what was sealed with a key that is destroyed cannot be read by anyone."
)

ByOption = Annotated[str | None, typer.Option(help="Who does it; without one: the user of this shell.")]


@app.command()
def status(json: JsonOption = False) -> None:
    """Show which key-encryption key is in use, and how many clips' keys each wraps. Exit status 1: some do not open."""
    from cv_platform.storage.ledger.clip_keys import count_keys

    database, keys = _opened()
    counts, current = count_keys(database), keys.current.kek_id
    if json:
        print_json({"current": current, "keys": counts.by_kek, "destroyed": counts.destroyed})
        return
    out.print(f"in use: {current}", markup=False)
    for kek_id, count in sorted(counts.by_kek.items()):
        waits = "" if kek_id == current else "  (`cv-platform keys rotate` wraps them anew)"
        out.print(f"{count} clips' keys are wrapped by {kek_id}{waits}", markup=False)
    out.print(f"{counts.destroyed} clips' keys are destroyed")


@app.command()
def new(file: Annotated[Path, typer.Argument(help="Where it goes; must not exist.")]) -> None:
    """Make a key-encryption key in a file that only you can read. Keep a copy apart: without it no clip can be read."""
    from cv_platform.governance.keys import write_new_key

    try:
        write_new_key(file)
    except FileExistsError:
        fail(f"{file} is there already; a key is never overwritten")
    out.print(f"CV_PLATFORM_KEY_ENCRYPTION_KEY=file:{file.resolve()}", markup=False)


@app.command()
def rotate(by: ByOption = None, json: JsonOption = False) -> None:
    """Wrap all clips' keys by the key-encryption key that is set now.

    The one before it stands in CV_PLATFORM_PREVIOUS_KEY_ENCRYPTION_KEYS meanwhile. Safe to run again and while the
    platform works.
    """
    _, keys = _opened()
    changed, retired = keys.rotate(actor=by or getpass.getuser())
    if json:
        print_json({"keys": changed, "retired": retired})
        return
    out.print(f"{changed} clips' keys are wrapped anew")
    for kek_id in retired:
        out.print(
            f"{kek_id} wraps none any more: destroy it, and older backups of destroyed keys stay shut", markup=False
        )


@app.command()
def scrub(
    full: Annotated[
        bool, typer.Option("--full", help="Write the table of keys anew; locks it for some seconds.")
    ] = False,
    by: ByOption = None,
    json: JsonOption = False,
) -> None:
    """Have PostgreSQL free, or with --full overwrite, what it still holds of destroyed keys. See docs/keys.md."""
    from cv_platform.governance.keys import scrub_destroyed_keys

    done = scrub_destroyed_keys(_database(), full=full, actor=by or getpass.getuser())
    if json:
        print_json(vars(done))
        raise typer.Exit(1 if done.kept else 0)
    if done.kept:
        fail(
            f"{done.kept} old rows of the table of keys are still there: a transaction that began before they were"
            " replaced is open; find it in pg_stat_activity (oldest backend_xmin), end it, and scrub again"
        )
    out.print("the table of keys is written anew" if done.rewritten else "old rows of the table of keys are freed")
    if not done.checkpointed:
        out.print("no checkpoint: this role may not (GRANT pg_checkpoint); PostgreSQL makes one by its own schedule")
    if not done.log_switched:
        out.print("no log switch: this role may not execute pg_switch_wal(); the log file goes by its own schedule")


def _database() -> Database:
    from cv_platform.storage.provision import database_at

    return database_at(str(connected_settings().postgres_url))


def _opened() -> tuple[Database, ClipKeys]:
    from cv_platform.governance.keys import KeyEncryptionKeyError, open_clip_keys
    from cv_platform.storage.provision import database_at

    settings = connected_settings()
    database = database_at(str(settings.postgres_url))
    try:
        return database, open_clip_keys(settings, database)
    except KeyEncryptionKeyError as error:
        fail(str(error))
