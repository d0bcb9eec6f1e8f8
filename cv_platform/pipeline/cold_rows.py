"""Cold rows that must change: brought back to PostgreSQL, taken out for good, or past their term.

A camera's day is warm or cold as a whole. A late clip, another version of a stage, a clip that is withdrawn: whatever
touches it first brings it back, and the next `warm_to_cold` moves it out again, behind the marts that are built anew
from it. So tracking and marts know nothing of Parquet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cv_platform import faults
from cv_platform.pipeline.platform import Platform
from cv_platform.storage.cold.checksums import Checksum, of_batch, of_table
from cv_platform.storage.cold.kinds import KINDS
from cv_platform.storage.cold.loading import load_batch
from cv_platform.storage.cold.parquet import read_file
from cv_platform.storage.database import Connection
from cv_platform.storage.ledger.cold_days import (
    ColdFile,
    cold_camera_days,
    cold_cameras,
    expire_day,
    forget_files,
    live_files,
    lock_files,
    partition,
    past_cold_term,
)
from cv_platform.storage.ledger.cold_removals import clear_removals, to_rewrite
from cv_platform.storage.ledger.days import mark_dirty, midnight
from cv_platform.storage.objects import ObjectMissing
from cv_platform.storage.warehouse import ensure_days

if TYPE_CHECKING:
    import pyarrow as pa

# Queries that have begun may read a file for that long after its rows moved.
_READERS_END: Final = timedelta(minutes=15)


class ColdFileDamaged(Exception):
    """A file is not in the store, or not what was written: nothing was changed. Restore it from a backup."""


@dataclass(frozen=True)
class Unwanted:
    """Rows to be left out for good when a camera's days are brought back.

    Attributes:
        clips: by the published keys of their clips.
        tracks: by (track_day, track_id).
        start, end: by time, `end` exclusive; None for both: by nothing.
        everything: all of them.
    """

    clips: frozenset[str] = frozenset()
    tracks: frozenset[tuple[date, int]] = frozenset()
    start: datetime | None = None
    end: datetime | None = None
    everything: bool = False

    @property
    def nothing(self) -> bool:
        """Whether it leaves out no row."""
        return not (self.clips or self.tracks or self.start or self.end or self.everything)


@dataclass
class BroughtBack:
    """What was done. Numbers only.

    Attributes:
        days: camera-days that are warm again, or gone.
        rows: rows that are warm again.
        removed: rows that are nowhere any more, by kind.
        keys: objects whose rows are elsewhere or gone, left to the collector.
    """

    days: int = 0
    rows: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    keys: list[str] = field(default_factory=list)


def bring_back(platform: Platform, camera_id: str, days: Iterable[date], *, told_by: str | None = None) -> BroughtBack:
    """Bring a camera's cold days back to PostgreSQL; costs one look into an index where none is cold.

    Args:
        told_by: a clip's published key: also the days on which it told of something.

    Raises:
        ColdFileDamaged: a file is missing or damaged; its day stays cold.
    """
    with platform.database.transaction() as connection:
        cold = cold_camera_days(connection, camera_id, days, told_by=told_by)
    return _each_day(platform, camera_id, cold, Unwanted())


def remove_rows(platform: Platform, camera_id: str, days: Iterable[date], unwanted: Unwanted) -> BroughtBack:
    """Take rows out of a camera's cold days for good; what is left of these days is warm until they go cold again.

    In one transaction a day: the rest of the rows is written to PostgreSQL, the files are forgotten and their objects
    due at the collector, the day's marts are to be built again. Warm rows are not looked at. Asks no hold: its callers
    do. A day that has none of the unwanted rows stays as it is.

    Raises:
        ColdFileDamaged: a file is missing or damaged; its day is as it was.
    """
    if unwanted.nothing:
        raise ValueError("nothing is unwanted; allowed: clips, tracks, an interval, everything")
    with platform.database.transaction() as connection:
        cold = cold_camera_days(connection, camera_id, days)
    return _each_day(platform, camera_id, cold, unwanted)


def remove_clips(platform: Platform, camera_id: str, days: Iterable[date], clips: Iterable[str]) -> BroughtBack:
    """`remove_rows` of clips, by their published keys; also what they told of earlier days."""
    keys = frozenset(clips)
    found: set[date] = set(days)
    with platform.database.transaction() as connection:
        for key in sorted(keys):
            found.update(cold_camera_days(connection, camera_id, (), told_by=key))
    return remove_rows(platform, camera_id, found, Unwanted(clips=keys))


def rewrite_withdrawn(platform: Platform) -> BroughtBack:
    """Take out of the files what was withdrawn while it was cold; readers leave it out already."""
    report = BroughtBack()
    with platform.database.transaction() as connection:
        due = to_rewrite(connection)
    for camera_id, day, clips in due:
        _bring_back_day(platform, camera_id, day, Unwanted(clips=frozenset(clips)), report)
    return report


def expire_cold(platform: Platform, now: datetime | None = None) -> int:
    """Delete rows past the cold term of their camera, unless held, a camera's day at a time; returns how many files."""
    now = now or datetime.now(UTC)
    files = 0
    with platform.database.transaction() as connection:
        cameras = cold_cameras(connection)
    for site_id, camera_id in cameras:
        before = (now - platform.policy.rules_for(site_id, camera_id).keep.cold).date()
        with platform.database.transaction() as connection:
            days = past_cold_term(connection, site_id, camera_id, before)
        for day in days:
            faults.point("expire_cold.before_commit")
            files += platform.database.transact(partial(expire_day, site_id=site_id, camera_id=camera_id, day=day))
            faults.point("expire_cold.after_commit")
    return files


