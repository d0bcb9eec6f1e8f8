"""`tidy`: objects that nothing points at, previews past their term, what killed processes left behind."""

import dagster as dg

from cv_platform.defs.op_tags import RESTRICTED_OPERATION, tags_of
from cv_platform.resources.platform import PlatformResource


@dg.op(
    description="Deletes what nothing points at any more. Safe to run again, and twice at once.",
    tags=tags_of(RESTRICTED_OPERATION),
)
def tidy_stores(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
    from cv_platform.pipeline.platform import sweep_scratch, sweep_unfinished_uploads
    from cv_platform.pipeline.publishing import collect_garbage
    from cv_platform.pipeline.vault import remove_sealed_uploads
    from cv_platform.storage.ledger.published import expire_previews

    opened = platform.open(run_id=context.run_id, log=context.log)
    context.add_output_metadata(
        {
            "previews expired": expire_previews(opened.database),
            "objects deleted": collect_garbage(opened),
            "sealed uploads removed": remove_sealed_uploads(opened),
            "unfinished uploads deleted": sweep_unfinished_uploads(opened),
            "work folders swept": sweep_scratch(opened.settings),
        }
    )


@dg.job(description="Deletes objects that nothing points at, and previews past their term.", tags={"cv/graph": "tidy"})
def tidy() -> None:
    tidy_stores()


tidy_hourly = dg.ScheduleDefinition(
    name="tidy_hourly", job=tidy, cron_schedule="47 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
