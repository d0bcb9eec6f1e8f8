"""`reconcile_uploads`: looks at every object of the raw prefix, since notifications get lost."""

import dagster as dg

from cv_platform.defs.op_tags import RESTRICTED_OPERATION, tags_of
from cv_platform.resources.platform import PlatformResource


@dg.op(
    description="Lists the whole raw prefix and registers what is not in the ledger.",
    tags=tags_of(RESTRICTED_OPERATION),
)
def reconcile_all_uploads(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
    from cv_platform.pipeline.ingest import reconcile_uploads as reconcile

    opened = platform.open(run_id=context.run_id, log=context.log)
    opened.progress = lambda done, _: context.log.info(f"{done} uploads looked at")
    done = reconcile(opened)
    context.add_output_metadata(
        {"seen": done.seen, "new": done.new, "superseded": done.superseded, "quarantined": done.quarantined}
    )


@dg.job(description="Finds uploads that notifications and ticks missed. Safe at any time.", tags={"cv/graph": "ingest"})
def reconcile_uploads() -> None:
    reconcile_all_uploads()


reconcile_uploads_hourly = dg.ScheduleDefinition(
    name="reconcile_uploads_hourly",
    job=reconcile_uploads,
    cron_schedule="17 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
