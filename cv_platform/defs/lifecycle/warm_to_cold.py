"""`warm_to_cold`: days past their warm term leave PostgreSQL as Parquet, and closed days get an index, every night."""

import dagster as dg

from cv_platform.resources.platform import PlatformResource


@dg.op(
    description="Moves rows past their warm term to Parquet, a file a camera, day and kind. Safe to run again, and"
    " twice at once."
)
def move_to_cold(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
    from cv_platform.pipeline.closed_days import index_closed_days
    from cv_platform.pipeline.warm_to_cold import warm_to_cold as move

    opened = platform.open(run_id=context.run_id, log=context.log)
    done = move(opened)
    indexed = index_closed_days(opened)
    context.add_output_metadata(
        {
            "days gone cold": len(done.cold),
            "days of which some cameras went": len(done.partly),
            "days that wait for their marts": len(done.behind),
            "days that changed meanwhile": len(done.changed),
            "days in use": len(done.busy),
            "files": done.files,
            "rows": done.rows,
            "bytes": done.size_bytes,
            "rows a second": round(done.rows / done.seconds) if done.seconds else 0,
            "camera-days rewritten without what was withdrawn": done.rewritten.days,
            "closed days indexed": indexed.days,
            "closed days in use": indexed.busy,
        }
    )
    if done.behind:
        context.log.warning(f"{len(done.behind)} days stay in PostgreSQL past their term until their marts are built")


@dg.job(description="Moves rows past their warm term to the cold tier.", tags={"cv/graph": "lifecycle"})
def warm_to_cold() -> None:
    move_to_cold()


warm_to_cold_daily = dg.ScheduleDefinition(
    name="warm_to_cold_daily",
    job=warm_to_cold,
    cron_schedule="11 2 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
