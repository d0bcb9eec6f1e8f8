"""The code location: everything meets here, and only here.

Importing it loads no model library and opens no connection; resources connect where a step or a tick first needs them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import dagster as dg

from cv_platform.defs import lifecycle, operations
from cv_platform.defs.aggregates import aggregates_definitions, dbt_resource
from cv_platform.defs.erasure.jobs import erase
from cv_platform.defs.erasure.sensors import approved_erasures
from cv_platform.defs.ingest.jobs import reconcile_uploads, reconcile_uploads_hourly
from cv_platform.defs.ingest.sensors import new_uploads
from cv_platform.defs.vision import assets as vision_assets
from cv_platform.defs.vision import checks as vision_checks
from cv_platform.defs.vision.sensors import pending_work
from cv_platform.resources.database import DatabaseResource
from cv_platform.resources.json_lines import write_json_lines
from cv_platform.resources.platform import PlatformResource
from cv_platform.settings import Settings, get_settings

_POSTGRES_URL: Final = "CV_PLATFORM_POSTGRES_URL"


def build_definitions(
    settings: Settings | None = None, overrides: Mapping[str, object] | None = None
) -> dg.Definitions:
    """Assemble the code location.

    Args:
        settings: of this process; those of its environment where None.
        overrides: resources by name to use instead of the real ones; how tests swap parts.
    """
    settings = settings or get_settings()
    aggregates = aggregates_definitions(settings)
    resources: dict[str, Any] = {
        "platform": PlatformResource(settings),
        "database": _database(settings),
        "dbt": dbt_resource(settings),
        **(overrides or {}),
    }
    return dg.Definitions(
        assets=[*vision_assets.assets, *(aggregates.assets or [])],
        asset_checks=[*vision_checks.checks, *(aggregates.asset_checks or [])],
        jobs=[
            vision_assets.process_clips,
            reconcile_uploads,
            *lifecycle.jobs,
            erase,
            *operations.jobs(settings),
            *(aggregates.jobs or []),
        ],
        schedules=[reconcile_uploads_hourly, *lifecycle.schedules, *operations.schedules(settings)],
        sensors=[
            new_uploads(settings),
            pending_work(settings),
            approved_erasures(settings),
            *(aggregates.sensors or []),
        ],
        resources=resources,
        executor=_executor(settings),
    )


def _executor(settings: Settings) -> dg.ExecutorDefinition:
    """Steps in the run's own process, or each in a pod of its own; only the latter loads a client of Kubernetes."""
    if settings.executor == "k8s":
        from cv_platform.resources.kubernetes import kubernetes_executor

        return kubernetes_executor
    return dg.in_process_executor


def _database(settings: Settings) -> DatabaseResource:
    """By the variable's name wherever it is what the settings hold.

    Dagster keeps a resource's config in the snapshot of every job and shows it in the UI; an address may hold a
    password.
    """
    if settings.postgres_url == os.environ.get(_POSTGRES_URL):
        return DatabaseResource(url=dg.EnvVar(_POSTGRES_URL))
    return DatabaseResource(url=settings.postgres_url or "")


if get_settings().json_lines:
    write_json_lines()
defs = build_definitions()
