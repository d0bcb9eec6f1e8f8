"""The dbt models as daily assets: one step builds them all, for exactly the days that are due."""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import dagster as dg
from dagster_dbt.core.dbt_cli_event import DbtCoreCliEventMessage

from cv_platform.defs.aggregates.translation import MartsTranslator, identifiers, specs
from cv_platform.resources.database import DatabaseResource
from cv_platform.resources.dbt import DbtError, DbtResource
from cv_platform.settings import Settings
from cv_platform.storage import marts
from cv_platform.storage.analyst import set_analyst_login
from cv_platform.storage.database import Database

REQUESTED_BY = "cv/requested_by"
SENSOR_NAME = "dirty_days"
POOL = "dbt"
_BARS = "▁▂▃▄▅▆▇█"


def mart_keys(manifest: Mapping[str, Any]) -> list[dg.AssetKey]:
    """Keys of all the assets that dbt builds."""
    translator = MartsTranslator()
    return [
        translator.get_asset_key(node)
        for _, node in sorted(manifest["nodes"].items())
        if node["resource_type"] == "model" and node["config"]["materialized"] != "ephemeral"
    ]


def build_marts_asset(
    manifest: Mapping[str, Any], partitions: dg.DailyPartitionsDefinition, settings: Settings
) -> dg.AssetsDefinition:
    """All models as one step, whichever are selected: a mart that lags behind another gives away their difference."""
    translator = MartsTranslator()
    asset_specs, check_specs = specs(manifest, translator, partitions)
    names = identifiers(manifest)
    k = settings.suppression_k

    @dg.multi_asset(
        name="dbt_marts",
        specs=asset_specs,
        check_specs=check_specs,
        can_subset=True,  # only so that outputs may be missing where nothing was due
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=dg.RetryPolicy(
            max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
        ),
        pool=POOL,
    )
    def dbt_marts(context: dg.AssetExecutionContext, database: DatabaseResource, dbt: DbtResource) -> Iterator[Any]:
        asked = [date.fromisoformat(key) for key in context.partition_keys]
        only_dirty = context.run.tags.get(REQUESTED_BY) == SENSOR_NAME
        warehouse = database.get()
        _let_analysts_in(context, warehouse, settings)
        with warehouse.transaction() as connection:
            plan = marts.plan_build(connection, asked, k=k, only_dirty=only_dirty)
        if not plan.days:
            context.log.info("Every day that was asked for is up to date: nothing to build.")
            return
        context.log.info(f"Building {len(plan.days)} days: {', '.join(map(str, plan.days))}")
        try:
            for event in dbt.build(warehouse.url, days=plan.days, k=k, identifiers=names):
                if event["info"]["name"] in ("LogModelResult", "LogTestResult"):
                    context.log.info(event["info"]["msg"])
                elif event["info"]["level"] == "error":
                    context.log.error(event["info"]["msg"])
                message = DbtCoreCliEventMessage(raw_event=event, event_history_metadata={})
                for found in message.to_default_asset_events(manifest, translator, context):
                    if (
                        isinstance(found, dg.Output)
                        and found.output_name in context.op_execution_context.selected_output_names
                    ):
                        yield _with_counts(found, manifest, event, warehouse, plan)
                    elif isinstance(found, dg.AssetCheckResult):
                        yield found
        except DbtError as error:
            raise dg.Failure(
                description=str(error),
                metadata={"days": ", ".join(map(str, plan.days))},
                allow_retries=error.transient,
            ) from None
        with warehouse.transaction() as connection:
            marts.record_built(connection, plan, k=k)

    return dbt_marts


def _let_analysts_in(context: dg.AssetExecutionContext, database: Database, settings: Settings) -> None:
    """Give the role `analyst` the password of the settings; without one, its login is whoever set it's to keep."""
    from psycopg.errors import InsufficientPrivilege

    if settings.analyst_password is None:
        return
    try:
        with database.transaction() as connection:
            set_analyst_login(connection, settings.analyst_password.get_secret_value())
    except InsufficientPrivilege:
        context.log.warning(
            "CV_PLATFORM_ANALYST_PASSWORD is set, but the platform's database user may not alter the role analyst;"
            " an administrator can: ALTER ROLE analyst LOGIN PASSWORD '…'"
        )


def _with_counts(
    output: dg.Output[Any],
    manifest: Mapping[str, Any],
    event: Mapping[str, Any],
    database: Database,
    plan: marts.BuildPlan,
) -> dg.Output[Any]:
    node = manifest["nodes"][event["data"]["node_info"]["unique_id"]]
    metadata: dict[str, Any] = {
        **output.metadata,
        "days_built": len(plan.days),
    }
    with database.transaction() as connection:
        metadata["dagster/row_count"] = marts.count_rows(connection, node["schema"], node["alias"])
        if (node["schema"], node["alias"]) == ("marts", "site_daily"):
            metadata["published_tracks"] = dg.MetadataValue.md(_plot(marts.published_tracks(connection)))
    return dg.Output(None, output_name=output.output_name, metadata=metadata)


def _plot(rows: list[tuple[date, str, int]]) -> str:
    """A bar a day and class, from published numbers only."""
    if not rows:
        return "No day has a number that may be published."
    days = sorted({day for day, _, _ in rows})
    top = max(count for _, _, count in rows)
    counts = {(day, name): count for day, name, count in rows}
    lines = [
        f"{days[0]} to {days[-1]}, tracks a day as analysts see them",
        "",
        "| class | days | most |",
        "|---|---|---|",
    ]
    for name in sorted({name for _, name, _ in rows}):
        series = [counts.get((day, name), 0) for day in days]
        bars = "".join(_BARS[(len(_BARS) - 1) * count // top] if count else "·" for count in series)
        lines.append(f"| {name} | {bars} | {max(series)} |")
    return "\n".join(lines)
