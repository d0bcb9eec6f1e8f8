"""warm → cold: days past their warm term leave PostgreSQL as Parquet, a file a camera, day and kind of row.

Each file is written, uploaded, read again from the store and compared with the table, rows and a checksum over every
column, before it is noted. When all are, one transaction makes them count and drops the day's partitions. What changes
the day in between makes the export void (a trigger says so), and it begins anew.

A camera whose policy has a shorter warm term than the others of its day goes first: its rows are deleted in the
transaction in which its files begin to count; the partition is dropped when the last camera has gone.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from psycopg.errors import LockNotAvailable

from cv_platform import faults
from cv_platform.governance.audit import append
from cv_platform.pipeline.cold_rows import BroughtBack, local_copy, rewrite_withdrawn
from cv_platform.pipeline.cold_rows import expire_cold as expire_cold
from cv_platform.pipeline.platform import Platform
from cv_platform.storage.cold.checksums import Checksum, Survey, of_table, survey_table
from cv_platform.storage.cold.parquet import checksum_of, write_file
from cv_platform.storage.cold.reading import read_rows
from cv_platform.storage.ledger.claims import lease_kept
from cv_platform.storage.ledger.cold_days import (
    ColdFile,
    DayClaim,
    cameras_of_day,
    claim_day,
    discard_exported,
    exported_files,
    go_cold,
    later_clips,
    marts_built,
    partition,
    partitions_of,
    record_exported,
    record_file,
    release_day,
    renew_day,
    warm_days,
)
from cv_platform.storage.ledger.commits import note_object
from cv_platform.storage.ledger.days import mark_dirty, midnight
from cv_platform.storage.ledger.model import StaleClaim
from cv_platform.storage.warehouse import ensure_days

if TYPE_CHECKING:
    import pyarrow as pa

DAYS_AHEAD: Final = 3
LEASE_S: Final = 300.0
# A busy lock is tried for again that often, with pauses in which everyone else goes on.
CLAIM_ATTEMPTS: Final = 20
SWITCH_ATTEMPTS: Final = 60
_PAUSE_S: Final = 0.5


class ExportFailed(Exception):
    """What was read back from the store is not what the table holds; the rows stay where they are."""


@dataclass
class Moved:
    """What one run did. Numbers and dates only.

    Attributes:
        cold: days of which every row left.
        partly: days of which the rows of some cameras left.
        behind: days that wait for their marts to be built.
        changed: days that changed while they were exported, to be exported again.
        busy: days that another run has in hand, or whose tables were in use.
        rewritten: what was taken out of files since it was withdrawn.
    """

    cold: list[date] = field(default_factory=list)
    partly: list[date] = field(default_factory=list)
    behind: list[date] = field(default_factory=list)
    changed: list[date] = field(default_factory=list)
    busy: list[date] = field(default_factory=list)
    files: int = 0
    rows: int = 0
    size_bytes: int = 0
    rewritten: BroughtBack = field(default_factory=BroughtBack)
    seconds: float = 0.0


def warm_to_cold(platform: Platform, now: datetime | None = None) -> Moved:
    """Make the coming days' partitions, rewrite what was withdrawn, and move every day that is due, oldest first.

    Safe to run again, to run twice at once, and to kill: a day that was broken off goes on where it was.

    Raises:
        ExportFailed: a file does not hold what the table holds.
        ColdFileDamaged: a file with withdrawn rows is missing or damaged.
    """
    started = time.monotonic()
    now = now or datetime.now(UTC)
    report = Moved()
    ensure_days(platform.database, [now.date() + timedelta(days=n) for n in range(DAYS_AHEAD + 1)])
    report.rewritten = rewrite_withdrawn(platform)
    with platform.database.transaction() as connection:
        days = warm_days(connection)
    for day in days:
        if platform.should_stop() or midnight(day + timedelta(days=1)) > now:
            break
        _move_if_due(platform, day, now, report)
    report.seconds = time.monotonic() - started
    if report.rows or report.rewritten.days:
        details = {"days": len(report.cold) + len(report.partly), "files": report.files, "rows": report.rows}
        details |= {"camera-days rewritten": report.rewritten.days, "rows withdrawn": report.rewritten.removed.total()}
        with platform.database.transaction() as connection:
            append(connection, actor="warm_to_cold", action="rows.moved_to_cold", details=details)
    return report


def _move_if_due(platform: Platform, day: date, now: datetime, report: Moved) -> None:
    with platform.database.transaction() as connection:
        cameras = cameras_of_day(connection, day)
        due = [camera for site, camera in cameras if _past_term(platform, site, camera, day, now)]
        if cameras and not due:
            return
        if not cameras and not _past_term(platform, None, None, day, now):
            return
        if cameras and not marts_built(connection, day):
            if connection.execute("SELECT 1 FROM cv.mart_days WHERE day = %s", [day]).fetchone() is None:
                mark_dirty(connection, [day])
            report.behind.append(day)
            return
    claim = _claim(platform, day)
    if claim is None:
        report.busy.append(day)
        return
    try:
        with lease_kept(
            platform.database, lambda connection: renew_day(connection, claim, lease_s=LEASE_S), lease_s=LEASE_S
        ):
            _move(platform, claim, due, report)
    except StaleClaim:
        report.changed.append(day)
    finally:
        release_day(platform.database, claim)


def _claim(platform: Platform, day: date) -> DayClaim | None:
    """A lease on the day; None where another run has it in hand, or its tables stay busy."""
    for attempt in range(CLAIM_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_S)
        try:
            with platform.database.transaction() as connection:
                return claim_day(connection, day, run_id=platform.run_id, lease_s=LEASE_S)
        except LockNotAvailable:
            continue
    return None


def _past_term(platform: Platform, site_id: str | None, camera_id: str | None, day: date, now: datetime) -> bool:
    term = platform.policy.rules_for(site_id, camera_id).keep.warm
    return midnight(day + timedelta(days=1)) + term <= now


def _move(platform: Platform, claim: DayClaim, due: list[str], report: Moved) -> None:
    faults.point("warm_to_cold.claimed")
    if claim.state == "exporting":
        _export(platform, claim, due)
        record_exported(platform.database, claim)
        claim = DayClaim(claim.day, "exported", claim.fence)
    faults.point("warm_to_cold.exported")
    _switch(platform, claim, report)
    faults.point("warm_to_cold.switched")


def _export(platform: Platform, claim: DayClaim, due: list[str]) -> None:
    """Write and verify a file of each kind for each camera that is due and has none yet."""
    database, day = platform.database, claim.day
    with database.transaction() as connection:
        kinds = partitions_of(connection, day)
        done = {(file.kind, file.camera_id): file for file in exported_files(connection, day)}
        told = later_clips(connection, day) if "events" in kinds else {}
    # What was exported of a camera that is not due any more, or of rows that are not there, counts for nothing.
    for kind in kinds:
        with database.transaction() as connection:
            surveys = survey_table(connection, kind, partition(kind, day))
        wanted = {camera: survey for camera, survey in surveys.items() if camera in due}
        stale = [
            file.file_id
            for (of_kind, camera), file in done.items()
            if of_kind == kind and (camera not in wanted or wanted[camera].checksum != file.expected)
        ]
        with database.transaction() as connection:
            discard_exported(connection, day, stale)
        missing = sorted(
            camera for camera in wanted if (kind, camera) not in done or done[kind, camera].file_id in stale
        )
        with (
            closing(_ahead(_rows_of(platform, kind, day, {camera: wanted[camera] for camera in missing}))) as rows,
            platform.scratch() as folder,
            _Behind() as behind,
        ):
            for camera in missing:
                path = folder / f"{uuid.uuid4()}.parquet"
                write_file(path, kind, takewhile(lambda batch: batch is not None, rows))
                later = tuple(told.get(camera, ())) if kind == "events" else ()
                behind.do(partial(_store, platform, claim, kind, camera, wanted[camera].checksum, later, path))


def _rows_of(platform: Platform, kind: str, day: date, cameras: dict[str, Survey]) -> Iterator[pa.RecordBatch | None]:
    """Each camera's batches, None behind each camera's last."""
    table = partition(kind, day)
    for camera, survey in cameras.items():
        try:
            with platform.database.transaction() as connection:
                yield from read_rows(connection, kind, table, camera, key_lengths=survey.key_lengths)
        except ValueError:
            _require_unchanged(platform, kind, day, camera, survey.checksum)
            raise
        yield None


def _require_unchanged(platform: Platform, kind: str, day: date, camera_id: str, expected: Checksum) -> None:
    """Raises StaleClaim where the table does not hold what it held when the export began."""
    with platform.database.transaction() as connection:
        still = of_table(connection, kind, partition(kind, day), camera_id=camera_id)
    if still.get(camera_id, Checksum()) != expected:
        raise StaleClaim("warm_to_cold: the day changed while it was exported")


def _store(
    platform: Platform,
    claim: DayClaim,
    kind: str,
    camera_id: str,
    expected: Checksum,
    later: tuple[str, ...],
    path: Path,
) -> None:
    """Upload a camera's file, read it again, compare, and note it."""
    database = platform.database
    file_id = uuid.uuid4()
    key = f"warehouse/{kind}/{file_id}.parquet"  # names neither camera nor day
    note_object(database, "cold", key)
    faults.point("warm_to_cold.before_upload")
    size_bytes = platform.cold.put_file(key, path).size_bytes
    path.unlink()
    faults.point("warm_to_cold.uploaded")
    stored = local_copy(platform, key, path.parent)
    found = checksum_of(stored, kind, camera_id)
    if platform.cold.folder is None:
        stored.unlink()
    if found != expected:
        _require_unchanged(platform, kind, claim.day, camera_id, expected)
        raise ExportFailed(
            f"{claim.day}: a file of {kind} reads back with {found.rows} rows, the table has {expected.rows}, or their"
            " checksums differ; the rows stay in PostgreSQL"
        )
    file = ColdFile(file_id, claim.day, camera_id, kind, key, found.rows, size_bytes, found.value, later)
    database.transact(lambda connection: record_file(connection, claim, file))
    faults.point("warm_to_cold.recorded")


