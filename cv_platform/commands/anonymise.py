"""`cv-platform anonymise`: hide faces in a file or a folder, alone, without Dagster or a database; and verify one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from cv_platform.commands.console import JsonOption, err, fail, out, print_json
from cv_platform.settings import get_settings

if TYPE_CHECKING:
    from cv_platform.vision.anonymise.policy import AnonymisePolicy
    from cv_platform.vision.anonymise.sandbox import DetectorSpec

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".mpg", ".mpeg", ".flv", ".3gp"}
_DEFAULT = "clips"


class _ClipsByDefault(TyperGroup):
    """`anonymise IN` is `anonymise clips IN`: people who only need this need no second word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ClipsByDefault,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Hide faces in clips and prove it.\n\n`cv-platform anonymise IN -o OUT` works on a file or a folder; "
    "`cv-platform anonymise verify CLIP` checks a result. `cv-platform anonymise clips --help` shows all options.",
)


@app.command(name=_DEFAULT)
def clips(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A clip, or a folder of clips.", exists=True)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT", help="File or folder; beside IN where left out.")
    ] = None,
    method: Annotated[Literal["solid", "mosaic", "blur"], typer.Option(help="How faces are hidden.")] = "solid",
    audio: Annotated[Literal["drop", "keep"], typer.Option(help="What becomes of the sound.")] = "drop",
    classes: Annotated[str, typer.Option(help="Names of what is hidden, with commas.")] = "face",
    zone: Annotated[
        list[str] | None,
        typer.Option(help="Always hide this polygon: x,y x,y x,y … in 0..1 of the upright picture. May be repeated."),
    ] = None,
    detector: Annotated[str, typer.Option(help="Model that finds what is hidden (models.yaml), or auto.")] = "auto",
    verifier: Annotated[str, typer.Option(help="A different model for the proof, or auto.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite results that exist.")] = False,
    json: JsonOption = False,
) -> None:
    """Hide faces in a clip, or in every clip of a folder; write a certificate beside each result.

    A clip whose anonymisation is not proven is not written. Exit status 0: all clips were written; 1: some were not.
    """
    from cv_platform.vision.anonymise import AnonymisationFailed, AnonymisePolicy
    from cv_platform.vision.anonymise.certificate import SUFFIX, different
    from cv_platform.vision.anonymise.sandbox import anonymise_clip_sandboxed
    from cv_platform.vision.classes import CLASS_IDS
    from cv_platform.vision.models import ModelRefused, ModelUnavailable

    names = [name.strip() for name in classes.split(",") if name.strip()]
    unknown = [name for name in names if name not in CLASS_IDS]
    if unknown:
        fail(f"--classes: {', '.join(unknown)} is unknown; allowed are {', '.join(sorted(CLASS_IDS))}", code=2)
    try:
        policy = AnonymisePolicy(
            classes=tuple(CLASS_IDS[name] for name in names),
            method=method,
            audio=audio,
            zones=tuple(_polygon(text) for text in zone or []),
        )
        specs = _specs(policy, detector, verifier)
        if specs[1] is not None and not different(specs[0].arguments["names"], specs[1].arguments["names"]):
            raise ValueError(f"--verifier {verifier} finds the faces too; a proof takes a second, different model")
    except (ValueError, ModelUnavailable, ModelRefused) as error:
        fail(str(error), code=2)
    pairs = list(_pairs(source, output))
    if not pairs:
        fail(f"the folder holds no clip; known are the endings {', '.join(sorted(VIDEO_SUFFIXES))}", code=2)
    results: list[dict[str, Any]] = []
    for given, made in pairs:
        if made.exists() and not force:
            results.append({"input": str(given), "error": "exists", "message": f"{made} is there already; see --force"})
        elif made.resolve() == given.resolve():
            results.append({"input": str(given), "error": "same_file", "message": "OUT would replace IN"})
        else:
            made.parent.mkdir(parents=True, exist_ok=True)
            try:
                with _progress(given.name, enabled=not json) as progress:
                    certificate = anonymise_clip_sandboxed(
                        given, made, policy=policy, detector=specs[0], verifier=specs[1], progress=progress
                    )
            except AnonymisationFailed as failed:
                results.append({"input": str(given), "error": failed.reason_code, "message": failed.message})
            else:
                beside = made.with_name(made.name + SUFFIX)
                beside.write_text(certificate.to_json(), encoding="utf-8")
                results.append(
                    {
                        "input": str(given), "output": str(made), "certificate": str(beside),
                        "frames": certificate.frames, "tracks": certificate.tracks,
                        "frames_touched": certificate.frames_touched, "worst_coverage": certificate.worst_coverage,
                        "seconds": round(sum(certificate.seconds.values()), 2),
                    }
                )  # fmt: skip
        if not json:
            _say(results[-1])
    failures = sum("error" in result for result in results)
    if json:
        print_json({"ok": not failures, "clips": results})
    raise typer.Exit(1 if failures else 0)


