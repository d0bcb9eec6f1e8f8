"""`cv-platform up`, `down`, `env`: the stack on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from cv_platform.commands.console import JsonOption, err, out, print_json, stack


def up(
    ui: Annotated[bool, typer.Option(help="Start the Dagster UI too, not only the servers and the daemon.")] = True,
    json: JsonOption = False,
) -> None:
    """Start the servers, Dagster's daemon and its UI; safe to run again. Prints the UI's address."""
    here = stack()
    with err.status("starting PostgreSQL and Redis …") as status:
        settings = here.start_servers()
        status.update("starting Dagster's daemon …")
        records = [here.start_daemon()]
        if ui:
            status.update("starting the Dagster UI and loading the asset graph …")
            records.append(here.start_webserver())
    running = here.running()
    address = running["webserver"].address if "webserver" in running else None
    if json:
        print_json(
            {
                "ui": address,
                "state_dir": settings.state_dir,
                "processes": {name: record.pid for name, record in sorted(running.items())},
            }
        )
        return
    if address is not None:
        out.print(f"Dagster UI   [link={address}]{address}[/link]")
    out.print(f"state        {settings.state_dir}", markup=False)
    out.print("processes    " + ", ".join(f"{name} {record.pid}" for name, record in sorted(running.items())))
    out.print("stop all     cv-platform down   (or: make down)")


def down(json: JsonOption = False) -> None:
    """Stop everything that `up` or `demo` started on this state folder, by process id. Nothing is deleted."""
    here = stack()
    with err.status("stopping …"):
        stopped = here.stop()
    if json:
        print_json({"stopped": {record.name: record.pid for record in stopped}})
    elif stopped:
        out.print("stopped      " + ", ".join(f"{record.name} {record.pid}" for record in stopped))
    else:
        out.print(f"nothing was running on {here.folder}", markup=False)


def env(
    start: Annotated[bool, typer.Option(help="Start the embedded servers too, so that the addresses answer.")] = False,
    json: JsonOption = False,
) -> None:
    """Print the environment variables that point other programs at this stack.

    For a shell:  eval "$(cv-platform env)"  and then, say,  dagster-webserver -w workspace.yaml
    """
    from cv_platform.embedded.environment import exports, shell_lines

    here = stack()
    settings = here.start_servers() if start else here.settings
    variables = exports(settings)
    if json:
        print_json(variables)
    else:
        typer.echo(shell_lines(variables))
