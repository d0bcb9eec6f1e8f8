"""`expire`: what the policy no longer keeps goes, every quarter of an hour."""

import dagster as dg

from cv_platform.defs.op_tags import RESTRICTED_OPERATION, tags_of
from cv_platform.resources.platform import PlatformResource


@dg.op(
    description="Lets go what is past its term or over a quota, but nothing that is held. Safe to run again, and twice"
    " at once.",
    tags=tags_of(RESTRICTED_OPERATION),
)
def expire_data(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
    from cv_platform.pipeline.expiry import expire as expire_now
    from cv_platform.storage.storage_classes import keep_storage_classes

    opened = platform.open(run_id=context.run_id, log=context.log)
    done = expire_now(opened)
    classes = keep_storage_classes(opened.database, opened.cold, opened.restricted)
    context.add_output_metadata({**done.counts(), "quotas not kept": len(done.alarms), **classes.told()})
    if classes.late:
        context.log.warning(f"S3 did not move {classes.late} of {classes.due} objects whose rule is past due")
    if classes.unknown is not None:
        context.log.warning(classes.unknown)
    if alarms := [*done.alarms, *classes.alarms]:
        # All has been done that could be; a person must decide now.
        raise dg.Failure("; ".join(alarms), allow_retries=False)


@dg.job(description="Deletes what is past its term, by policy and holds.", tags={"cv/graph": "lifecycle"})
def expire() -> None:
    expire_data()


expire_every_15_min = dg.ScheduleDefinition(
    name="expire_every_15_min",
    job=expire,
    cron_schedule="*/15 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
