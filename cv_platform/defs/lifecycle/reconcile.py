"""`reconcile`: ledger and store compared both ways, every night."""

import dagster as dg

from cv_platform.defs.op_tags import RESTRICTED_OPERATION, tags_of
from cv_platform.resources.platform import PlatformResource


@dg.op(
    description="Finds objects that nothing points at, and objects that are missing; repairs what can be. Safe to run"
    " again, and twice at once.",
    tags=tags_of(RESTRICTED_OPERATION),
)
def compare_stores(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
    from cv_platform.pipeline.reconcile import reconcile as compare

    opened = platform.open(run_id=context.run_id, log=context.log)
    opened.progress = lambda done, _: context.log.info(f"{done} objects looked at")
    done = compare(opened)
    context.add_output_metadata(done.counts())
    if done.lost:
        context.log.warning(f"{done.lost} objects are missing and could not be made again")


@dg.job(description="Compares ledger and store, both ways.", tags={"cv/graph": "lifecycle"})
def reconcile() -> None:
    compare_stores()


reconcile_daily = dg.ScheduleDefinition(
    name="reconcile_daily",
    job=reconcile,
    cron_schedule="41 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
