"""Days that leave the warm warehouse: warm → exporting → exported → cold, and the files that hold what left.

A camera's day is either warm or cold, never both: what must change or be tracked again is brought back whole. The
change from warm to cold is one transaction, in which files begin to count and partitions go; in whichever moment a
reader looks, each row is in one place.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from cv_platform import faults
from cv_platform.storage.cold.checksums import Checksum
from cv_platform.storage.cold.kinds import KINDS
from cv_platform.storage.database import Connection, Database
from cv_platform.storage.ledger.days import midnight
from cv_platform.storage.ledger.model import StaleClaim
from cv_platform.storage.ledger.withdrawal import discard_objects

# Longest wait for one lock: whoever comes behind a waiting lock waits too, and no live table may stand for a second.
LOCK_TIMEOUT_MS: Final = 100


class DayIsCold(Exception):
    """Rows of that camera and day are in Parquet: they must be brought back before anything is written beside them."""


@dataclass(frozen=True)
class ColdFile:
    """A file as the ledger has it."""

    file_id: uuid.UUID
    day: date
    camera_id: str
    kind: str
    object_key: str
    rows: int
    size_bytes: int
    checksum: int
    later_clips: tuple[str, ...] = ()
    removed_clips: tuple[str, ...] = ()

    @property
    def expected(self) -> Checksum:
        """What reading it must give."""
        return Checksum(self.rows, self.checksum)


@dataclass(frozen=True)
class DayClaim:
    """A lease on a day's export."""

    day: date
    state: str
    fence: int


def partition(kind: str, day: date) -> str:
    """A day's partition in SQL."""
    return f"warehouse.{kind}_{day:%Y%m%d}"


def warm_days(connection: Connection) -> list[date]:
    """Days that have partitions, oldest first."""
    rows = connection.execute(
        "SELECT DISTINCT right(c.relname, 8)::date FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = ANY(%s::regclass[]) AND c.relname ~ '_[0-9]{8}$' ORDER BY 1",
        [[f"warehouse.{kind}" for kind in KINDS]],
    ).fetchall()
    return [day for (day,) in rows]


def partitions_of(connection: Connection, day: date) -> list[str]:
    """The kinds that have a partition of the day."""
    rows = connection.execute(
        "SELECT kind FROM unnest(%s::text[]) AS kinds (kind) WHERE to_regclass('warehouse.' || kind || %s) IS NOT NULL",
        [list(KINDS), f"_{day:%Y%m%d}"],
    ).fetchall()
    return [kind for (kind,) in rows]


def cameras_of_day(connection: Connection, day: date) -> list[tuple[str | None, str]]:
    """Site and camera of all that have warm rows on a day; no site where the ledger does not know the camera."""
    cameras: set[str] = set()
    for kind in partitions_of(connection, day):
        table = partition(kind, day)
        # One look into the index a camera, however many rows there are.
        rows = connection.execute(
            f"WITH RECURSIVE seen AS ((SELECT camera_id FROM {table} ORDER BY camera_id LIMIT 1) UNION ALL"
            f" SELECT (SELECT t.camera_id FROM {table} t WHERE t.camera_id > seen.camera_id ORDER BY 1 LIMIT 1)"
            " FROM seen WHERE seen.camera_id IS NOT NULL) SELECT camera_id FROM seen WHERE camera_id IS NOT NULL"
        )
        cameras.update(camera for (camera,) in rows)
    return connection.execute(
        "SELECT c.site_id, found.camera_id FROM unnest(%s::text[]) AS found (camera_id)"
        " LEFT JOIN cv.cameras c USING (camera_id) ORDER BY found.camera_id",
        [sorted(cameras)],
    ).fetchall()


def marts_built(connection: Connection, day: date) -> bool:
    """Whether the marts hold what the ledger knows of the day."""
    row = connection.execute("SELECT built_seq >= dirty_seq FROM cv.mart_days WHERE day = %s", [day]).fetchone()
    return bool(row and row[0])


