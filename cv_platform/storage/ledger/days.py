"""Days whose marts must be built again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

from cv_platform.storage.database import Connection


def mark_dirty(connection: Connection, days: Iterable[date]) -> None:
    """Say in the caller's transaction that these days change. Rows are locked in order of day: no deadlock."""
    for day in sorted(set(days)):
        connection.execute(
            "INSERT INTO cv.mart_days (day) VALUES (%s) ON CONFLICT (day)"
            " DO UPDATE SET dirty_seq = mart_days.dirty_seq + 1, dirty_at = now()",
            [day],
        )


def days_of(start: datetime, duration_s: float | None) -> list[date]:
    """The UTC days that a clip touches."""
    end = start + timedelta(seconds=duration_s or 0.0)
    return [start.date() + timedelta(days=n) for n in range((end.date() - start.date()).days + 1)]


def midnight(day: date) -> datetime:
    """The first moment of a UTC day."""
    return datetime.combine(day, time(), UTC)
