"""Attacks on what analysts see, by someone who knows the method, every published number and who could be where.

The attacker lists every world (every table of counts) that would have been published in the same way. A number is
protected where the worlds let it be anything from 0 to k - 1: then no sum, no difference and no inequality over the
published numbers narrows it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_platform_tests.dbt.suppression import Published, publish

Cells = tuple[tuple[int, ...], ...]


def worlds_by_output(worlds: Iterable[Cells], publisher: Callable[[Cells], object]) -> dict[object, list[Cells]]:
    found: dict[object, list[Cells]] = defaultdict(list)
    for world in worlds:
        found[publisher(world)].append(world)
    return found


def unprotected(worlds: Sequence[Cells], k: int) -> list[str]:
    """Hours and dwell buckets that may be under k and that the attacker can narrow to less than 0..k - 1."""
    leaked = []
    for leaf in range(len(worlds[0])):
        values = {sum(world[leaf]) for world in worlds}
        if min(values) < k and not values >= set(range(k)):
            leaked.append(f"hour {leaf}: {sorted(values)}")
    for bucket in range(len(worlds[0][0])):
        values = {sum(row[bucket] for row in world) for world in worlds}
        if min(values) < k and not values >= set(range(k)):
            leaked.append(f"bucket {bucket}: {sorted(values)}")
    return leaked


def tables(hours: int, buckets: int, most: int) -> Iterable[Cells]:
    for flat in product(range(most + 1), repeat=hours * buckets):
        yield tuple(tuple(flat[hour * buckets : (hour + 1) * buckets]) for hour in range(hours))


@pytest.mark.parametrize(
    ("hours", "buckets", "most", "k"),
    [(1, 1, 12, 5), (2, 1, 12, 5), (3, 1, 11, 5), (4, 1, 8, 4), (5, 1, 6, 3), (6, 1, 4, 2), (3, 2, 4, 2), (2, 2, 8, 4)],
)
def test_knowing_every_number_and_the_method_narrows_nothing_small(hours: int, buckets: int, most: int, k: int) -> None:
    groups = worlds_by_output(tables(hours, buckets, most), lambda world: publish(world, k))
    # The bound on a cell is the test's, not the attacker's: outputs that worlds beyond it would share are left out.
    whole = [worlds for worlds in groups.values() if max(map(max, (row for w in worlds for row in w))) < most]
    assert whole
    for worlds in whole:
        leaked = unprotected(worlds, k)
        assert not leaked, (publish(worlds[0], k), leaked)


@pytest.mark.parametrize(("buckets", "total", "k"), [(2, 7, 3), (4, 9, 3), (4, 11, 4), (8, 8, 2), (8, 9, 3)])
def test_a_total_and_the_finest_buckets_narrow_no_small_bucket(buckets: int, total: int, k: int) -> None:
    # One hour that is visible: its total is known, and splits into buckets.
    worlds = (
        ((*head, total - sum(head)),) for head in product(range(total + 1), repeat=buckets - 1) if sum(head) <= total
    )
    for found in worlds_by_output(worlds, lambda world: publish(world, k)).values():
        leaked = unprotected(found, k)
        assert not leaked, (publish(found[0], k), leaked)


def exact_total(cells: Cells, k: int) -> object:
    """What not to do: small hours hidden, and the day's true total beside them."""
    counts = [sum(row) for row in cells]
    return tuple((leaf, count) for leaf, count in enumerate(counts) if count >= k), sum(counts)


def rounded(cells: Cells, k: int) -> object:
    """What not to do either: every number rounded down to a multiple of k."""
    counts = [sum(row) for row in cells]
    return tuple(count // k * k for count in counts), sum(counts) // k * k


def pooled_without_bound(cells: Cells, k: int) -> object:
    """Nor this: the small hours together wherever they reach k."""
    counts = [sum(row) for row in cells]
    small = sum(count for count in counts if count < k)
    return tuple((leaf, n) for leaf, n in enumerate(counts) if n >= k), small if small >= k else 0


@pytest.mark.parametrize("method", [exact_total, rounded, pooled_without_bound])
def test_the_attack_breaks_weaker_methods(method: Callable[[Cells, int], object]) -> None:
    groups = worlds_by_output(tables(3, 1, 9), lambda world: method(world, 4))
    assert any(unprotected(worlds, 4) for worlds in groups.values())


days = st.integers(2, 6).flatmap(
    lambda k: st.tuples(
        st.just(k), st.lists(st.lists(st.integers(0, 9), min_size=8, max_size=8), min_size=1, max_size=12)
    )
)


def numbers(found: Published) -> list[int]:
    return [n for _, n in found.leaves] + [found.total] * (found.total > 0) + [n for _, _, n in found.dwell]


@given(days)
def test_no_number_and_no_difference_is_a_small_group(day: tuple[int, list[list[int]]]) -> None:
    k, cells = day
    found = publish(cells, k)
    assert all(number >= k for number in numbers(found))
    rest = found.total - sum(n for _, n in found.leaves)
    assert rest == 0 or rest >= k  # the day minus its hours
    assert sum(n for _, _, n in found.dwell) == found.total  # the day minus its buckets
    assert found.total <= sum(map(sum, cells))


@given(days, st.data())
def test_hidden_hours_may_hold_anything(day: tuple[int, list[list[int]]], data: st.DataObject) -> None:
    """Where no pool is published, what is in the hidden hours changes nothing that analysts see."""
    k, cells = day
    found = publish(cells, k)
    visible = {leaf for leaf, _ in found.leaves}
    if found.total > sum(n for _, n in found.leaves):
        return
    hidden = [leaf for leaf in range(len(cells)) if leaf not in visible]
    others = [list(row) for row in cells]
    left = k - 1
    for leaf in hidden:  # any small numbers that do not reach k together
        others[leaf] = [0] * 8
        count = data.draw(st.integers(0, left))
        others[leaf][data.draw(st.integers(0, 7))] = count
        left -= count
    assert publish(others, k) == found