@app.command()
def verify(
    clip: Annotated[Path, typer.Argument(help="A published clip.", exists=True, dir_okay=False)],
    certificate: Annotated[
        Path | None, typer.Option(help="Its certificate; the file beside it where left out.", dir_okay=False)
    ] = None,
    look: Annotated[bool, typer.Option(help="Also look for faces that are still to be seen.")] = True,
    verifier: Annotated[str, typer.Option(help="Model that looks, or auto.")] = "auto",
    json: JsonOption = False,
) -> None:
    """Check a published clip against its certificate: digest, streams, metadata, frames, faces.

    Exit status 0: the clip is what its certificate says; 1: it is not; 2: there is no certificate to check against, or
    no model to look with.
    """
    from cv_platform.vision.anonymise.certificate import SUFFIX, Certificate
    from cv_platform.vision.anonymise.policy import AnonymisePolicy
    from cv_platform.vision.anonymise.verification import verify_clip
    from cv_platform.vision.anonymise.worker import make_detector
    from cv_platform.vision.models import ModelRefused, ModelUnavailable

    beside = certificate or clip.with_name(clip.name + SUFFIX)
    try:
        claimed = Certificate.from_json(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = "there is none" if isinstance(error, FileNotFoundError) else str(error)
        fail(f"{beside.name}: {reason}; name the certificate with --certificate", code=2)
    looking = None
    if look:
        try:
            spec = _specs(AnonymisePolicy(), "auto", verifier)[1]
        except (ValueError, ModelUnavailable, ModelRefused) as error:
            fail(f"{error}; or leave the look for faces out with --no-look", code=2)
        if spec is not None:
            looking = make_detector({"factory": spec.factory, "arguments": dict(spec.arguments)})
    with _progress(clip.name, enabled=not json) as progress:
        found = verify_clip(
            clip, claimed, detector=looking, progress=lambda done: progress("verify", done, claimed.frames)
        )
    if json:
        print_json(
            {
                "ok": found.ok, "problems": found.problems, "frames": found.frames,
                "frames_examined": found.frames_examined, "frames_with_faces": found.frames_with_faces,
            }
        )  # fmt: skip
    elif found.ok:
        out.print(f"{clip}: is what its certificate says ({found.frames} frames)", markup=False)
    else:
        for problem in found.problems:
            out.print(f"{clip}: {problem}", markup=False, style="red")
    raise typer.Exit(0 if found.ok else 1)


def _polygon(text: str) -> tuple[tuple[float, float], ...]:
    try:
        points = tuple((float(x), float(y)) for x, y in (point.split(",") for point in text.split()))
    except ValueError:
        raise ValueError(f"--zone {text!r} is no polygon; allowed is x,y x,y x,y … with numbers in 0..1") from None
    return points


def _specs(policy: AnonymisePolicy, detector: str, verifier: str) -> tuple[DetectorSpec, DetectorSpec | None]:
    """Both detectors for the worker; their files are fetched here, where that is allowed."""
    from cv_platform.vision.anonymise.policy import detector_arguments, verifier_arguments
    from cv_platform.vision.anonymise.sandbox import DetectorSpec
    from cv_platform.vision.models import ModelRegistry

    settings = get_settings()
    models = ModelRegistry(cache_dir=settings.model_cache, model_dir=settings.model_dir, fetch=settings.fetch_models)
    finding = tuple(models.resolve(detector, choice="face_detector"))
    if verifier == "auto":
        others = (names for names in models.choices["face_verifier"] if not set(names) & set(finding))
        proving = next((tuple(names) for names in others if all(models.available(name) for name in names)), None)
        if proving is None:
            raise ValueError("there is no second face model for the proof; put one into CV_PLATFORM_MODEL_DIR")
    else:
        proving = tuple(models.resolve(verifier, choice="face_verifier"))

    def spec(names: tuple[str, ...], arguments: dict[str, Any]) -> DetectorSpec:
        for name in names:
            if models.entry(name).files:
                models.path(name)
        return DetectorSpec(
            "cv_platform.vision.detectors.spec:detector_from_files",
            {
                "names": list(names),
                "cache_dir": str(settings.model_cache.resolve()),
                "model_dir": None if settings.model_dir is None else str(settings.model_dir.resolve()),
                "threads": 0,
                **arguments,
            },
        )

    return spec(finding, detector_arguments(policy)), spec(proving, verifier_arguments(policy))


def _pairs(source: Path, output: Path | None) -> Iterator[tuple[Path, Path]]:
    if source.is_file():
        made = output or source.with_name(f"{source.stem}_anonymised.mp4")
        yield source, made / f"{source.stem}.mp4" if made.is_dir() else made
        return
    folder = output or source.with_name(f"{source.name}_anonymised")
    taken: set[Path] = set()
    for given in sorted(p for p in source.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()):
        if folder in given.parents:
            continue
        made = folder / given.relative_to(source).with_suffix(".mp4")
        if made in taken:
            made = made.with_name(f"{given.name}.mp4")
        taken.add(made)
        yield given, made


@contextmanager
def _progress(name: str, *, enabled: bool) -> Iterator[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.fields[stage]:<7}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(TextColumn(name, markup=False), *columns, console=err, transient=True, disable=not enabled) as bar:
        task = bar.add_task("", total=None, stage="start")

        def show(stage: str, done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total, stage=stage)

        yield show


def _say(result: dict[str, Any]) -> None:
    if "error" in result:
        out.print(f"{result['input']}: not written: {result['message']}", markup=False, style="red")
        return
    rate = result["frames"] / max(result["seconds"], 1e-3)
    out.print(
        f"{result['output']}: {result['frames']} frames, {result['tracks']} hidden tracks, worst coverage "
        f"{result['worst_coverage']:.0%}, {rate:.0f} frames/s",
        markup=False,
    )
