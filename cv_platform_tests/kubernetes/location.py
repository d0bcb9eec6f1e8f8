"""The code location as it is, with fast vision parts: what the stub cluster's pods load."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from cv_platform import faults
from cv_platform.definitions import build_definitions
from cv_platform.pipeline.platform import Parts
from cv_platform.resources.platform import PlatformResource
from cv_platform.settings import get_settings

SENSORS = "CV_TEST_SENSORS"
"""Which of the platform's sensors tick, by name, joined by commas: none where it is empty."""


def renew() -> None:
    """What a forked pod must read from its own environment."""
    faults._plan = faults._parse(os.environ.get(faults.VARIABLE, ""))


def _detector() -> Any:
    from cv_platform_tests.pipeline.world import BrightSpots

    return BrightSpots()


def _anonymise(clip: Any, source: Path, destination: Path, should_stop: Callable[[], bool]) -> Any:
    from cv_platform_tests.pipeline.world import certify

    return certify(clip, source, destination, should_stop)


def _tracker() -> Any:
    from cv_platform.vision.tracking import make_tracker

    return make_tracker("sort")


CHECKS = "CV_TEST_CHECKS"
"""Whether runs have the asset checks as steps too: `0` for no."""

_parts = Parts(detector=_detector, anonymise=_anonymise, tracker=_tracker)
_whole = build_definitions(get_settings(), {"platform": PlatformResource(get_settings(), _parts)})
_wanted = os.environ.get(SENSORS, "").split(",")

defs = dg.Definitions(
    assets=_whole.assets,
    asset_checks=_whole.asset_checks if os.environ.get(CHECKS) != "0" else [],
    jobs=_whole.jobs,
    sensors=[sensor for sensor in _whole.sensors or [] if sensor.name in _wanted],
    resources=_whole.resources,
    executor=_whole.executor,
)
