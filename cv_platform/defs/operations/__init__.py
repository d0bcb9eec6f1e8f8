"""Housekeeping of the platform itself."""

from typing import Any

from cv_platform.defs.operations.event_log import prune_event_log, prune_event_log_daily
from cv_platform.defs.operations.jobs import tidy, tidy_hourly
from cv_platform.settings import Settings


def jobs(settings: Settings) -> list[Any]:
    """The jobs; those of Kubernetes only where runs are launched there."""
    return [tidy, prune_event_log, *([_kubernetes().reap_orphans] if settings.executor == "k8s" else [])]


def schedules(settings: Settings) -> list[Any]:
    """What starts them by itself."""
    orphans = [_kubernetes().reap_orphans_often] if settings.executor == "k8s" else []
    return [tidy_hourly, prune_event_log_daily, *orphans]


def _kubernetes() -> Any:
    from cv_platform.defs.operations import kubernetes

    return kubernetes
