"""Marts of days whose rows are in Parquet: kept, never built from nothing, right again when a late clip comes."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from cv_platform.pipeline.cold_rows import bring_back
from cv_platform.pipeline.platform import open_platform
from cv_platform.pipeline.warm_to_cold import warm_to_cold
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform_tests.dbt import warehouse as wh
from cv_platform_tests.dbt.test_convergence import STEPS, apply, clip, sites

COLD_DAY, NEXT_DAY = date(2026, 3, 10), date(2026, 3, 11)
PAST_TERM_OF_COLD_DAY = datetime(2026, 6, 9, 12, tzinfo=UTC)  # 90 days and 12 hours behind its end

LATE_ON_COLD_DAY = clip("k1", "2026-03-10 09:00:00", 6)
LATE_ON_NEXT_DAY = clip("b2", "2026-03-11 10:00:00", 7)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_marts_of_cold_days_stay_and_follow_late_clips(database_url: str, tmp_path: Path) -> None:
    database = Database(database_url)
    platform = open_platform(Settings(state_dir=tmp_path, postgres_url=database_url), database)
    apply(database, sites, *STEPS)
    assert warm_to_cold(platform, PAST_TERM_OF_COLD_DAY).behind == [COLD_DAY]  # its marts come first
    wh.build(database, tmp_path)
    before = wh.contents(database)
    assert warm_to_cold(platform, PAST_TERM_OF_COLD_DAY).cold == [COLD_DAY]

    # A late clip brings back its camera, as the stages do; the other cameras of that day stay cold. The next day is
    # built again too, with the later half of a track that began on the cold one.
    bring_back(platform, "k1", [COLD_DAY])
    apply(database, LATE_ON_COLD_DAY, LATE_ON_NEXT_DAY)
    assert wh.dirty_days(database, 5) == [COLD_DAY, NEXT_DAY]
    wh.build(database, tmp_path)

    after = wh.contents(database)
    new = set(map(repr, after["aggregates.hourly_cells"])) - set(map(repr, before["aggregates.hourly_cells"]))
    assert len(after["aggregates.hourly_cells"]) == len(before["aggregates.hourly_cells"]) + len(new)
    added = [row for row in after["aggregates.hourly_cells"] if repr(row) in new]
    assert sorted((row[1], row[2].hour, row[5], row[6]) for row in added) == [("b2", 10, 7, 21), ("k1", 9, 6, 18)]
    people = [(row[1], row[2]) for row in after["restricted.track_summary"]]
    assert {camera for camera, day in people if day == COLD_DAY} == {"k1"}  # the others' went with their rows
    assert warm_to_cold(platform, PAST_TERM_OF_COLD_DAY).cold == [COLD_DAY]
    database.close()
