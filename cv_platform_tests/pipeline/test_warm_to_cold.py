"""Days that go cold and come back: nothing lost, doubled or half, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from cv_platform.pipeline.cold_rows import bring_back
from cv_platform.pipeline.warm_to_cold import warm_to_cold
from cv_platform_tests.pipeline.warm_rows import DAY, LATER, fill, warm
from cv_platform_tests.pipeline.world import World


def test_a_day_goes_cold_and_comes_back_bit_for_bit(world: World) -> None:
    fill(world)
    before = warm(world)
    moved = warm_to_cold(world.platform, LATER)
    assert moved.cold == [DAY]
    assert (moved.files, moved.rows) == (6, sum(len(rows) for rows in before.values()))
    assert not any(warm(world).values())
    for camera in ("cam1", "cam2"):
        assert bring_back(world.platform, camera, [DAY]).days == 1
    assert warm(world) == before
