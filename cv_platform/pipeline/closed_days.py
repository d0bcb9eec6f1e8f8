"""What a day of the warm warehouse gets when hardly anything is written to it any more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cv_platform import faults
from cv_platform.pipeline.platform import Platform
from cv_platform.storage.page_index import build_page_index, days_without_page_index

CLOSED_AFTER: Final = timedelta(days=1)
"""How long after its end a day is closed. Late clips are written to it still."""


@dataclass
class Indexed:
    """What one run did.

    Attributes:
        days: days that got their index.
        busy: days that were in use, for the next run.
    """

    days: int = 0
    busy: int = 0


def index_closed_days(platform: Platform, now: datetime | None = None) -> Indexed:
    """Give each closed day the index for pages of a class, the newest first.

    Safe to run again, to run twice at once, and to kill: what is not whole is built anew.
    """
    report = Indexed()
    before = ((now or datetime.now(UTC)) - CLOSED_AFTER).date()
    with platform.database.transaction() as connection:
        days = days_without_page_index(connection, before)
    for day in days:
        if platform.should_stop():
            break
        faults.point("index_closed_days.before")
        if build_page_index(platform.database, day):
            report.days += 1
        else:
            report.busy += 1
    return report
