"""The one partitioning of the graph: the UTC date of capture. Today counts."""

from __future__ import annotations

import dagster as dg

from cv_platform.settings import Settings, get_settings


def daily_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """Days from `partitions_start` to today, UTC."""
    return dg.DailyPartitionsDefinition(start_date=settings.partitions_start.isoformat(), end_offset=1)


daily = daily_partitions(get_settings())