def local_copy(platform: Platform, key: str, folder: Path) -> Path:
    """A cold object as a file to read: the store's own where that is a folder. Raises ObjectMissing."""
    if platform.cold.folder is not None:
        path = platform.cold.folder / key
        if not path.is_file():
            raise ObjectMissing("no such object in the store")
        return path
    path = folder / key.replace("/", "_")
    platform.cold.download(key, path)
    return path


def _each_day(platform: Platform, camera_id: str, days: Iterable[date], unwanted: Unwanted) -> BroughtBack:
    report = BroughtBack()
    for day in days:
        _bring_back_day(platform, camera_id, day, unwanted, report)
    return report


def _bring_back_day(platform: Platform, camera_id: str, day: date, unwanted: Unwanted, report: BroughtBack) -> None:
    database = platform.database
    with platform.scratch() as folder:
        paths: dict[str, Path] = {}
        with database.transaction() as connection:
            files = live_files(connection, cameras=[camera_id], start=midnight(day), end=midnight(day + timedelta(1)))
        for file in files:
            try:
                paths[file.object_key] = local_copy(platform, file.object_key, folder)
            except ObjectMissing:
                raise ColdFileDamaged(f"a file of {file.kind} is not in the store; nothing was changed") from None
        ensure_days(database, [day])
        faults.point("bring_back.fetched")

        def work(connection: Connection) -> BroughtBack:
            return _load_day(connection, camera_id, day, paths, unwanted)

        done = database.transact(work)
    faults.point("bring_back.done")
    report.days += done.days
    report.rows += done.rows
    report.keys += done.keys
    report.removed += done.removed


def _load_day(
    connection: Connection, camera_id: str, day: date, paths: dict[str, Path], unwanted: Unwanted
) -> BroughtBack:
    connection.execute("LOCK TABLE warehouse.tracks, warehouse.events, warehouse.detections IN ROW EXCLUSIVE MODE")
    files = lock_files(connection, camera_id, day)
    done = BroughtBack()
    if not files or any(file.object_key not in paths for file in files):
        return done  # another was first; what it left is warm, or is asked for again
    clips_of_tracks = _clips_of(files, paths, unwanted)
    for kind in KINDS:
        of_kind = [file for file in files if file.kind == kind]
        before = of_table(connection, kind, partition(kind, day), camera_id=camera_id) if of_kind else {}
        loaded = Checksum()
        for file in of_kind:
            whole = Checksum()
            for batch in _read(file, paths):
                whole += of_batch(kind, camera_id, batch)
                kept = _kept(kind, batch, unwanted, file.removed_clips, clips_of_tracks)
                load_batch(connection, kind, kept)
                loaded += of_batch(kind, camera_id, kept)
            if whole != file.expected:
                raise ColdFileDamaged(f"a file of {kind} is not what was written; nothing was changed")
            done.removed[kind] += whole.rows
        if of_kind:
            after = of_table(connection, kind, partition(kind, day), camera_id=camera_id)
            if after.get(camera_id, Checksum()) != before.get(camera_id, Checksum()) + loaded:
                raise ColdFileDamaged(f"rows of {kind} did not come back as they were; nothing was changed")
        done.removed[kind] -= loaded.rows
        done.rows += loaded.rows
    done.removed = +done.removed
    if not unwanted.nothing and not done.removed:
        connection.rollback()  # none of the unwanted rows is here: all stays as it is
        for file in files:
            clear_removals(connection, file.file_id, file.removed_clips)
        return BroughtBack()
    faults.point("bring_back.loaded")
    forget_files(connection, files, keep_for=timedelta(0) if done.removed else _READERS_END)
    mark_dirty(connection, [day])
    done.days, done.keys = 1, [file.object_key for file in files]
    return done


