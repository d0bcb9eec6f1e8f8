"""`approved_erasures`: asks for a run for each request that was approved, was interrupted, or waits for its proof."""

import dagster as dg

from cv_platform.defs.erasure.jobs import REQUEST_TAG, ErasureConfig, erase
from cv_platform.defs.scope import UNFINISHED
from cv_platform.resources.platform import PlatformResource
from cv_platform.settings import Settings


def approved_erasures(settings: Settings) -> dg.SensorDefinition:
    """The sensor, with the interval that the settings name."""

    @dg.sensor(
        name="approved_erasures",
        job=erase,
        minimum_interval_seconds=settings.sensor_interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="For each erasure request that is approved or under way, or executed with its aggregates built:"
        " asks for a run, unless there is one.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, platform: dg.ResourceParam[PlatformResource]
    ) -> dg.SensorResult | dg.SkipReason:
        from cv_platform.pipeline.erasure_proof import ready_requests

        opened = platform.open(run_id="approved_erasures", log=context.log)
        ready = ready_requests(opened.database, limit=opened.settings.max_requests_per_tick)
        runs = context.instance.get_runs(dg.RunsFilter(job_name=erase.name, statuses=UNFINISHED), limit=1000)
        busy = {run.tags.get(REQUEST_TAG) for run in runs}
        wanted = [str(request_id) for request_id in ready if str(request_id) not in busy]
        if not wanted:
            return dg.SkipReason("no erasure waits to be executed or certified, or its run is under way")
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_config=dg.RunConfig(ops={"erase_request": ErasureConfig(request_id=request_id)}),
                    tags={REQUEST_TAG: request_id, "cv/graph": "erasure"},
                )
                for request_id in wanted
            ]
        )

    return sensor
