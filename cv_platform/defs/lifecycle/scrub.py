"""`scrub_keys`: destroyed keys leave PostgreSQL's own pages and log too, every week in which there are any."""

import dagster as dg

from cv_platform.resources.platform import PlatformResource


@dg.op(
    description="Writes the table of keys anew, without what it still holds of destroyed and replaced ones, and goes"
    " on in another log file. Locks that table for some seconds a million keys. Safe to run again."
)
def scrub_destroyed(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
    from cv_platform.governance.keys import scrub_destroyed_keys

    opened = platform.open(run_id=context.run_id, log=context.log)
    done = scrub_destroyed_keys(opened.database, full=True, actor="scrub_keys")
    context.add_output_metadata(vars(done))
    if done.kept:
        raise dg.Failure(
            f"{done.kept} old rows of the table of keys are still there: a transaction that began before they were"
            " replaced is open. Find it in pg_stat_activity (oldest backend_xmin), end it, and run this again",
            allow_retries=True,
        )
    if not (done.checkpointed and done.log_switched):
        context.log.warning(
            "this role may make no checkpoint, or not switch the log: PostgreSQL does both by its own schedule;"
            " docs/keys.md says what to grant"
        )


@dg.job(description="Has PostgreSQL overwrite what it holds of destroyed keys.", tags={"cv/graph": "lifecycle"})
def scrub_keys() -> None:
    scrub_destroyed()


@dg.schedule(job=scrub_keys, cron_schedule="17 4 * * 0", default_status=dg.DefaultScheduleStatus.RUNNING)
def scrub_keys_weekly(
    context: dg.ScheduleEvaluationContext, platform: dg.ResourceParam[PlatformResource]
) -> dg.RunRequest | dg.SkipReason:
    """Asks for no run where no key was destroyed or replaced since the last one."""
    from cv_platform.governance.keys import keys_to_scrub

    if keys_to_scrub(platform.open().database):
        return dg.RunRequest()
    return dg.SkipReason("no key was destroyed or replaced since the table was last written anew")