def claim_day(connection: Connection, day: date, *, run_id: str, lease_s: float) -> DayClaim | None:
    """Take a lease on a day's export and arm its partitions; None where another holds it.

    An export that was broken off goes on where it was, unless the day changed since. Then, and for a new one, what
    older exports left is given to the collector.

    Raises:
        psycopg.errors.LockNotAvailable: a partition was busy for longer than anyone should wait behind us.
    """
    kinds = partitions_of(connection, day)
    _end_vacuum(connection, [partition(kind, day) for kind in kinds])
    connection.execute("INSERT INTO cv.cold_days (day, state) VALUES (%s, 'warm') ON CONFLICT DO NOTHING", [day])
    row = connection.execute(
        "SELECT state FROM cv.cold_days WHERE day = %s AND coalesce(lease_expires_at, '-infinity') < now()"
        " FOR UPDATE SKIP LOCKED",
        [day],
    ).fetchone()
    if row is None:
        return None
    state = "exported" if row[0] == "exported" else "exporting"
    if row[0] in ("warm", "cold"):
        discard_exported(connection, day)
        # Waits for writers under way: each that comes later makes the export void by what it changes.
        for kind in kinds:
            connection.execute(
                f"CREATE OR REPLACE TRIGGER note_change AFTER INSERT OR UPDATE OR DELETE"
                f" ON {partition(kind, day)} FOR EACH ROW EXECUTE FUNCTION warehouse.note_change('{day}')"
            )
    fence = connection.execute(
        "UPDATE cv.cold_days SET state = %s, fence = fence + 1, run_id = %s, lease_expires_at = now() + %s,"
        " changed_at = now() WHERE day = %s RETURNING fence",
        [state, run_id, timedelta(seconds=lease_s), day],
    ).fetchone()
    assert fence is not None
    return DayClaim(day, state, fence[0])


def _end_vacuum(connection: Connection, tables: Iterable[str]) -> None:
    """Wait for, or send away, an autovacuum of the tables: it yields to whoever waits for a second.

    By a lock for which no reader and no writer waits, held or asked for. Then locks are asked for briefly.
    """
    connection.execute("SET LOCAL lock_timeout = '5s'")
    for table in tables:
        connection.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")
    connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")


def renew_day(connection: Connection, claim: DayClaim, *, lease_s: float) -> bool:
    """Renew the lease; False where it is lost."""
    updated = connection.execute(
        "UPDATE cv.cold_days SET lease_expires_at = now() + %s WHERE day = %s AND fence = %s",
        [timedelta(seconds=lease_s), claim.day, claim.fence],
    )
    return updated.rowcount == 1


def release_day(database: Database, claim: DayClaim) -> None:
    """End the lease; nothing happens where it is lost already."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE cv.cold_days SET lease_expires_at = NULL WHERE day = %s AND fence = %s", [claim.day, claim.fence]
        )


def exported_files(connection: Connection, day: date) -> list[ColdFile]:
    """Files that the day's export has written and verified so far."""
    return _files(connection, "f.day = %(day)s AND f.state = 'exported'", {"day": day})


def discard_exported(connection: Connection, day: date, files: Collection[uuid.UUID] | None = None) -> None:
    """Give files that do not count yet to the collector; all of the day where None."""
    rows = connection.execute(
        "DELETE FROM cv.cold_files WHERE day = %(day)s AND state = 'exported'"
        " AND (%(files)s::uuid[] IS NULL OR file_id = ANY(%(files)s)) RETURNING object_key",
        {"day": day, "files": None if files is None else list(files)},
    ).fetchall()
    discard_objects(connection, "cold", [key for (key,) in rows])


