"""Checks on the marts that dbt cannot make: whether they follow the ledger."""

import dagster as dg

from cv_platform.resources.database import DatabaseResource
from cv_platform.settings import Settings
from cv_platform.storage import marts

LATE_AFTER_S = 3600.0


def build_checks(settings: Settings) -> list[dg.AssetChecksDefinition]:
    """Checks of the group; they block nothing."""

    @dg.asset_check(
        asset=dg.AssetKey(["aggregates", "hourly_cells"]),
        name="follows_the_ledger",
        description="No day has waited for its marts longer than an hour.",
    )
    def follows_the_ledger(database: DatabaseResource) -> dg.AssetCheckResult:
        with database.get().transaction() as connection:
            behind = marts.backlog(connection, k=settings.suppression_k)
        return dg.AssetCheckResult(
            passed=behind.days == 0 or behind.waiting_s <= LATE_AFTER_S,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "days_behind": behind.days,
                "oldest_day": behind.oldest_day.isoformat() if behind.oldest_day else "none",
                "waiting_s": behind.waiting_s,
            },
        )

    return [follows_the_ledger]
