"""`new_uploads`: registers, and asks for nothing."""

import dagster as dg

from cv_platform.resources.platform import PlatformResource
from cv_platform.settings import Settings


def new_uploads(settings: Settings) -> dg.SensorDefinition:
    """The sensor, with the interval that the settings name."""

    @dg.sensor(
        name="new_uploads",
        minimum_interval_seconds=settings.sensor_interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Registers new uploads in the ledger: from S3's notifications where there is a queue, else by"
        " listing the raw prefix round and round. Asks for no run; `pending_work` does.",
    )
    def sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[PlatformResource]) -> dg.SkipReason:
        from cv_platform.pipeline.ingest import ingest_listing, ingest_notifications

        opened = platform.open(run_id="new_uploads", log=context.log)
        ingest = ingest_listing if opened.settings.sqs_queue_url is None else ingest_notifications
        done = ingest(opened, limit=opened.settings.max_uploads_per_tick)
        # The cursor only counts ticks: where the listing stands is the ledger's to keep.
        context.update_cursor(str(int(context.cursor or 0) + 1))
        return dg.SkipReason(
            f"looked at {done.seen} uploads: {done.new} new, {done.superseded} replaced an older one,"
            f" {done.quarantined} quarantined"
        )

    return sensor
