"""Aggregates: the dbt marts, the sensor that has them built, the checks on them.

Belongs here: how dbt's models and tests become assets and checks, and which days a run builds. Does not belong here:
what a mart holds (dbt/), which days are due (storage/marts.py), how dbt is run (resources/dbt.py).
"""

from __future__ import annotations

import dagster as dg

from cv_platform.defs.aggregates.assets import build_marts_asset, mart_keys
from cv_platform.defs.aggregates.checks import build_checks
from cv_platform.defs.aggregates.sensors import build_marts_job, build_sensor
from cv_platform.defs.partitions import daily_partitions
from cv_platform.resources.dbt import DbtResource, find_project, read_manifest
from cv_platform.settings import Settings

__all__ = ["aggregates_definitions", "dbt_resource", "mart_keys"]


def aggregates_definitions(
    settings: Settings, partitions: dg.DailyPartitionsDefinition | None = None
) -> dg.Definitions:
    """Assets, checks, sensor and job of the aggregates; the resources `database` and `dbt` come from the caller."""
    partitions = partitions or daily_partitions(settings)
    manifest = read_manifest(find_project())
    job = build_marts_job(manifest)
    return dg.Definitions(
        assets=[build_marts_asset(manifest, partitions, settings)],
        asset_checks=build_checks(settings),
        jobs=[job],
        sensors=[build_sensor(job, partitions, settings)],
    )


def dbt_resource(settings: Settings) -> DbtResource:
    """The resource `dbt`."""
    return DbtResource(project_dir=str(find_project()), scratch_dir=str(settings.scratch / "dbt"))
