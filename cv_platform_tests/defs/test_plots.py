"""Plots in plain text."""

from __future__ import annotations

import pytest

from cv_platform.defs.plots import bars, sparkline


def test_bars_are_in_proportion() -> None:
    lines = bars({"done": 40, "open": 10, "failed": 0}, unit=" clips").splitlines()
    assert [line.count("█") for line in lines[1:-1]] == [40, 10, 0]
    assert lines[1].endswith("40 clips")


def test_a_small_value_still_shows() -> None:
    assert bars({"many": 1_000_000, "one": 1}).splitlines()[2].count("█") == 1


@pytest.mark.parametrize("count", [1, 59, 60, 61, 1000])
def test_a_sparkline_is_at_most_sixty_wide(count: int) -> None:
    line = sparkline([float(n) for n in range(count)]).splitlines()[1]
    assert 1 <= len(line) <= 60
    assert line[-1] == ("▁" if count == 1 else "█")


def test_nothing_to_plot() -> None:
    assert bars({}) == sparkline([]) == "nothing to plot"
    assert "█" not in bars({"none": 0})
