"""`pending_work`: the only sensor that asks for runs of the clip graph.

Killed runs, replays, new versions and late clips all start again by this one door.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Final

import dagster as dg

from cv_platform.defs.scope import GRAPH_TAG, PARTITION_TAG, SITE_TAG, UNFINISHED, ScopeConfig
from cv_platform.defs.vision.assets import assets, process_clips
from cv_platform.resources.platform import PlatformResource
from cv_platform.settings import Settings

MOST_UNFINISHED: Final = 500
"""A queue of so many runs is asked for no more: the sensor's tick stays short, and nothing is lost by waiting."""


def pending_work(settings: Settings) -> dg.SensorDefinition:
    """The sensor, with the interval that the settings name."""

    @dg.sensor(
        name="pending_work",
        job=process_clips,
        minimum_interval_seconds=settings.sensor_interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="For each day and site with clips that wait, or whose lease ran out, and no queued or active run:"
        " asks for one, at least min_run_interval_s apart.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, platform: dg.ResourceParam[PlatformResource]
    ) -> dg.SensorResult | dg.SkipReason:
        from cv_platform.governance.adoption import adopt_policy
        from cv_platform.pipeline.stages import current_versions
        from cv_platform.storage.ledger.scopes import note_requests, pending_scopes
        from cv_platform.storage.ledger.tallies import sum_tallies
        from cv_platform.storage.ledger.versions import adopt_versions

        opened = platform.open(run_id="pending_work", log=context.log)
        if adopt_policy(opened.database, opened.policy, actor="pending_work"):
            context.log.info("a new policy is in force")
        sum_tallies(opened.database)
        restarted = adopt_versions(opened.database, current_versions(opened))
        for stage, clips in restarted.items():
            context.log.info(f"{stage} has a new version: {clips} clips start again")
        runs = unfinished_runs(context.instance)
        if len(runs) >= MOST_UNFINISHED:
            return dg.SkipReason(f"{MOST_UNFINISHED} runs are queued or active: enough to do")
        busy, busy_days = busy_scopes(runs)
        scopes = pending_scopes(
            opened.database,
            min_interval_s=opened.settings.min_run_interval_s,
            busy=busy,
            busy_days=busy_days,
            # A partition that does not exist would fail the whole tick.
            first=opened.settings.partitions_start,
            last=datetime.now(UTC).date(),
            limit=opened.settings.max_requests_per_tick,
        )
        if not scopes:
            return dg.SkipReason("no clip waits, or runs for those that do are under way or were asked for just now")
        note_requests(opened.database, scopes)
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    partition_key=scope.capture_date.isoformat(),
                    run_config=scope_run_config([scope.site_id]),
                    tags={SITE_TAG: scope.site_id, GRAPH_TAG: "clips"},
                )
                for scope in scopes
            ]
        )

    return sensor


def scope_run_config(sites: list[str]) -> dg.RunConfig:
    """Run config of `process_clips` for these sites."""
    return dg.RunConfig(ops={asset.op.name: ScopeConfig(sites=sites) for asset in assets})


def unfinished_runs(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    """Runs of the clip graph that are queued or active, at most `MOST_UNFINISHED`."""
    return instance.get_runs(dg.RunsFilter(statuses=UNFINISHED, tags={GRAPH_TAG: "clips"}), limit=MOST_UNFINISHED)


def busy_scopes(runs: Iterable[dg.DagsterRun]) -> tuple[set[tuple[date, str]], set[date]]:
    """Scopes that these runs work on, and days that some run works on for all sites."""
    scopes: set[tuple[date, str]] = set()
    days: set[date] = set()
    for run in runs:
        partition = run.tags.get(PARTITION_TAG)
        if partition is None:
            continue
        if (site := run.tags.get(SITE_TAG)) is not None:
            scopes.add((date.fromisoformat(partition), site))
        else:
            days.add(date.fromisoformat(partition))
    return scopes, days
