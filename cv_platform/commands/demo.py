"""`cv-platform demo`: sample footage in, and the daemon does everything else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cv_platform.commands.console import JsonOption, err, fail, out, print_json, stack

if TYPE_CHECKING:
    from rich.progress import TaskID

    from cv_platform.demo.plan import DemoClip
    from cv_platform.demo.readback import DagsterStorage
    from cv_platform.demo.summary import Summary
    from cv_platform.demo.watch import Progress
    from cv_platform.embedded.stack import Stack
    from cv_platform.settings import Settings
    from cv_platform.storage.database import Database


def demo(
    clips: Annotated[
        list[Path] | None,
        typer.Argument(help="Your own video files instead of the sample footage.", exists=True, dir_okay=False),
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Give up after so many seconds.")] = 900.0,
    json: JsonOption = False,
) -> None:
    """Run the whole platform once: footage, upload, and the daemon does the rest; then a summary.

    The sample footage has two sites, three cameras, two days and one clip that is corrupt on purpose. A second run
    finds everything done and changes nothing. Exit status 0: the ledger balances, no check of severity ERROR failed,
    and exactly the corrupt clip is quarantined. The summary is also written to demo/summary.json in the state folder.
    """
    began = time.time()
    here = stack()
    folder = here.folder / "demo"
    daemon_ran_before = "daemon" in here.running()
    _say(began, "starting PostgreSQL, Redis and Dagster's daemon")
    settings = here.start_servers()
    here.start_daemon()
    uploads = _footage(began, folder, clips or [], settings)
    from cv_platform.demo.readback import DagsterStorage
    from cv_platform.demo.summary import summarise
    from cv_platform.embedded.environment import exports
    from cv_platform.storage.database import Database

    database = Database(str(settings.postgres_url), max_size=2)
    try:
        new = _upload(uploads, settings, database)
        _say(began, f"uploaded {new} of {len(uploads)} clips ({len(uploads) - new} were there already)")
        dagster = DagsterStorage(exports(settings))
        problem = _watch(here, database, dagster, uploads, began, timeout_s)
        everything = _all_uploads(folder, uploads, settings)
        summary = summarise(database, everything, dagster.read(since=0.0))
    finally:
        database.close()
        if not daemon_ran_before:
            here.stop("daemon")
    problems = [*([problem] if problem else []), *summary.problems]
    document = {
        **summary.as_json(),
        "ok": not problems,
        "problems": problems,
        "seconds": round(time.time() - began, 1),
        "uploaded": new,
        "clips": [{"key": clip.key, "path": str(clip.path), "corrupt": clip.corrupt} for clip in uploads],
        "paths": {
            "state_dir": str(settings.state_dir),
            "blurred_clips": f"{settings.store_url}/blurred",
            "footage": str(folder / "footage"),
            "logs": str(here.logs),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "summary.json", document)
    if json:
        print_json(document)
    else:
        _show(summary, document, folder)
    conclude(problems)


def conclude(problems: Sequence[str]) -> None:
    """End with status 1 where something is wrong with the outcome, and say what."""
    if problems:
        fail("the demo did not come out as it should:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _say(began: float, message: str) -> None:
    err.print(f"{time.time() - began:6.1f} s  {message}", markup=False)


def _footage(began: float, folder: Path, own: list[Path], settings: Settings) -> list[DemoClip]:
    from cv_platform.demo.plan import own_clips, sample_clips

    now = datetime.now(UTC)
    if own:
        _say(began, f"taking {len(own)} clips of your own")
        return own_clips(folder, own, settings=settings, now=now)
    with err.status("making sample footage …") as status:
        made = sample_clips(
            folder / "footage",
            today=now.date(),
            progress=lambda done, total: status.update(f"making sample footage … {done}/{total}"),
        )
    _say(began, f"sample footage: {len(made)} clips, one of them corrupt on purpose, in {folder / 'footage'}")
    return made


def _all_uploads(folder: Path, uploads: list[DemoClip], settings: Settings) -> list[DemoClip]:
    """These uploads and the sample footage of earlier runs, whose corrupt clip is still in quarantine."""
    from cv_platform.demo.plan import sample_clips

    if not (folder / "footage" / "plan.json").exists():
        return uploads
    known = {clip.key for clip in uploads}
    sample = sample_clips(folder / "footage", today=datetime.now(UTC).date(), progress=lambda done, total: None)
    return [*uploads, *(clip for clip in sample if clip.key not in known)]


def _upload(uploads: list[DemoClip], settings: Settings, database: Database) -> int:
    """Put the clips where cameras put them; returns how many were not there yet.

    What the ledger knows lies sealed in the vault by now; what it does not know yet may lie where it was uploaded.
    """
    from cv_platform.pipeline.platform import open_platform
    from cv_platform.storage.ledger.registration import known_contents

    store = open_platform(settings, database).restricted
    known = known_contents(database, [clip.key for clip in uploads])
    new = 0
    for clip in uploads:
        sizes = {content.size_bytes for content in known.get(clip.key, []) if content.current}
        if (there := store.head(clip.key)) is not None:
            sizes.add(there.size_bytes)
        if clip.path.stat().st_size not in sizes:
            store.put_file(clip.key, clip.path)
            new += 1
    return new


def _watch(
    here: Stack, database: Database, dagster: DagsterStorage, uploads: list[DemoClip], began: float, timeout_s: float
) -> str | None:
    """Wait until nothing is left to do; returns what went wrong, None where nothing did."""
    from cv_platform.demo.readback import SENSORS
    from cv_platform.demo.watch import read_progress

    keys = [clip.key for clip in uploads]
    uploaded_at = time.time()
    with _progress_display(began) as show:
        while True:
            progress = read_progress(database, keys)
            show(progress)
            # At rest means that the daemon has looked, too: it may want to do again what a new version does better.
            if progress.at_rest and dagster.sensors_ticked(since=uploaded_at) >= SENSORS and dagster.active_runs() == 0:
                _say(began, "the ledger is at rest")
                return None
            if "daemon" not in here.running():
                return f"Dagster's daemon ended; see {here.logs / 'daemon.log'}"
            if time.time() - began > timeout_s:
                return f"not done after {timeout_s:.0f} s: {progress.line()}; see the runs in the UI (cv-platform up)"
            time.sleep(0.5)


class _progress_display:  # noqa: N801  # used as a with-statement
    """Bars on a terminal, a line whenever something changed elsewhere."""

    def __init__(self, began: float) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._began = began
        self._bars = Bars(
            TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=err
        )
        self._tasks: dict[str, TaskID] = {}
        self._last = ""

    def __enter__(self) -> Callable[[Progress], None]:
        if err.is_terminal:
            self._bars.start()
        return self._show

    def __exit__(self, *exc: object) -> None:
        if err.is_terminal:
            self._bars.stop()

    def _show(self, progress: Progress) -> None:
        if not err.is_terminal:
            if progress.line() != self._last:
                self._last = progress.line()
                _say(self._began, self._last)
            return
        rows = {"registered": (progress.registered, progress.expected), **progress.stages}
        for name, (done, total) in rows.items():
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name.replace("_", " "), total=None)
            self._bars.update(self._tasks[name], completed=done, total=total or None)


def _show(summary: Summary, document: dict[str, object], folder: Path) -> None:
    from rich.table import Table

    states = Table(title="clips", title_justify="left")
    for column in ("state", "clips"):
        states.add_column(column, justify="left" if column == "state" else "right")
    for state, count in summary.states.items():
        states.add_row(state.replace("_", " "), str(count))
    states.add_row("received", str(summary.received), style="bold")
    out.print(states)
    for clip in summary.quarantine:
        out.print(f"quarantined  {clip['clip_id']}  at {clip['stage']}: {clip['reason']}", markup=False)
    counts = summary.counts
    out.print(
        f"\n{counts['frames']} frames, {counts['detections']} detections, {counts['tracks']} tracks, "
        f"{counts['events']} events, {counts['blurred_clips']} blurred clips"
    )
    stages = Table(title="stages", title_justify="left")
    for column, side in (("stage", "left"), ("clips", "right"), ("seconds", "right"), ("seconds a clip", "right")):
        stages.add_column(column, justify="right" if side == "right" else "left")
    for stage, numbers in summary.stage_seconds.items():
        each = numbers["seconds"] / numbers["clips"] if numbers["clips"] else 0.0
        stages.add_row(stage, f"{numbers['clips']:.0f}", f"{numbers['seconds']:.1f}", f"{each:.2f}")
    out.print(stages)
    for mart in summary.marts:
        table = Table(title=f"{mart.name}: {mart.rows} rows", title_justify="left")
        for name in mart.columns:
            table.add_column(name, no_wrap=True)
        for row in mart.head:
            table.add_row(*(_cell(value) for value in row))
        out.print(table)
    asked = sum(len(tick["run_ids"]) for tick in summary.dagster.ticks)
    out.print(
        f"the daemon's work so far: {len(summary.dagster.runs)} runs, of which sensor ticks asked for {asked}; "
        f"{len(summary.dagster.ticks) + summary.dagster.skipped_ticks} ticks\n"
        "blurred clips: cv-platform clips list; cv-platform clips get CLIP -o FILE.mp4 (they lie sealed in the store)\n"
        f"summary:       {folder / 'summary.json'}\n"
        f"seconds:       {document['seconds']}\n\n"
        "what next:  make up              the Dagster UI on the same state\n"
        "            cv-platform status   clips and stages now\n"
        '            make demo CLIPS="…"  your own footage\n'
        "            make down            stop everything",
        markup=False,
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _write_json(path: Path, document: dict[str, object]) -> None:
    import json

    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(document, indent=2, default=str))
    scratch.replace(path)