def record_file(connection: Connection, claim: DayClaim, file: ColdFile) -> None:
    """Note a file that is written and verified. Raises StaleClaim where the day changed or the lease is another's."""
    lock_claim(connection, claim, "exporting")
    kept = connection.execute(
        "DELETE FROM cv.garbage WHERE store = 'cold' AND object_key = %s", [file.object_key]
    ).rowcount
    if not kept:
        raise StaleClaim("warm_to_cold: the file was collected before it was recorded")
    connection.execute(
        "INSERT INTO cv.cold_files (file_id, day, camera_id, kind, object_key, rows, size_bytes, checksum, later_clips)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            file.file_id,
            file.day,
            file.camera_id,
            file.kind,
            file.object_key,
            file.rows,
            file.size_bytes,
            file.checksum,
            list(file.later_clips),
        ],
    )


def record_exported(database: Database, claim: DayClaim) -> None:
    """Every file of the export is there. Raises StaleClaim."""
    with database.transaction() as connection:
        lock_claim(connection, claim, "exporting")
        connection.execute("UPDATE cv.cold_days SET state = 'exported', changed_at = now() WHERE day = %s", [claim.day])


def lock_claim(connection: Connection, claim: DayClaim, state: str) -> None:
    """Lock the day. Raises StaleClaim unless it is in that state and the lease is the claim's."""
    found = connection.execute(
        "SELECT 1 FROM cv.cold_days WHERE day = %s AND fence = %s AND state = %s FOR UPDATE",
        [claim.day, claim.fence, state],
    ).fetchone()
    if found is None:
        raise StaleClaim("warm_to_cold: the day changed while it was exported, or another took it over")


def go_cold(connection: Connection, claim: DayClaim, cameras: Sequence[str], *, whole: bool) -> bool:
    """The one moment: the exported files count, and the rows leave PostgreSQL. The caller retries on a busy lock.

    Args:
        cameras: whose rows leave.
        whole: they are all that the day has: its partitions are dropped. Else their rows are deleted.

    Returns:
        False where the day's marts are behind: they are built from warm rows, so these stay.

    Raises:
        StaleClaim: the day changed since its export began.
        psycopg.errors.LockNotAvailable: a table was busy for longer than anyone should wait behind us.
    """
    day = claim.day
    connection.execute("SET LOCAL cv.leaving_warm = 'on'")
    kinds = partitions_of(connection, day)
    _end_vacuum(connection, [partition(kind, day) for kind in kinds])
    connection.execute("LOCK TABLE cv.cold_files IN ROW EXCLUSIVE MODE")  # a build of marts may hold it, see dbt/
    # In the order in which writers take them.
    for kind in ("tracks", "events", "detections"):
        if whole:
            connection.execute(f"LOCK TABLE warehouse.{kind} IN ACCESS EXCLUSIVE MODE")
        elif kind in kinds:
            connection.execute(f"LOCK TABLE {partition(kind, day)} IN SHARE ROW EXCLUSIVE MODE")
    lock_claim(connection, claim, "exported")
    if cameras:
        connection.execute("SELECT 1 FROM cv.mart_days WHERE day = %s FOR UPDATE", [day])
        if not marts_built(connection, day):
            return False
    for kind in kinds:
        if whole:
            connection.execute(f"DROP TABLE {partition(kind, day)}")
        else:
            connection.execute(f"DELETE FROM {partition(kind, day)} WHERE camera_id = ANY(%s)", [list(cameras)])
    connection.execute(
        "UPDATE cv.cold_files SET state = 'live' WHERE day = %s AND state = 'exported' AND camera_id = ANY(%s)",
        [day, list(cameras)],
    )
    discard_exported(connection, day)
    if connection.execute("SELECT to_regclass('restricted.track_summary')").fetchone() != (None,):
        # A row a person: kept as long as the rows that it sums up.
        connection.execute(
            "DELETE FROM restricted.track_summary WHERE track_day = %s AND camera_id = ANY(%s)", [day, list(cameras)]
        )
    connection.execute(
        "UPDATE cv.cold_days SET state = %s, lease_expires_at = NULL, changed_at = now() WHERE day = %s",
        ["cold" if whole else "warm", day],
    )
    faults.point("warm_to_cold.switching")
    return True


