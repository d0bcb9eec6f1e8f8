"""`cv-platform models list | add | pull | verify | revoke | bench`: which models there are, and whether they work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cv_platform.commands.console import JsonOption, err, fail, out, print_json

if TYPE_CHECKING:
    from cv_platform.vision.models import ModelRegistry

app = typer.Typer(no_args_is_help=True, help="Models: which there are, fetch them, try them, time them.")

NamesArgument = Annotated[list[str] | None, typer.Argument(help="Names of models; all of them where left out.")]


@app.command("list")
def list_models(json: JsonOption = False) -> None:
    """Show every model: what it finds, its licence, where it comes from, whether it is here. Nothing is fetched."""
    from rich.table import Table

    models = _registry(fetch=False)
    rows = [_row(models, name) for name in models.entries]
    if json:
        print_json({"models": rows, "choices": models.choices})
        return
    table = Table("model", "finds", "licence", "comes from", "here")
    for row in rows:
        table.add_row(row["name"], row["finds"], row["licence"], row["source"], row["state"])
    out.print(table)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it: a-z, 0-9, '_', '-', '.'.")],
    file: Annotated[Path, typer.Argument(help="The ONNX file; it is copied into the model cache.", exists=True)],
    head: Annotated[str, typer.Option(help="Its architecture: yolox, yolov5, yolov8, torchvision, centerface, …")],
    classes: Annotated[str, typer.Option(help="coco, coco91, or class names joined by commas, '-' for none.")],
    licence: Annotated[str, typer.Option(help="Its licence, an SPDX name where there is one.")],
    width: Annotated[int | None, typer.Option(help="Input width, pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Input height, pixels.")] = None,
    long_side: Annotated[
        int | None, typer.Option(help="Instead: the longer side, for one that takes any size.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Add a model of yours to the registry in the model cache. It has to pass its canary first."""
    import hashlib
    import shutil

    from cv_platform.vision.detectors.architectures import ARCHITECTURES
    from cv_platform.vision.detectors.build import make_detector
    from cv_platform.vision.models import ModelRefused

    if head not in ARCHITECTURES:
        fail(f"head is {head!r}; allowed is one of {', '.join(ARCHITECTURES)}", code=2)
    if (width is None or height is None) == (long_side is None):
        fail("say either --width and --height, or --long-side", code=2)
    size = {"width": width, "height": height} if long_side is None else {"long_side": long_side, "multiple_of": 32}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    models = _registry(fetch=False)
    stored = f"{name}.onnx"
    values: dict[str, Any] = {
        "description": "added by hand",
        "backend": "onnx",
        "head": head,
        "classes": classes if classes in ("coco", "coco91") else [part.strip() for part in classes.split(",")],
        "input": size,
        "licence": licence,
        "files": [{"name": stored, "sha256": digest}],
    }
    try:
        models.check_new(name, values)
        models.cache_dir.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, models.cache_dir / stored)
        models.add(name, values)
        detector = make_detector([name], models=models, threads=1)
    except ValueError as error:
        fail(str(error), code=2)
    except ModelRefused as error:
        models.remove(name)
        fail(str(error))
    if json:
        print_json({"added": name, "sha256": digest, "version": detector.version})
    else:
        out.print(f"added {name}; use it with CV_PLATFORM_DETECTORS={name}", markup=False)


@app.command()
def pull(names: NamesArgument = None, json: JsonOption = False) -> None:
    """Fetch models into the model cache. Exit status 1 if one cannot be had."""
    from cv_platform.vision.models import ModelRefused, ModelUnavailable

    models = _registry()
    rows, failed = [], False
    for name in _chosen(models, names):
        if not models.entry(name).files:
            rows.append({"name": name, "state": "built in"})
            continue
        try:
            here = models.locate(name)
            if here is None:
                err.print(f"fetching {name} …", markup=False)
                models.fetch(name, again=True)
            rows.append({"name": name, "state": "here already" if here else "fetched"})
        except (ModelUnavailable, ModelRefused) as error:
            failed = True
            rows.append({"name": name, "state": "failed", "reason": str(error)})
    _print_rows(rows, json)
    raise typer.Exit(1 if failed else 0)