def _switch(platform: Platform, claim: DayClaim, report: Moved) -> None:
    """Make the files count and let the rows go, as soon as all locks are free for a moment."""
    database, day = platform.database, claim.day
    for attempt in range(SWITCH_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_S)
        try:
            with database.transaction() as connection:
                files = exported_files(connection, day)
                cameras = sorted({file.camera_id for file in files})
                whole = {camera for _, camera in cameras_of_day(connection, day)} <= set(cameras)
            with database.transaction() as connection:
                gone = go_cold(connection, claim, cameras, whole=whole)
        except LockNotAvailable:
            continue
        if not gone:
            report.behind.append(day)
            return
        (report.cold if whole else report.partly).append(day)
        report.files += len(files)
        report.rows += sum(file.rows for file in files)
        report.size_bytes += sum(file.size_bytes for file in files)
        return
    report.busy.append(day)


class _Behind:
    """Does one thing after the other in a thread: while a file is stored and read again, the next is written.

    Used as a context: at its end all is done, and what one of them raised is raised.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "behind")
        self._last: Future[None] | None = None

    def do(self, work: Callable[[], None]) -> None:
        """Begin, behind the one before; waits for that one, so that no more than two files lie in the work root."""
        self._wait()
        self._last = self._pool.submit(work)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        try:
            if failed is None:
                self._wait()
        finally:
            self._pool.shutdown(wait=True)


def _ahead(items: Iterator[Any], depth: int = 3) -> Generator[Any, None, None]:
    """The same items, made by a thread that runs a little ahead: PostgreSQL works while files are written."""
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    given_up = threading.Event()

    def put(*message: Any) -> None:
        while not given_up.is_set():
            try:
                waiting.put(message, timeout=0.2)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if given_up.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  # raised again where the item would have come
            put("error", error)
        else:
            put("end", None)
        finally:
            items.close()  # type: ignore[attr-defined]  # a generator: ends its transaction

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            what, value = waiting.get()
            if what == "error":
                raise value
            if what == "end":
                return
            yield value
    finally:
        given_up.set()
        thread.join()