def live_files(
    connection: Connection,
    *,
    kind: str | None = None,
    cameras: Iterable[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[ColdFile]:
    """Files that count, of a kind, of cameras, with days that share a moment with [start, end)."""
    return _files(
        connection,
        "f.state = 'live' AND (%(kind)s::text IS NULL OR f.kind = %(kind)s)"
        " AND (%(cameras)s::text[] IS NULL OR f.camera_id = ANY(%(cameras)s))"
        " AND (%(start)s::timestamptz IS NULL OR f.day >= (%(start)s AT TIME ZONE 'UTC')::date)"
        " AND (%(end)s::timestamptz IS NULL OR f.day::timestamp < (%(end)s AT TIME ZONE 'UTC'))",
        {"kind": kind, "cameras": None if cameras is None else sorted(cameras), "start": start, "end": end},
    )


def cold_camera_days(
    connection: Connection, camera_id: str, days: Iterable[date], *, told_by: str | None = None
) -> list[date]:
    """Which of a camera's days are cold.

    Args:
        told_by: a clip's published key: also days on which it told of something, however long before it.
    """
    rows = connection.execute(
        "SELECT DISTINCT day FROM cv.cold_files WHERE camera_id = %(camera)s AND state = 'live'"
        " AND (day = ANY(%(days)s::date[]) OR (later_clips <> '{}' AND later_clips @> ARRAY[%(clip)s::text]))"
        " ORDER BY 1",
        {"camera": camera_id, "days": sorted(set(days)), "clip": told_by},
    ).fetchall()
    return [day for (day,) in rows]


def require_warm(connection: Connection, camera_id: str, days: Iterable[date]) -> None:
    """Refuse to write beside cold rows. Asked behind the transaction's first touch of the warehouse, which holds off
    the change from warm to cold.

    Raises:
        DayIsCold: the days went cold since they were brought back; the work is done again.
    """
    connection.execute("LOCK TABLE warehouse.tracks, warehouse.events, warehouse.detections IN ROW EXCLUSIVE MODE")
    cold = cold_camera_days(connection, camera_id, days)
    if cold:
        raise DayIsCold(f"{len(cold)} days of the clip went cold while it was worked on; it is worked on again")


def lock_files(connection: Connection, camera_id: str, day: date) -> list[ColdFile]:
    """The files of a camera's day that count, locked against all others that would move or remove them."""
    connection.execute("LOCK TABLE cv.cold_files IN ROW EXCLUSIVE MODE")
    connection.execute(
        "SELECT 1 FROM cv.cold_files WHERE camera_id = %s AND day = %s AND state = 'live' ORDER BY file_id FOR UPDATE",
        [camera_id, day],
    )
    return _files(
        connection,
        "f.camera_id = %(camera)s AND f.day = %(day)s AND f.state = 'live'",
        {"camera": camera_id, "day": day},
    )


def forget_files(connection: Connection, files: Iterable[ColdFile], *, keep_for: timedelta) -> None:
    """The files' rows are elsewhere or gone: their objects go to the collector.

    Args:
        keep_for: how long readers that have begun may go on reading them.
    """
    for file in sorted(files, key=lambda file: file.file_id):
        connection.execute("DELETE FROM cv.cold_files WHERE file_id = %s", [file.file_id])
        connection.execute(
            "INSERT INTO cv.garbage (store, object_key, not_before) VALUES ('cold', %s, now() + %s)"
            " ON CONFLICT (store, object_key) DO UPDATE SET not_before = EXCLUDED.not_before",
            [file.object_key, keep_for],
        )


def past_cold_term(connection: Connection, site_id: str | None, camera_id: str, before: date) -> list[date]:
    """A camera's days before a date whose rows are cold, that no hold covers now."""
    rows = connection.execute(
        "SELECT DISTINCT day FROM cv.cold_files WHERE camera_id = %s AND state = 'live' AND day < %s ORDER BY 1",
        [camera_id, before],
    ).fetchall()
    return [day for (day,) in rows if not day_held(connection, site_id, camera_id, day)]


def day_held(connection: Connection, site_id: str | None, camera_id: str, day: date) -> bool:
    """Whether a hold in force covers any footage of the camera's day, or a clip of it."""
    row = connection.execute(
        "SELECT cv.interval_held(%(site)s, %(camera)s, NULL, %(start)s, %(end)s - interval '1 microsecond')"
        " OR EXISTS (SELECT FROM cv.clips c WHERE c.camera_id = %(camera)s"
        " AND c.captured_at >= %(start)s - interval '1 day' AND c.captured_at < %(end)s AND cv.held(c.clip_id))",
        {"site": site_id, "camera": camera_id, "start": midnight(day), "end": midnight(day + timedelta(days=1))},
    ).fetchone()
    return bool(row and row[0])


def cold_cameras(connection: Connection) -> list[tuple[str | None, str]]:
    """Site and camera of all that have cold rows."""
    return connection.execute(
        "SELECT c.site_id, f.camera_id FROM (SELECT DISTINCT camera_id FROM cv.cold_files WHERE state = 'live') f"
        " LEFT JOIN cv.cameras c USING (camera_id) ORDER BY f.camera_id"
    ).fetchall()


def later_clips(connection: Connection, day: date) -> dict[str, list[str]]:
    """Of each camera the clips of later days that told of something on this day: a track's end is told by the next."""
    rows = connection.execute(
        f"SELECT e.camera_id, array_agg(DISTINCT e.clip_s3_key::text) FROM {partition('events', day)} e"
        " JOIN cv.clips c ON c.published_key = e.clip_s3_key WHERE c.capture_date > %s GROUP BY e.camera_id",
        [day],
    ).fetchall()
    return dict(rows)


def expire_day(connection: Connection, site_id: str | None, camera_id: str, day: date) -> int:
    """End the term of a camera's day, unless it is held; returns how many files went.

    The clips' rows are locked first: a hold that is placed at the same moment waits for this, or is seen by it.
    """
    connection.execute(
        "SELECT 1 FROM cv.clips WHERE camera_id = %s AND captured_at >= %s AND captured_at < %s"
        " ORDER BY clip_id FOR UPDATE",
        [camera_id, midnight(day) - timedelta(days=1), midnight(day + timedelta(days=1))],
    )
    if day_held(connection, site_id, camera_id, day):
        return 0
    files = lock_files(connection, camera_id, day)
    connection.execute(
        "UPDATE cv.cold_files SET state = 'expired', later_clips = '{}' WHERE file_id = ANY(%s)",
        [[file.file_id for file in files]],
    )
    connection.execute("DELETE FROM cv.cold_removals WHERE file_id = ANY(%s)", [[file.file_id for file in files]])
    connection.execute(
        "DELETE FROM warehouse.clip_facts WHERE camera_id = %s AND captured_at >= %s AND captured_at < %s",
        [camera_id, midnight(day), midnight(day + timedelta(days=1))],
    )
    discard_objects(connection, "cold", [file.object_key for file in files])
    return len(files)


def _files(connection: Connection, where: str, values: dict[str, object]) -> list[ColdFile]:
    rows = connection.execute(
        "SELECT f.file_id, f.day, f.camera_id, f.kind, f.object_key, f.rows, f.size_bytes, f.checksum, f.later_clips,"
        " coalesce((SELECT array_agg(r.clip_s3_key::text ORDER BY 1) FROM cv.cold_removals r"
        f" WHERE r.file_id = f.file_id), '{{}}') FROM cv.cold_files f WHERE {where}"
        " ORDER BY f.day, f.camera_id, f.kind, f.file_id",
        values,
    ).fetchall()
    return [
        ColdFile(
            file_id=row[0],
            day=row[1],
            camera_id=row[2],
            kind=row[3],
            object_key=row[4],
            rows=row[5],
            size_bytes=row[6],
            checksum=row[7],
            later_clips=tuple(row[8]),
            removed_clips=tuple(row[9]),
        )
        for row in rows
    ]
