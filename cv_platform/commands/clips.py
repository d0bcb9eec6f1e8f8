"""`cv-platform upload | status | clips | quarantine`: clips in, where they are, and published ones in the clear."""

from __future__ import annotations

import getpass
import os
import uuid
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from cv_platform.commands.console import JsonOption, connected_settings, err, fail, out, print_json

app = typer.Typer(no_args_is_help=True, help="Published clips: which there are, and one of them in the clear.")
quarantine_app = typer.Typer(no_args_is_help=True, help="Clips that could not be processed: why, and try again.")


def upload(
    clips: Annotated[list[Path], typer.Argument(help="Video files.", exists=True, dir_okay=False)],
    site: Annotated[str, typer.Option(help="The site's id: letters, digits, '_', '-', '.'.")],
    camera: Annotated[str, typer.Option(help="The camera's id, unique in the deployment.")],
    at: Annotated[
        str | None,
        typer.Option(help="When the first clip begins, ISO 8601 with offset; without one: each file's own time."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Upload clips the way cameras do. The platform's sensor finds them; nothing is processed here.

    With several clips and --at, each begins where the one before it ends by its own length.
    """
    from rich.progress import Progress

    from cv_platform.pipeline.keys import upload_key
    from cv_platform.pipeline.platform import open_platform
    from cv_platform.storage.provision import database_at

    begins = _moment(at) if at else None
    settings = connected_settings()
    platform = open_platform(settings, database_at(str(settings.postgres_url)))
    done: list[dict[str, Any]] = []
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("uploading", total=sum(path.stat().st_size for path in clips))
        for path in clips:
            captured_at = begins or datetime.fromtimestamp(path.stat().st_mtime, UTC)
            try:
                key = upload_key(site, camera, captured_at, path.suffix.lstrip(".").lower() or "mp4")
            except ValueError as error:
                fail(str(error), code=2)
            replaced = platform.restricted.head(key) is not None
            platform.restricted.put_file(key, path)
            done.append({"key": key, "bytes": path.stat().st_size, "replaced": replaced})
            progress.advance(task, path.stat().st_size)
            if begins is not None:
                begins += timedelta(seconds=max(_length_s(path), 1.0))
    if json:
        print_json({"uploaded": done})
        return
    for entry in done:
        out.print(f"{entry['key']}{'  (replaced)' if entry['replaced'] else ''}", markup=False)
    out.print("`cv-platform status` shows how far they are; `cv-platform up` starts what works on them.")


def status(json: JsonOption = False) -> None:
    """Show where all clips are: the ledger's states, each stage, and what waits. Exit status 1: it does not balance."""
    from rich.table import Table

    from cv_platform.storage.ledger import tallies
    from cv_platform.storage.ledger.model import STAGES
    from cv_platform.storage.provision import database_at

    database = database_at(str(connected_settings().postgres_url))
    found = tallies.balance_now(database)
    stages = tallies.stage_states_now(database)
    waiting = tallies.waiting_by_site(database)
    if json:
        print_json(
            {
                "received": found.received,
                "balances": found.balances,
                "states": found.states,
                "stages": stages,
                "pending_by_site": waiting,
            }
        )
    else:
        table = Table("clips received", *(state.replace("_", " ") for state in found.states), title="ledger")
        table.add_row(str(found.received), *(str(count) for count in found.states.values()))
        out.print(table)
        names = ("blocked", "pending", "running", "done", "failed", "stopped", "frozen")
        table = Table("stage", *names, title="stages")
        for stage in STAGES:
            table.add_row(stage, *(str(stages.get(stage, {}).get(name, 0)) for name in names))
        out.print(table)
        for site, count in waiting.items():
            out.print(f"{site}: {count} clips wait or are worked on", markup=False)
        if found.states["quarantined"]:
            out.print("`cv-platform quarantine list` says why clips are quarantined.")
    if not found.balances:
        fail("the ledger does not balance: some clip's state contradicts its stages")


@app.command("list")
def list_published(
    site: Annotated[str | None, typer.Option(help="Only this site's clips.")] = None,
    day: Annotated[str | None, typer.Option(help="Only clips captured on a UTC date, such as 2026-03-01.")] = None,
    json: JsonOption = False,
) -> None:
    """List published clips, newest first."""
    from cv_platform.storage.ledger.published import published_clips
    from cv_platform.storage.provision import database_at

    try:
        wanted = date.fromisoformat(day) if day else None
    except ValueError:
        fail(f"--day is {day!r}; allowed is a date such as 2026-03-01", code=2)
    found = published_clips(
        database_at(str(connected_settings().postgres_url)), wanted, sites=[site] if site else [], limit=1000
    )
    if json:
        print_json([{"clip_id": clip.clip_id, "sha256": clip.sha256} for clip in found])
        return
    for clip in found:
        out.print(str(clip.clip_id))
    if not found:
        out.print("no clip is published")


@app.command("get")
def get_published(
    clip: Annotated[str, typer.Argument(help="A clip's id, as `clips list` shows it.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where it goes; must not exist.")],
    by: Annotated[str | None, typer.Option(help="Who gets it; without one: the user of this shell.")] = None,
    json: JsonOption = False,
) -> None:
    """Write a published, face-blurred clip in the clear, its certificate beside it. The audit log notes who did.

    Needs the key-encryption key: who may read that and the ledger may read published clips.
    """
    from cv_platform.governance.audit import record
    from cv_platform.governance.keys import KeyDestroyed, KeyEncryptionKeyError
    from cv_platform.pipeline.outputs import CERTIFICATE_SUFFIX
    from cv_platform.pipeline.platform import open_platform
    from cv_platform.pipeline.published_clips import NotPublished, fetch_published
    from cv_platform.storage.objects import ObjectMissing
    from cv_platform.storage.provision import database_at
    from cv_platform.storage.sealed import SealBroken

    try:
        clip_id = uuid.UUID(clip)
    except ValueError:
        fail("a clip's id is a UUID such as `cv-platform clips list` shows", code=2)
    if output.exists():
        fail(f"{output} is there already; nothing is overwritten", code=2)
    settings = connected_settings()
    platform = open_platform(settings, database_at(str(settings.postgres_url)))
    beside = output.with_name(output.name + CERTIFICATE_SUFFIX)
    mask = os.umask(0o077)  # persons are to be seen in it, if not their faces
    try:
        platform.keys.open(clip_id)
        # Before the file is there: whoever gets a clip stands in the log.
        record(platform.database, actor=by or getpass.getuser(), action="clip.read", details={"clip": clip_id})
        found = fetch_published(platform, clip_id, output)
        beside.write_text(found.certificate, encoding="utf-8")
    except (NotPublished, KeyDestroyed, KeyEncryptionKeyError, SealBroken, ObjectMissing) as error:
        fail(str(error))
    finally:
        os.umask(mask)
    if json:
        print_json({"clip": str(output), "certificate": str(beside), "sha256": found.sha256, "bytes": found.bytes})
    else:
        out.print(f"{output}: {found.bytes} bytes; `cv-platform anonymise verify {output}` checks it", markup=False)


@quarantine_app.command("list")
def list_quarantined(
    site: Annotated[str | None, typer.Option(help="Only this site's clips.")] = None, json: JsonOption = False
) -> None:
    """List quarantined clips with the reason, newest first."""
    from rich.table import Table

    from cv_platform.storage.ledger.queries import quarantined
    from cv_platform.storage.provision import database_at

    clips = quarantined(database_at(str(connected_settings().postgres_url)), site=site)
    if json:
        print_json([vars(clip) for clip in clips])
    elif not clips:
        out.print("no clip is quarantined")
    else:
        table = Table("clip", "site", "stage", "code", "reason")
        for clip in clips:
            table.add_row(str(clip.clip_id), clip.site_id or "", clip.stage, clip.code, clip.reason)
        out.print(table)


@quarantine_app.command("replay")
def replay_quarantined(
    clips: Annotated[list[str] | None, typer.Argument(help="Ids of clips, as `quarantine list` shows them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are quarantined.")] = False,
    code: Annotated[str | None, typer.Option(help="All that are quarantined for this code.")] = None,
    json: JsonOption = False,
) -> None:
    """Put quarantined clips back to the start; the daemon's next runs work on them.

    One that was refused when it was uploaded (too large, before the first day, in the future) starts where the settings
    accept it by now. A clip whose upload key cannot be read stays: upload it again under a right key.
    """
    from cv_platform.pipeline.admission import replay_clips
    from cv_platform.storage.ledger.queries import quarantined
    from cv_platform.storage.provision import database_at

    if not (clips or everything or code):
        fail("name clips, or give --code CODE or --all", code=2)
    try:
        ids = {uuid.UUID(clip) for clip in clips or []}
    except ValueError:
        fail("a clip's id is a UUID such as `cv-platform quarantine list` shows", code=2)
    settings = connected_settings()
    database = database_at(str(settings.postgres_url))
    if everything or code:
        ids |= {clip.clip_id for clip in quarantined(database, limit=1_000_000) if code in (None, clip.code)}
    count = replay_clips(database, settings, ids)
    if json:
        print_json({"replayed": count, "left": len(ids) - count})
    else:
        out.print(f"{count} clips start again, {len(ids) - count} stay as they are")
    if clips and count < len(set(clips)) and not everything:
        raise typer.Exit(1)


@app.command("log-name")
def log_name(
    camera: Annotated[str, typer.Argument(help="The camera's id.")],
    json: JsonOption = False,
) -> None:
    """What JSON log lines call a camera: their `camera` is a reference, since an id beside a time is personal data."""
    from cv_platform.storage.ledger.log_secret import log_secret
    from cv_platform.storage.provision import database_at
    from cv_platform.structured_logs import camera_reference

    reference = camera_reference(log_secret(database_at(str(connected_settings().postgres_url))), camera)
    if json:
        print_json({"camera": camera, "log_name": reference})
    else:
        out.print(reference)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--at is {text!r}; allowed is ISO 8601 such as 2026-03-01T08:00:00+01:00", code=2)
    if moment.tzinfo is None:
        fail(f"--at is {text!r} without an offset; add Z or one such as +01:00", code=2)
    return moment.astimezone(UTC)


def _length_s(path: Path) -> float:
    """A clip's declared length; 0 where it cannot be read: the platform will say why."""
    from cv_platform.vision.video.limits import ClipRejected
    from cv_platform.vision.video.sandbox import ExtractionFailed, probe_clip_sandboxed

    try:
        return float(probe_clip_sandboxed(path).duration_s or 0.0)
    except (ClipRejected, ExtractionFailed, OSError):
        return 0.0
