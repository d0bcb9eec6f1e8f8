"""Which clips the demonstration uploads, under which keys. Decided once and kept: a second run changes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from cv_platform.pipeline.keys import upload_key
from cv_platform.settings import Settings

CLIP_S = 4.0


@dataclass(frozen=True)
class DemoClip:
    """One clip of the plan.

    Attributes:
        key: where it is uploaded (design: `raw/{site}/{camera}/{YYYY}/{MM}/{DD}/{time}Z.{suffix}`).
        path: the file.
        corrupt: made so that it has to be quarantined.
    """

    key: str
    path: Path
    corrupt: bool = False


@dataclass(frozen=True)
class _Shot:
    site: str
    camera: str
    day: int  # 0: two days ago, 1: yesterday
    time: str
    scene_s: float
    corrupt: bool = False


# Two sites, three cameras, two days. The quay's three clips follow each other over midnight.
_SHOTS = (
    _Shot("harbour", "harbour-quay", 0, "23:59:52", 0.0),
    _Shot("harbour", "harbour-quay", 0, "23:59:56", 4.0),
    _Shot("harbour", "harbour-quay", 1, "00:00:00", 8.0),
    _Shot("harbour", "harbour-gate", 0, "08:15:00", 100.0),
    _Shot("harbour", "harbour-gate", 1, "08:15:00", 200.0),
    _Shot("market", "market-hall", 0, "12:30:00", 300.0),
    _Shot("market", "market-hall", 1, "12:30:00", 400.0),
    _Shot("market", "market-hall", 1, "12:30:04", 404.0),
    _Shot("market", "market-hall", 1, "17:50:00", 600.0, corrupt=True),
)
# What each camera sees: the seed of its scene, the direction in which people walk, and how tall they appear.
_VIEWS = {"harbour-quay": (3, False, 300), "harbour-gate": (11, True, 280), "market-hall": (29, False, 310)}


def sample_clips(folder: Path, *, today: date, progress: Callable[[int, int], None]) -> list[DemoClip]:
    """The sample footage, made in `folder` where it is not there yet.

    Args:
        today: decides the two days before it at the first run; later runs keep what was decided.
        progress: called with clips made and clips in all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "plan.json"
    if plan.exists():
        first_day = date.fromisoformat(json.loads(plan.read_text())["first_day"])
    else:
        first_day = today - timedelta(days=2)
        plan.write_text(json.dumps({"first_day": first_day.isoformat()}))
    clips = []
    for number, shot in enumerate(_SHOTS):
        progress(number, len(_SHOTS))
        day = first_day + timedelta(days=shot.day)
        captured_at = datetime.fromisoformat(f"{day.isoformat()}T{shot.time}+00:00")
        path = folder / f"{shot.camera}-{captured_at:%Y%m%dT%H%M%S}Z.mp4"
        if not path.exists():
            _make(path, shot)
        clips.append(DemoClip(upload_key(shot.site, shot.camera, captured_at, "mp4"), path, shot.corrupt))
    progress(len(_SHOTS), len(_SHOTS))
    return clips


def _make(path: Path, shot: _Shot) -> None:
    from cv_platform.demo.footage import Scene, write_clip, write_corrupt_clip

    seed, leftwards, height = _VIEWS[shot.camera]
    scene = Scene(seed=seed, leftwards=leftwards, height=height)
    if shot.corrupt:
        write_corrupt_clip(path, scene, start_s=shot.scene_s)
    else:
        write_clip(path, scene, start_s=shot.scene_s, duration_s=CLIP_S)


def own_clips(folder: Path, paths: Sequence[Path], *, settings: Settings, now: datetime) -> list[DemoClip]:
    """The user's own files as uploads, each a camera of the site `own`.

    The capture time is the file's time of modification, or `now` where that lies outside what is accepted; it is kept
    by content, so the same file is the same clip in every later run. The file's name goes nowhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    book = folder / "own.json"
    known: dict[str, str] = json.loads(book.read_text()) if book.exists() else {}
    clips = []
    for path in paths:
        digest = _sha256(path)
        suffix = path.suffix.lower().lstrip(".") or "mp4"
        if digest not in known:
            captured_at = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
            if captured_at > now or captured_at.date() < settings.partitions_start:
                captured_at = now.replace(microsecond=0)
            known[digest] = upload_key("own", f"own-{digest[:8]}", captured_at, suffix)
        clips.append(DemoClip(known[digest], path))
    book.write_text(json.dumps(known, indent=1))
    return clips


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
