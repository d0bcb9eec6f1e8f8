"""The bars that `benchmarks.scale` holds its own results to."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks.scale import missed

CLAIMS = {"workers": 32, "batch": 1, "claims_per_s": 900, "claimed_twice": 0, "p99_ms": 300.0}
GOOD: dict[str, Any] = {
    "claims": [CLAIMS, {**CLAIMS, "batch": 4, "claims_per_s": 2000, "p99_ms": 100.0}],
    "status": {"worst_s": 1.0},
    "sensor": {"worst_s": 1.0},
    "status_after": {"worst_s": 1.0},
    "uploads": {"waiting": 9, "worst_tick_s": 10.0, "memory_grown_mib": 256, "lost": 0, "doubled": 0},
}


def test_what_meets_the_bars_misses_none() -> None:
    assert missed(GOOD) == []


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("claims", 1, "claims_per_s"), 1999, "1,999 claims/s"),
        (("claims", 1, "p99_ms"), 100.1, "within 100.1 ms"),
        (("claims", 0, "claimed_twice"), 1, "claimed twice"),
        (("claims", 1, "claimed_twice"), 1, "claimed twice"),
        (("status", "worst_s"), 1.01, "status: 1.01 s"),
        (("sensor", "worst_s"), 1.01, "sensor: 1.01 s"),
        (("status_after", "worst_s"), 2.5, "status_after: 2.5 s"),
        (("uploads", "worst_tick_s"), 10.1, "took 10.1 s"),
        (("uploads", "memory_grown_mib"), 257, "257 MiB"),
        (("uploads", "lost"), -1000, "-1000 of 9 uploads lost"),
        (("uploads", "doubled"), 1, "doubled"),
    ],
)
def test_each_bar_can_be_missed(where: tuple[Any, ...], value: Any, said: str) -> None:
    result = copy.deepcopy(GOOD)
    place = result
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    (found,) = missed(result)
    assert said in found
