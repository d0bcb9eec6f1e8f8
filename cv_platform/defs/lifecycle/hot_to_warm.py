"""`hot_to_warm`: live detections leave the stream for PostgreSQL, every minute in which there are any."""

import dagster as dg

from cv_platform.resources.platform import PlatformResource


@dg.op(description="Writes what is in the stream, then acknowledges it. Safe to run again, and twice at once.")
def drain_stream(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
    from cv_platform.pipeline.hot_to_warm import drain

    done = drain(platform.open(run_id=context.run_id, log=context.log))
    context.add_output_metadata({**done.counts(), "degraded: Redis cannot be reached": done.degraded})
    for reason, count in done.dead.items():
        context.log.warning(f"{count} messages cannot be read: {reason}")


@dg.job(description="Drains live detections from Redis into the warm tier.", tags={"cv/graph": "lifecycle"})
def hot_to_warm() -> None:
    drain_stream()


@dg.schedule(job=hot_to_warm, cron_schedule="* * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def hot_to_warm_minutely(
    context: dg.ScheduleEvaluationContext, platform: dg.ResourceParam[PlatformResource]
) -> dg.RunRequest | dg.SkipReason:
    """Asks for no run where nothing waits."""
    import redis

    from cv_platform.storage.hot_stream import LiveStream

    url = platform.settings.redis_url
    if url is None:
        return dg.SkipReason("there is no Redis: CV_PLATFORM_REDIS_URL is empty")
    try:
        waiting = LiveStream(url).state().waiting
    except redis.RedisError as error:
        return dg.SkipReason(f"degraded: Redis cannot be reached ({type(error).__name__}); live detections wait there")
    return dg.RunRequest() if waiting else dg.SkipReason("no live detection waits")
