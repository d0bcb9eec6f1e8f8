"""Plots in plain text: a step's metadata holds no picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


def bars(values: Mapping[str, float], *, unit: str = "") -> str:
    """A bar chart as Markdown, a line a value."""
    if not values:
        return "nothing to plot"
    top = max(values.values()) or 1.0
    width = max(len(name) for name in values)
    lines = []
    for name, value in values.items():
        bar = "█" * max(round(_WIDTH * value / top), 1 if value > 0 else 0)
        lines.append(f"{name:<{width}}  {bar:<{_WIDTH}}  {value:,.6g}{unit}")
    return "```\n" + "\n".join(lines) + "\n```"


def sparkline(values: Sequence[float], *, unit: str = "") -> str:
    """A line of blocks as Markdown, oldest first; many values are averaged into at most 60 blocks."""
    if not values:
        return "nothing to plot"
    step = -(-len(values) // 60)
    means = [sum(chunk) / len(chunk) for chunk in (values[n : n + step] for n in range(0, len(values), step))]
    top = max(means) or 1.0
    line = "".join(_BLOCKS[min(int(value / top * len(_BLOCKS)), len(_BLOCKS) - 1)] for value in means)
    return f"```\n{line}\nlowest {min(means):,.4g}{unit}, highest {max(means):,.4g}{unit}\n```"
