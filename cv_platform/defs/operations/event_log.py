"""`prune_event_log`: Dagster's own log, kept to a size, and what steps printed, kept for its term."""

from datetime import timedelta

import dagster as dg

from cv_platform.resources.platform import PlatformResource


@dg.op(
    description="Deletes old events of ended runs, never the newest of an asset's partition, and what steps printed."
    " Safe to run again."
)
def delete_old_events(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
    from cv_platform.resources.compute_logs import expire_compute_logs
    from cv_platform.resources.event_log import prune_event_log as prune

    keep = timedelta(days=platform.settings.event_log_days)
    printed = platform.open(run_id=context.run_id, log=context.log).policy.default_rules.keep.logs
    context.add_output_metadata(
        {
            "rows deleted": prune(context.instance, keep=keep),
            "runs whose compute logs were deleted": expire_compute_logs(context.instance, keep=printed),
        }
    )


@dg.job(
    description="Deletes events older than event_log_days, never the latest materialisation of a partition, and compute"
    " logs past the policy's term.",
    tags={"cv/graph": "operations"},
    executor_def=dg.in_process_executor,
)
def prune_event_log() -> None:
    delete_old_events()


prune_event_log_daily = dg.ScheduleDefinition(
    name="prune_event_log_daily",
    job=prune_event_log,
    cron_schedule="20 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
