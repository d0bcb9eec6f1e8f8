"""Checks of the clip graph. None blocks: privacy is enforced where clips are published, and neighbours go on."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date

import dagster as dg

from cv_platform.defs.partitions import daily
from cv_platform.defs.plots import bars
from cv_platform.defs.vision.assets import blurred_clips, decoded_frames, detections, raw_clips, tracks
from cv_platform.defs.vision.columns import DETECTIONS, TRACKS
from cv_platform.resources.platform import PlatformResource


def _check(
    asset: dg.AssetsDefinition, *, description: str, after: Sequence[dg.AssetsDefinition] = (), name: str | None = None
) -> Callable[[Callable[..., dg.AssetCheckResult]], dg.AssetChecksDefinition]:
    """`@dg.asset_check` of one day. `after` names the assets that have to be done first where a run has them too."""

    def decorate(function: Callable[..., dg.AssetCheckResult]) -> dg.AssetChecksDefinition:
        with warnings.catch_warnings():
            # Checks by partition are a preview in 1.13: said once here, not in every process's log.
            warnings.simplefilter("ignore", dg.PreviewWarning)
            return dg.asset_check(
                asset=asset, name=name, description=description, partitions_def=daily, additional_deps=list(after)
            )(function)

    return decorate


@_check(
    raw_clips,
    description="No clip of the day is quarantined; the reasons where some are.",
    after=[detections, tracks, blurred_clips],
)
def quarantine(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[PlatformResource]
) -> dg.AssetCheckResult:
    from cv_platform.storage.ledger.queries import quarantined

    clips = quarantined(platform.database(), day=date.fromisoformat(context.partition_key))
    reasons = Counter(f"{clip.stage}: {clip.code}" for clip in clips)
    return dg.AssetCheckResult(
        passed=not clips,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(clips)} clips are quarantined: `cv-platform quarantine list` says why, `replay` tries again"
        if clips
        else "none",
        metadata={"clips": len(clips), "reasons": dg.MetadataValue.md(bars(dict(reasons)))},
    )


@_check(
    raw_clips,
    description="Of the day: received = in progress + published + quarantined + superseded + expired + erased",
)
def ledger_balance(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[PlatformResource]
) -> dg.AssetCheckResult:
    from cv_platform.storage.ledger.queries import balance

    found = balance(platform.database(), day=date.fromisoformat(context.partition_key))
    return dg.AssetCheckResult(
        passed=found.balances,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"received": found.received, "states": dg.MetadataValue.md(bars(found.states))},
    )


@_check(
    blurred_clips,
    description="No clip of the day waits at any stage, by site: a green day alone does not mean complete.",
    after=[decoded_frames, detections, tracks],
)
def pending_by_site(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[PlatformResource]
) -> dg.AssetCheckResult:
    from cv_platform.storage.ledger.queries import pending_by_site as pending

    sites = pending(platform.database(), date.fromisoformat(context.partition_key))
    return dg.AssetCheckResult(
        passed=not sites,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"clips": sum(sites.values()), "sites": dg.MetadataValue.md(bars(sites))},
    )


@_check(blurred_clips, description="Every published clip of the day has a certificate.")
def certified(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[PlatformResource]
) -> dg.AssetCheckResult:
    from cv_platform.pipeline.certificates import check_certificates

    found = check_certificates(platform.open(log=context.log), date.fromisoformat(context.partition_key))
    return dg.AssetCheckResult(
        passed=not found.without,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "published": found.published,
            "without certificate": found.without,
            "worst coverage": found.worst_coverage,
            "lowest share of frames verified": found.lowest_verified_share,
        },
    )


def _schema_check(asset: dg.AssetsDefinition, table: str, expected: dg.TableSchema) -> dg.AssetChecksDefinition:
    @_check(asset, name="schema", description=f"warehouse.{table} has the documented columns.")
    def schema(
        context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[PlatformResource]
    ) -> dg.AssetCheckResult:
        with platform.database().transaction() as connection:
            rows = connection.execute(
                "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'warehouse'"
                " AND table_name = %s",
                [table],
            ).fetchall()
        found = dict(rows)
        wanted = {column.name: column.type for column in expected.columns}
        return dg.AssetCheckResult(
            passed=found == wanted,
            severity=dg.AssetCheckSeverity.ERROR,
            metadata={
                "missing": sorted(wanted.items() - found.items()),
                "extra": sorted(found.items() - wanted.items()),
            },
        )

    return schema


checks: list[dg.AssetChecksDefinition] = [
    quarantine,
    ledger_balance,
    pending_by_site,
    certified,
    _schema_check(detections, "detections", DETECTIONS),
    _schema_check(tracks, "tracks", TRACKS),
]
