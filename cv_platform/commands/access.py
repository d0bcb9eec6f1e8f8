"""`cv-platform access`: what is kept of a data subject, as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cv_platform.commands.console import JsonOption, connected_settings, err, fail, out, print_json
from cv_platform.commands.erasure import ByOption, read_scope


def access(
    output: Annotated[Path, typer.Option("-o", "--output", help="The ZIP file to write; must not exist.")],
    by: ByOption,
    reference: Annotated[str, typer.Option(help="The case's number; never a name.")],
    clip: Annotated[str | None, typer.Option(help="One clip.")] = None,
    camera: Annotated[str | None, typer.Option(help="A camera: with an interval, or with a track.")] = None,
    site: Annotated[str | None, typer.Option(help="All cameras of a site; with an interval.")] = None,
    starts: Annotated[str | None, typer.Option("--from", help="ISO 8601 with offset.")] = None,
    ends: Annotated[str | None, typer.Option("--to", help="ISO 8601 with offset; itself not included.")] = None,
    track: Annotated[str | None, typer.Option(help="A track of the camera: DAY/NUMBER.")] = None,
    json: JsonOption = False,
) -> None:
    """Write what is kept of a data subject (GDPR Art. 15): clips in which every face is hidden, and rows as JSON."""
    from rich.progress import Progress

    from cv_platform.pipeline.access import write_bundle
    from cv_platform.pipeline.platform import open_platform
    from cv_platform.storage.provision import database_at
    from cv_platform.storage.sealed import SealBroken

    scope = read_scope(clip, camera, site, starts, ends, track)
    settings = connected_settings()
    platform = open_platform(settings, database_at(str(settings.postgres_url)))
    try:
        with Progress(console=err, transient=True) as progress:
            task = progress.add_task("clips", total=None)
            done = write_bundle(
                platform,
                scope,
                output,
                reference=reference,
                by=by,
                progress=lambda made, all_: progress.update(task, completed=made, total=all_),
            )
    except FileExistsError:
        fail(f"{output} exists; name a file that does not")
    except SealBroken as error:
        fail(str(error))
    if json:
        print_json(vars(done))
        return
    rows = ", ".join(f"{count} {table}" for table, count in done.rows.items())
    out.print(f"{output}: {done.clips} clips, {rows}; {done.without_pictures} clips have no pictures any more")
    if done.hiding_too_little:
        out.print(
            f"{done.hiding_too_little} clips hide less than the policy asks for now and were left out: let them be"
            " blurred anew while their raw clips exist"
        )