def _read(file: ColdFile, paths: dict[str, Path]) -> Iterable[pa.RecordBatch]:
    import pyarrow as pa

    try:
        yield from read_file(paths[file.object_key], file.kind)
    except (OSError, ValueError, pa.ArrowException):
        raise ColdFileDamaged(f"a file of {file.kind} cannot be read; nothing was changed") from None


def _clips_of(files: list[ColdFile], paths: dict[str, Path], unwanted: Unwanted) -> set[tuple[str, int]]:
    """Clip and id of unwanted tracks: a detection names its track without the day that the id counts in."""
    found: set[tuple[str, int]] = set()
    if unwanted.tracks:
        for file in [file for file in files if file.kind == "tracks"]:
            for batch in _read(file, paths):
                rows = zip(
                    *(batch.column(n).to_pylist() for n in ("clip_s3_key", "track_day", "track_id")), strict=True
                )
                found.update((clip, number) for clip, day, number in rows if (day, number) in unwanted.tracks)
    return found


def _kept(
    kind: str,
    batch: pa.RecordBatch,
    unwanted: Unwanted,
    removed_clips: tuple[str, ...],
    clips_of_tracks: set[tuple[str, int]],
) -> pa.RecordBatch:
    """The rows that stay."""
    import json

    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if unwanted.everything:
        return batch.slice(0, 0)
    gone = np.zeros(batch.num_rows, bool)
    clips = sorted(unwanted.clips.union(removed_clips))
    clip = batch.column("clip_s3_key")
    clip = clip.dictionary_decode() if isinstance(clip, pa.DictionaryArray) else clip
    if clips:
        gone |= pc.is_in(clip, pa.array(clips)).to_numpy(zero_copy_only=False)
    if unwanted.start is not None or unwanted.end is not None:
        seen = batch.column("timestamp")
        last = batch.column("last_seen_at") if kind == "tracks" else seen
        inside = np.ones(batch.num_rows, bool)
        if unwanted.start is not None:
            inside &= pc.greater_equal(last, pa.scalar(unwanted.start, last.type)).to_numpy(zero_copy_only=False)
        if unwanted.end is not None:
            inside &= pc.less(seen, pa.scalar(unwanted.end, seen.type)).to_numpy(zero_copy_only=False)
        gone |= inside
    if unwanted.tracks:
        numbers = batch.column("track_id").to_pylist()
        if kind == "detections":
            matches = [pair in clips_of_tracks for pair in zip(clip.to_pylist(), numbers, strict=True)]
        elif kind == "tracks":
            days = batch.column("track_day").to_pylist()
            matches = [pair in unwanted.tracks for pair in zip(days, numbers, strict=True)]
        else:
            told = [json.loads(text).get("track_day") for text in _texts(batch.column("attributes"))]
            wanted = {(day.isoformat(), number) for day, number in unwanted.tracks}
            matches = [pair in wanted for pair in zip(told, numbers, strict=True)]
        gone |= np.array(matches, bool)
    return batch.filter(pa.array(~gone)) if gone.any() else batch


def _texts(column: pa.Array) -> list[str]:
    return [str(value) for value in column.to_pylist()]
