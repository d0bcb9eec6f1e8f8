"""`cv-platform erasure …`: ask, preview, approve, and check the certificate."""

from __future__ import annotations

import json as jsonlib
import uuid
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cv_platform.commands.console import JsonOption, connected_settings, fail, out, print_json

app = typer.Typer(
    no_args_is_help=True,
    help="Erasure (GDPR Art. 17): received, previewed, approved by another, executed, certified.",
)

RequestArgument = Annotated[str, typer.Argument(help="A request's id, as `erasure list` shows it.")]
ByOption = Annotated[str, typer.Option(help="Who does this; stands in the audit log.")]


@app.command()
def request(
    by: ByOption,
    reference: Annotated[str, typer.Option(help="The case's number; never a name: it stands in the certificate.")],
    clip: Annotated[str | None, typer.Option(help="One clip.")] = None,
    camera: Annotated[str | None, typer.Option(help="A camera: with an interval, or with a track.")] = None,
    site: Annotated[str | None, typer.Option(help="All cameras of a site; with an interval.")] = None,
    starts: Annotated[str | None, typer.Option("--from", help="ISO 8601 with offset.")] = None,
    ends: Annotated[str | None, typer.Option("--to", help="ISO 8601 with offset; itself not erased.")] = None,
    track: Annotated[
        str | None, typer.Option(help="A track of the camera: DAY/NUMBER, its UTC day of first sighting.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Take in a request and show exactly what it would erase. Nothing is erased before somebody else approves."""
    from cv_platform.governance.erasure import requests
    from cv_platform.pipeline import erasure

    scope = read_scope(clip, camera, site, starts, ends, track)
    platform = _platform()
    try:
        request_id = requests.receive(platform.database, scope, reference=reference, by=by)
    except ValueError as error:
        fail(str(error), code=2)
    counts = erasure.preview(platform, request_id)
    if json:
        print_json({"request_id": str(request_id), "preview": counts})
        return
    out.print(f"request {request_id}", markup=False)
    _print_preview(counts)
    out.print(f"`cv-platform erasure approve {request_id} --by SOMEBODY_ELSE` has it executed.", markup=False)


@app.command("preview")
def preview_request(request_id: RequestArgument, json: JsonOption = False) -> None:
    """Count again what a request would erase, per tier."""
    from cv_platform.pipeline import erasure

    counts = _tried(lambda: erasure.preview(_platform(), _id(request_id)))
    if json:
        print_json(counts)
    else:
        _print_preview(counts)


@app.command()
def approve(request_id: RequestArgument, by: ByOption) -> None:
    """Approve what was previewed. The daemon executes it; `erasure execute` does so here and now."""
    from cv_platform.governance.erasure import requests

    _tried(lambda: requests.approve(_platform().database, _id(request_id), by=by))
    out.print("approved")


@app.command()
def refuse(
    request_id: RequestArgument, by: ByOption, reason: Annotated[str, typer.Option(help="Why; names nobody.")]
) -> None:
    """Refuse a request that is not under way."""
    from cv_platform.governance.erasure import requests

    _tried(lambda: requests.refuse(_platform().database, _id(request_id), by=by, reason=reason))
    out.print("refused")


@app.command()
def execute(request_id: RequestArgument, by: ByOption, json: JsonOption = False) -> None:
    """Execute an approved request in this process, or go on with one that was interrupted."""
    from cv_platform.governance.erasure import requests
    from cv_platform.pipeline import erasure

    platform = _platform()
    state = _tried(lambda: erasure.execute(platform, _id(request_id), actor=by))
    found = requests.get(platform.database, _id(request_id))
    if json:
        print_json({"state": state, "detail": found.detail})
    else:
        out.print(state + (f": {found.detail}" if found.detail else ""), markup=False)
        if state == "executed":
            out.print("It is certified when the aggregates of the days touched are built anew.")
    if state == "suspended":
        raise typer.Exit(1)


@app.command()
def certify(
    request_id: RequestArgument,
    by: ByOption,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where the certificate goes.")] = None,
) -> None:
    """Prove that what was erased is gone, sign it, and write the certificate."""
    from cv_platform.governance.erasure.certificate import signing_key_of
    from cv_platform.pipeline import erasure_proof

    platform = _platform()
    key = _tried(lambda: signing_key_of(platform.settings))
    document = _tried(lambda: erasure_proof.certify(platform, _id(request_id), actor=by, key=key))
    if document is None:
        fail("the aggregates of the days touched are not built anew yet; the daemon does that, then certifies")
    text = jsonlib.dumps(document, indent=2, ensure_ascii=False)
    if output is None:
        typer.echo(text)
    else:
        output.write_text(text + "\n")
        out.print(f"certificate: {output}", markup=False)


@app.command("list")
def list_requests(
    state: Annotated[list[str] | None, typer.Option(help="Only requests in this state; may be given again.")] = None,
    json: JsonOption = False,
) -> None:
    """List requests, oldest first."""
    from cv_platform.governance.erasure import requests

    wanted = tuple(state or requests.STATES)
    if unknown := set(wanted) - set(requests.STATES):
        fail(f"state {', '.join(sorted(unknown))}; allowed: {', '.join(requests.STATES)}", code=2)
    found = requests.list_requests(_platform().database, states=wanted)
    if json:
        print_json([request.summary() for request in found])
        return
    if not found:
        out.print("no requests")
        return
    from rich.table import Table

    table = Table("request", "state", "scope", "reference", "asked by", "decided by", "detail")
    for entry in found:
        table.add_row(
            str(entry.request_id),
            entry.state,
            ", ".join(f"{name} {value}" for name, value in entry.scope.as_json().items()),
            entry.reference,
            entry.requested_by,
            entry.decided_by or "",
            entry.detail or "",
        )
    out.print(table)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A certificate.", exists=True, dir_okay=False)],
    public_key: Annotated[
        Path, typer.Option(help="The controller's public key: PEM, or 32 bytes in base64.", exists=True, dir_okay=False)
    ],
) -> None:
    """Check a certificate offline. Exit status 1: it is not what was signed, or another key signed it."""
    from cv_platform.governance.erasure import certificate

    try:
        key = certificate.public_key(public_key.read_bytes())
        document = certificate.read(file.read_text())
        certificate.verify(document, key)
    except ValueError as error:
        fail(f"{error}", code=2)
    except certificate.CertificateInvalid as invalid:
        fail(f"not valid: {invalid}")
    erased, left = document["erased"], document["absence"]
    out.print(f"valid: request {document['request']}, certified {document['certified_at']}", markup=False)
    out.print(
        f"{erased['clips']} clips, {erased['keys destroyed']} keys,"
        f" {sum(table['rows'] for table in erased['rows'].values())} rows,"
        f" {sum(store['objects'] for store in erased['objects'].values())} objects erased;"
        f" found afterwards: {sum(left['objects'].values()) + sum(left['rows'].values())}"
    )


@app.command("public-key")
def print_public_key() -> None:
    """Print the public key, as PEM: for whoever is to verify certificates."""
    from cv_platform.governance.erasure.certificate import public_pem, signing_key_of

    typer.echo(_tried(lambda: public_pem(signing_key_of(connected_settings()))).decode(), nl=False)


def _print_preview(counts: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("tier", "what", "count", title="what it would erase")
    table.add_row("ledger", "clips", str(counts["clips"]))
    for name, count in counts["rows"].items():
        table.add_row("warm", name, str(count))
    for name, count in counts["rows of no clip"].items():
        table.add_row("warm", f"{name} of no clip", str(count))
    for name, count in counts.get("cold rows", {}).items():
        table.add_row("cold", name, str(count))
    for name, count in counts["objects"].items():
        table.add_row("objects", name, str(count))
    table.add_row("aggregates", "days built anew", str(counts["days"]))
    out.print(table)
    if counts["held"]:
        out.print(f"a legal hold covers {counts['held']} of this: it would be suspended", style="yellow")


def read_scope(
    clip: str | None, camera: str | None, site: str | None, starts: str | None, ends: str | None, track: str | None
) -> Any:
    """The scope that options name; ends the command where they name none, or too much."""
    from cv_platform.storage.ledger.erasure_scope import ErasureScope

    kind: Any = "clip" if clip else "track" if track else "site" if site else "camera"
    day: date | None = None
    number: int | None = None
    try:
        if track is not None:
            day_text, _, number_text = track.partition("/")
            day, number = date.fromisoformat(day_text), int(number_text)
        return ErasureScope(
            kind,
            clip_id=uuid.UUID(clip) if clip else None,
            camera_id=camera,
            site_id=site,
            track_day=day,
            track_id=number,
            starts_at=datetime.fromisoformat(starts) if starts else None,
            ends_at=datetime.fromisoformat(ends) if ends else None,
        )
    except ValueError as error:
        fail(f"{error}; a clip is a UUID, a track DAY/NUMBER such as 2026-03-01/7, times are ISO 8601", code=2)


def _id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        fail(f"{text!r} is no request's id; `cv-platform erasure list` shows them", code=2)


def _tried(work: Any) -> Any:
    """What `work` returns; an error that a user can mend as one message."""
    from cv_platform.governance.erasure.requests import WrongState
    from cv_platform.pipeline.erasure_proof import ResidueFound

    try:
        return work()
    except (WrongState, ResidueFound, LookupError, PermissionError, ValueError, FileNotFoundError) as error:
        fail(str(error))


def _platform() -> Any:
    from cv_platform.pipeline.platform import open_platform
    from cv_platform.storage.provision import database_at

    settings = connected_settings()
    return open_platform(settings, database_at(str(settings.postgres_url)))
