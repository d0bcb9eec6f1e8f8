"""Choosing the default tracker's parameters by leaving one sequence out.

The rule is one number: HOTA + IDF1 / 2 + MOTA / 2 - 7 × (ID switches for a hundred true boxes), half of it for all
sequences combined, half its mean over them, so that short ones count. Every sequence counts twice, as it is and
backwards in time: that is another sample of the same scene, and evens out luck. For each sequence, the parameters that
score best on the others are run on it; what comes out is scored as one, and is what to expect on sequences that nobody
looked at. Noise and score thresholds are not in the grid: the first are flat, the second depend on the detector.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks._mot import MotSequence, Scores, track

GRID: dict[str, tuple[float, ...]] = {
    "match_threshold": (0.22, 0.28, 0.34),
    "expansion": (0.15, 0.3, 0.45),
    "fading": (0.03, 0.05, 0.1),
    "confirmation": (1.8, 2.7, 3.6),
}


def objective(scores: Scores, names: Sequence[str]) -> float:
    """The rule, over these sequences."""
    single = [_value(scores.figures([name])) for name in names]
    return (_value(scores.figures(names)) + sum(single) / len(single)) / 2


def _value(figures: dict[str, float]) -> float:
    switches = 100 * figures["IDSW"] / max(figures["truth"], 1)
    return figures["HOTA"] + figures["IDF1"] / 2 + figures["MOTA"] / 2 - 7 * switches


def select(sequences: Sequence[MotSequence]) -> dict[str, Any]:
    """Score the whole grid, print and return what each fold chooses and how the choices do where they were not made."""
    from cv_platform.vision.tracking import make_tracker

    names = [sequence.name for sequence in sequences]
    backwards = [
        replace(one, name=f"{one.name} backwards", detections=one.detections[::-1], truth=one.truth[::-1])
        for one in sequences
    ]
    points = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    print(f"# {len(points)} points of the grid on {len(names)} sequences, both ways")
    scored = []
    for point in points:
        scores = Scores()
        for sequence in [*sequences, *backwards]:
            scores.add(sequence, track(sequence, make_tracker("default", **point).update))
        scored.append(scores)

    folds, held_out = {}, Scores()
    for name in names:
        others = [other for other in names if other != name]
        both_ways = others + [f"{other} backwards" for other in others]
        best = max(range(len(points)), key=lambda index: objective(scored[index], both_ways))
        folds[name] = points[best]
        held_out.take(scored[best], name)
    both_ways = [one.name for one in [*sequences, *backwards]]
    everything = max(range(len(points)), key=lambda index: objective(scored[index], both_ways))
    defaults = Scores()
    for sequence in sequences:
        defaults.add(sequence, track(sequence, make_tracker("default").update))

    for name, point in folds.items():
        print(f"without {name:<20} {point}  held out: {held_out.figures([name])}")
    print(f"held out, combined: {held_out.figures()}")
    print(f"best on all: {points[everything]}: {scored[everything].figures(names)}")
    print(f"the defaults: {defaults.figures()}")
    return {
        "grid": GRID,
        "folds": folds,
        "held_out": {**{name: held_out.figures([name]) for name in names}, "combined": held_out.figures()},
        "best_on_all": {"parameters": points[everything], "figures": scored[everything].figures(names)},
        "defaults": defaults.figures(),
    }
