"""`cv-platform doctor`: what is wrong here, and how to mend it."""

from __future__ import annotations

import typer

from cv_platform.commands.console import JsonOption, out, print_json, stack

_SIGNS = {"ok": "[green]ok     [/green]", "warning": "[yellow]warning[/yellow]", "failure": "[red]FAILURE[/red]"}


def doctor(json: JsonOption = False) -> None:
    """Check every dependency, connection, model and port; say how to mend what is wrong.

    Starts nothing and changes nothing. Exit status 0: nothing is broken (warnings are allowed); 1: something is.
    """
    from rich.markup import escape

    from cv_platform.embedded.checkup import check_up

    findings = []
    for finding in check_up(stack()):
        findings.append(finding)
        if not json:
            out.print(f"{_SIGNS[finding.status]}  {finding.check:<20}  {escape(finding.found)}")
            if finding.remedy and finding.status != "ok":
                out.print(f"         {'':<20}  → {escape(finding.remedy)}")
    failures = sum(finding.status == "failure" for finding in findings)
    if json:
        print_json({"ok": failures == 0, "findings": [finding.as_json() for finding in findings]})
    elif failures:
        out.print(f"\n{failures} of {len(findings)} checks failed")
    raise typer.Exit(1 if failures else 0)
