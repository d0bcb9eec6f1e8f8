"""A run's scope: the day is its partition, sites and cameras are its config. Never a key, never anything personal."""

from __future__ import annotations

from datetime import date
from typing import Final

import dagster as dg
from pydantic import Field

from cv_platform.storage.ledger.model import Scope

SITE_TAG: Final = "cv/site"
GRAPH_TAG: Final = "cv/graph"
PARTITION_TAG: Final = "dagster/partition"
UNFINISHED: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""Statuses of runs that are queued or active."""


class ScopeConfig(dg.Config):
    """Which clips of the day a run works on; empty lists mean all."""

    sites: list[str] = Field(default_factory=list)
    cameras: list[str] = Field(default_factory=list)


def scope_of(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, config: ScopeConfig) -> Scope:
    """The scope of a step."""
    return Scope(date.fromisoformat(context.partition_key), tuple(config.sites), tuple(config.cameras))
