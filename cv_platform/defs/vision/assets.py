"""The five assets of the clip graph. Each claims what waits at its stage, works, commits; a re-run is always safe."""

from collections.abc import Callable
from typing import Any

import dagster as dg

from cv_platform.defs.failures import permanent_failures_end_it
from cv_platform.defs.freshness import DAILY
from cv_platform.defs.op_tags import op_tags_of, pool_of
from cv_platform.defs.partitions import daily
from cv_platform.defs.scope import ScopeConfig, scope_of
from cv_platform.defs.vision.columns import DETECTIONS, TRACKS
from cv_platform.defs.vision.metadata import report_metadata
from cv_platform.pipeline.platform import Platform
from cv_platform.pipeline.stage import StageReport
from cv_platform.pipeline.versions import CODE_VERSIONS
from cv_platform.resources.platform import PlatformResource
from cv_platform.storage.ledger.model import Scope

# What may pass: a server that restarts, a network that stumbles. A clip's own failures never get here.
_RETRY = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


def _asset(
    name: str, kinds: set[str], deps: list[str], description: str, **metadata: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`@dg.asset` with what all five share."""
    return dg.asset(
        name=name,
        kinds=kinds,
        deps=deps,
        description=description,
        group_name="vision",
        owners=["team:data-platform"],
        partitions_def=daily,
        code_version=CODE_VERSIONS[name],
        pool=pool_of(name),
        retry_policy=_RETRY,
        freshness_policy=DAILY,
        op_tags=op_tags_of(name),
        metadata=metadata,
    )


def _run(
    context: dg.AssetExecutionContext,
    resource: PlatformResource,
    config: ScopeConfig,
    stage: str,
    after: Callable[[Platform, Scope, StageReport], dict[str, Any]] = lambda platform, scope, report: {},
) -> dg.MaterializeResult[Any]:
    from cv_platform.pipeline.stages import run_named_stage

    with permanent_failures_end_it(context):
        platform = resource.open(run_id=context.run_id, log=context.log)
        platform.progress = lambda done, _: context.log.info(f"{stage}: {done} clips done") if done % 10 == 0 else None
        scope = scope_of(context, config)
        report = run_named_stage(platform, stage, scope)
        metadata = report_metadata(platform, scope, report)
        return dg.MaterializeResult(metadata={**metadata, **after(platform, scope, report)})


@_asset(
    "raw_clips",
    {"s3", "ffmpeg"},
    [],
    "Uploads of the day, probed: container, codec, size, length. What cannot be processed is quarantined with a"
    " reason. Faces are visible: restricted, gone after 72 hours.",
)
def raw_clips(
    context: dg.AssetExecutionContext, config: ScopeConfig, platform: dg.ResourceParam[PlatformResource]
) -> dg.MaterializeResult[Any]:
    return _run(context, platform, config, "raw_clips")


@_asset(
    "decoded_frames",
    {"ffmpeg", "webdataset"},
    ["raw_clips"],
    "Frames sampled at a fixed rate with exact timestamps, JPEG in one WebDataset shard a clip. Faces are visible:"
    " restricted, gone after 24 hours.",
)
def decoded_frames(
    context: dg.AssetExecutionContext, config: ScopeConfig, platform: dg.ResourceParam[PlatformResource]
) -> dg.MaterializeResult[Any]:
    return _run(context, platform, config, "decoded_frames")


@_asset(
    "detections",
    {"onnx", "postgres", "parquet"},
    ["decoded_frames"],
    "What the detectors find in the sampled frames: rows in PostgreSQL, Parquet in the cold store, and what cameras"
    " see now in Redis.",
    **{"dagster/column_schema": DETECTIONS, "dagster/table_name": "warehouse.detections"},
)
def detections(
    context: dg.AssetExecutionContext, config: ScopeConfig, platform: dg.ResourceParam[PlatformResource]
) -> dg.MaterializeResult[Any]:
    return _run(context, platform, config, "detections")


@_asset(
    "tracks",
    {"python", "postgres"},
    ["detections"],
    "Detections linked over time, per camera and in order of capture, across clips and midnight; a late clip tracks"
    " the ones behind it again. Events track_started and track_ended.",
    **{"dagster/column_schema": TRACKS, "dagster/table_name": "warehouse.tracks"},
)
def tracks(
    context: dg.AssetExecutionContext, config: ScopeConfig, platform: dg.ResourceParam[PlatformResource]
) -> dg.MaterializeResult[Any]:
    return _run(context, platform, config, "tracks")


@_asset(
    "blurred_clips",
    {"ffmpeg", "onnx", "s3"},
    ["raw_clips"],
    "Clips with faces hidden in every frame, proven by a second detector, published with a certificate. What is not"
    " proven is not published.",
)
def blurred_clips(
    context: dg.AssetExecutionContext, config: ScopeConfig, platform: dg.ResourceParam[PlatformResource]
) -> dg.MaterializeResult[Any]:
    from cv_platform.pipeline.previews import publish_and_preview

    def after(opened: Platform, scope: Scope, report: StageReport) -> dict[str, Any]:
        link = publish_and_preview(opened, scope, new=report.done > 0)
        return {} if link is None else {"preview": dg.MetadataValue.url(link)}

    return _run(context, platform, config, "blurred_clips", after)


assets: list[dg.AssetsDefinition] = [raw_clips, decoded_frames, detections, tracks, blurred_clips]

process_clips = dg.define_asset_job(
    "process_clips",
    selection=dg.AssetSelection.assets(*assets),
    description="One day of clips through the whole graph; its config names sites or cameras, empty means all.",
    tags={"cv/graph": "clips"},
)
