"""Which days of the marts are due, and the record of what was built.

Every commit that changes a day increments `cv.mart_days.dirty_seq` in its own transaction. A build reads the numbers
before its first query and writes them as `built_seq` when all has succeeded: a commit in between leaves the day dirty.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from psycopg import sql
from psycopg.rows import dict_row

from cv_platform.storage.database import Connection

# A day is dirty where something changed after it was built, or where it was built for another k.
_DIRTY = "(dirty_seq > built_seq OR built_k IS DISTINCT FROM %(k)s)"


@dataclass(frozen=True)
class BuildPlan:
    """What one build must do.

    Attributes:
        days: UTC dates to rebuild, sorted: those that were asked for, and those whose tracks reach into them.
        seqs: `dirty_seq` of each of them that the ledger knows, as read before the build's first query.
    """

    days: tuple[date, ...]
    seqs: Mapping[date, int]


@dataclass(frozen=True)
class Backlog:
    """How far the marts are behind: days that are dirty, and for how long the oldest has been, seconds."""

    days: int
    oldest_day: date | None
    waiting_s: float


def dirty_range(
    connection: Connection, *, k: int, first: date, last: date, max_days: int, min_interval_s: float
) -> tuple[date, date] | None:
    """The oldest dirty day in `first`..`last` and the newest at most `max_days - 1` after it; None where none is due.

    A day that was built less than `min_interval_s` ago waits, so that a live day doesn't make a run a minute.
    """
    rows = connection.execute(
        f"SELECT day FROM cv.mart_days WHERE {_DIRTY} AND day BETWEEN %(first)s AND %(last)s"
        " AND (built_at IS NULL OR built_at <= clock_timestamp() - %(interval)s * interval '1 second') ORDER BY day",
        {"k": k, "first": first, "last": last, "interval": min_interval_s},
    ).fetchall()
    if not rows:
        return None
    start: date = rows[0][0]
    return start, max(day for (day,) in rows if day < start + timedelta(days=max_days))


def plan_build(connection: Connection, days: Sequence[date], *, k: int, only_dirty: bool) -> BuildPlan:
    """What a build of `days` must do.

    Args:
        connection: must not have read anything else in this transaction.
        days: UTC dates asked for.
        k: the least count that analysts may see.
        only_dirty: leave out those of `days` that are up to date.
    """
    seqs: dict[date, int] = {}
    due = sorted(set(days))
    if only_dirty:
        due = [
            day
            for (day,) in connection.execute(
                f"SELECT day FROM cv.mart_days WHERE {_DIRTY} AND day = ANY(%(days)s) ORDER BY day",
                {"k": k, "days": due},
            )
        ]
    while True:
        # The numbers first: what is committed after this read leaves its day dirty.
        seqs.update(_seqs(connection, [day for day in due if day not in seqs]))
        reached = _reached(connection, due)
        if reached <= set(due):
            return BuildPlan(tuple(due), {day: seqs[day] for day in due if day in seqs})
        due = sorted(reached | set(due))


def record_built(connection: Connection, plan: BuildPlan, *, k: int) -> None:
    """The plan's days are built as of the plan's numbers."""
    for day in sorted(plan.seqs):
        connection.execute(
            "UPDATE cv.mart_days SET built_seq = greatest(built_seq, %s), built_at = clock_timestamp(), built_k = %s"
            " WHERE day = %s",
            [plan.seqs[day], k, day],
        )


def backlog(connection: Connection, *, k: int) -> Backlog:
    """How far the marts are behind the ledger."""
    row = connection.execute(
        "SELECT count(*), min(day), extract(epoch FROM clock_timestamp() - min(dirty_at))::float8"
        f" FROM cv.mart_days WHERE {_DIRTY}",
        {"k": k},
    ).fetchone()
    assert row is not None
    return Backlog(row[0], row[1], row[2] or 0.0)


def mark_all_dirty(connection: Connection) -> int:
    """Have all marts built again, after a change of a site's time zone for example; returns the number of days."""
    return connection.execute("UPDATE cv.mart_days SET dirty_seq = dirty_seq + 1, dirty_at = now()").rowcount


def count_rows(connection: Connection, schema: str, table: str) -> int:
    """Rows of one mart; 0 where it is not built yet."""
    if connection.execute("SELECT to_regclass(%s)", [f"{schema}.{table}"]).fetchone() == (None,):
        return 0
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def first_rows(connection: Connection, schema: str, table: str, *, limit: int = 5) -> list[dict[str, object]]:
    """The newest rows of one mart, as an administrator sees them; empty where it is not built yet."""
    if connection.execute("SELECT to_regclass(%s)", [f"{schema}.{table}"]).fetchone() == (None,):
        return []
    newest = sql.Identifier("hour" if table == "camera_hourly" else "day")
    query = sql.SQL("SELECT * FROM {} ORDER BY {} DESC, 1, 2, 3, 4 LIMIT {}").format(
        sql.Identifier(schema, table), newest, sql.Literal(limit)
    )
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchall()


def published_tracks(connection: Connection, *, days: int = 14) -> list[tuple[date, str, int]]:
    """Tracks a day and class as analysts may see them, over all sites, for the newest `days` that have any."""
    if connection.execute("SELECT to_regclass('aggregates.publication')").fetchone() == (None,):
        return []
    return connection.execute(
        "SELECT day, class_name, sum(tracks)::bigint FROM aggregates.publication WHERE kind = 'site_day' AND day >="
        " (SELECT max(day) - %s FROM aggregates.publication) GROUP BY day, class_name ORDER BY day, class_name",
        [days - 1],
    ).fetchall()


def _seqs(connection: Connection, days: Collection[date]) -> dict[date, int]:
    return dict(
        connection.execute("SELECT day, dirty_seq FROM cv.mart_days WHERE day = ANY(%s)", [list(days)]).fetchall()
    )


def _reached(connection: Connection, days: Sequence[date]) -> set[date]:
    """Days on which tracks began that were seen on one of `days`, now or when their summary was last built."""
    if not days:
        return set()
    found = connection.execute(
        'SELECT DISTINCT track_day FROM warehouse.tracks WHERE "timestamp" >= %(first)s::date::timestamptz'
        ' AND "timestamp" < (%(last)s::date + 1)::timestamptz'
        " AND (\"timestamp\" AT TIME ZONE 'UTC')::date = ANY(%(days)s)",
        {"first": days[0], "last": days[-1], "days": list(days)},
    ).fetchall()
    if connection.execute("SELECT to_regclass('restricted.track_summary')").fetchone() != (None,):
        found += connection.execute(
            "SELECT DISTINCT summary.track_day FROM restricted.track_summary AS summary"
            " CROSS JOIN unnest(%s::date[]) AS due (day)"
            " WHERE summary.track_day < due.day AND summary.last_seen_at >= due.day::timestamptz",
            [list(days)],
        ).fetchall()
    return {day for (day,) in found}
