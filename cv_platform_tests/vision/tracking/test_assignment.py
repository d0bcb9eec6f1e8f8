"""The assignment solver against SciPy's, and the matching's rules."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from cv_platform.vision.tracking.assignment import match, solve


@st.composite
def matrices(draw: st.DrawFn, *, wide: bool = False) -> npt.NDArray[np.float64]:
    """Matrices of up to 12 × 12, with many zeros and many ties."""
    rows = draw(st.integers(0, 12))
    columns = draw(st.integers(rows if wide else 0, 12))
    values = st.one_of(st.just(0.0), st.floats(0, 1, width=32), st.integers(0, 4).map(float))
    return draw(hnp.arrays(np.float64, (rows, columns), elements=values))


@settings(max_examples=300, deadline=None)
@given(matrices(wide=True))
def test_solver_costs_what_scipy_costs(cost: npt.NDArray[np.float64]) -> None:
    columns = solve(cost)
    assert len(set(columns.tolist())) == len(cost)
    ours = cost[np.arange(len(cost)), columns].sum()
    np.testing.assert_allclose(ours, cost[linear_sum_assignment(cost)].sum(), atol=1e-9)


@settings(max_examples=300, deadline=None)
@given(matrices())
def test_match_is_one_to_one_positive_and_best(similarity: npt.NDArray[np.float64]) -> None:
    column_of = match(similarity)
    rows = np.flatnonzero(column_of >= 0)
    chosen = column_of[rows]
    assert len(column_of) == len(similarity)
    assert len(set(chosen.tolist())) == len(chosen)
    assert (similarity[rows, chosen] > 0).all()
    best = similarity[linear_sum_assignment(similarity, maximize=True)].sum()
    np.testing.assert_allclose(similarity[rows, chosen].sum(), best, atol=1e-9)


def test_match_at_the_size_of_a_crowd() -> None:
    rng = np.random.default_rng(3)
    for shape in ((200, 200), (150, 220), (220, 150)):
        for density in (0.02, 0.2, 1.0):
            similarity = np.where(rng.random(shape) < density, rng.random(shape), 0.0)
            column_of = match(similarity)
            rows = np.flatnonzero(column_of >= 0)
            best = similarity[linear_sum_assignment(similarity, maximize=True)].sum()
            np.testing.assert_allclose(similarity[rows, column_of[rows]].sum(), best, rtol=1e-12)


def test_match_never_takes_a_pair_below_zero() -> None:
    similarity = np.array([[-1.0, 0.5], [-2.0, 0.4]])
    assert match(similarity).tolist() == [1, -1]