@app.command()
def verify(names: NamesArgument = None, json: JsonOption = False) -> None:
    """Check digest and canary of the models that are here. Exit status 1 if one that is here, or is named, fails."""
    from cv_platform.vision.detectors.build import make_detector
    from cv_platform.vision.models import ModelRefused, ModelUnavailable

    models = _registry(fetch=False)
    rows, failed = [], False
    for name in _chosen(models, names):
        entry = models.entry(name)
        try:
            if entry.backend == "embedder":
                models.read(name)
                rows.append({"name": name, "state": "ok", "version": "digest only: no detector"})
            else:
                rows.append({"name": name, "state": "ok", "version": make_detector([name], models=models).version})
        except ModelUnavailable as error:
            failed = failed or bool(names)
            rows.append({"name": name, "state": "not here", "reason": str(error)})
        except ModelRefused as error:
            failed = True
            rows.append({"name": name, "state": "refused", "reason": str(error)})
    _print_rows(rows, json)
    raise typer.Exit(1 if failed else 0)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="A model's name, as `models list` shows it.")],
    reason: Annotated[str, typer.Option(help="Why; stands in the audit log.")],
    by: Annotated[str, typer.Option(help="Who revokes it.")],
    json: JsonOption = False,
) -> None:
    """Take back every clip in whose blurring a model had a part, and let it have none any more.

    Clips whose raw bytes are still there are blurred anew with the models that the settings name then.
    """
    from cv_platform.commands.console import connected_settings
    from cv_platform.governance.revocation import revoke_models
    from cv_platform.storage.provision import database_at

    models = _registry(fetch=False)
    [chosen] = _chosen(models, [name])
    files = [f"{chosen}@{digest[:12]}" for digest in sorted(models.entry(chosen).digests)]
    if not files:
        fail(f"{chosen} has no file that could be revoked", code=2)
    try:
        done = revoke_models(database_at(str(connected_settings().postgres_url)), files, reason=reason, by=by)
    except ValueError as error:
        fail(str(error), code=2)
    if json:
        print_json(vars(done))
    else:
        out.print(f"{chosen} is revoked: {done.again} clips are blurred anew, {done.quarantined} are quarantined")


@app.command()
def bench(
    names: NamesArgument = None,
    width: Annotated[int, typer.Option(help="Width of the frames, pixels.", min=64)] = 960,
    height: Annotated[int, typer.Option(help="Height of the frames, pixels.", min=64)] = 540,
    threads: Annotated[int, typer.Option(help="Threads; 0: all cores.", min=0)] = 0,
    json: JsonOption = False,
) -> None:
    """Time the models that are here on a drawn picture: frames a second, letterbox to suppressed boxes."""
    import statistics
    import time

    import cv2

    from cv_platform.vision.detectors.build import make_detector
    from cv_platform.vision.detectors.canary import canary_picture
    from cv_platform.vision.models import ModelRefused, ModelUnavailable

    models = _registry(fetch=False)
    frame = cv2.resize(canary_picture(), (width, height))
    rows: list[dict[str, Any]] = []
    for name in _chosen(models, names):
        if models.entry(name).backend == "embedder":
            continue
        try:
            detector = make_detector([name], models=models, threads=threads)
        except (ModelUnavailable, ModelRefused) as error:
            rows.append({"name": name, "state": "not measured", "reason": str(error)})
            continue
        detector.detect([frame])  # type: ignore[list-item]  # cv2 gives uint8 for uint8
        seconds = []
        for _ in range(7):
            started = time.perf_counter()
            detector.detect([frame])  # type: ignore[list-item]
            seconds.append(time.perf_counter() - started)
        middle = statistics.median(seconds)
        rows.append({"name": name, "state": f"{1 / middle:,.1f} frames/s", "ms": round(1000 * middle, 2)})
    _print_rows(rows, json)


def _registry(*, fetch: bool = True) -> ModelRegistry:
    from cv_platform.settings import get_settings
    from cv_platform.vision.models import ModelRegistry

    settings = get_settings()
    return ModelRegistry(cache_dir=settings.model_cache, model_dir=settings.model_dir, fetch=fetch)


def _chosen(models: ModelRegistry, names: list[str] | None) -> list[str]:
    for name in names or ():
        if name not in models.entries:
            fail(f"there is no model {name!r}; known are {', '.join(sorted(models.entries))}", code=2)
    return names or list(models.entries)


def _row(models: ModelRegistry, name: str) -> dict[str, str]:
    from cv_platform.vision.classes import CLASS_NAMES
    from cv_platform.vision.models import ModelRefused

    entry = models.entry(name)
    known = [CLASS_NAMES[class_id] for class_id in entry.class_ids if class_id >= 0]
    finds = ", ".join(known) if len(known) <= 3 else f"{len(known)} classes"
    try:
        state = "built in" if not entry.files else ("yes" if models.locate(name) else "no")
    except ModelRefused:
        state = "refused: wrong file"
    return {"name": name, "finds": finds, "licence": entry.licence, "source": entry.source, "state": state}


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"models": rows})
        return
    for row in rows:
        detail = row.get("reason") or row.get("version") or ""
        out.print(f"{row['name']:<16} {row['state']:<16} {detail}".rstrip(), markup=False)
