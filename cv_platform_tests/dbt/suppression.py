"""What dbt/models/aggregates/publication.sql publishes of one (site, local day, class), written again in Python.

Plain and slow, so that the attacks of test_suppression.py can try every world; test_publication.py holds the SQL to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Attributes: leaves: (leaf, tracks) of each visible hour; total: of the day; dwell: (low, high, tracks)."""

    leaves: tuple[tuple[int, int], ...]
    total: int
    dwell: tuple[tuple[int, int, int], ...]


def publish(cells: Sequence[Sequence[int]], k: int) -> Published:
    """Publish a day. `cells[leaf][bucket]` counts tracks; every leaf has footage; buckets are a power of two."""
    counts = [sum(row) for row in cells]
    visible = [leaf for leaf, count in enumerate(counts) if count >= k]
    hidden = len(cells) - len(visible)
    rest = sum(counts) - sum(counts[leaf] for leaf in visible)
    pooled = k <= rest <= (hidden - 1) * (k - 1)
    counted = range(len(cells)) if pooled else visible
    buckets = [sum(cells[leaf][bucket] for leaf in counted) for bucket in range(len(cells[0]))]
    total = sum(buckets)
    return Published(
        tuple((leaf, counts[leaf]) for leaf in visible),
        total,
        tuple(_split(buckets, 0, len(buckets), k)) if total else (),
    )


def _split(buckets: Sequence[int], low: int, high: int, k: int) -> list[tuple[int, int, int]]:
    middle = (low + high) // 2
    if high - low > 1 and sum(buckets[low:middle]) >= k and sum(buckets[middle:high]) >= k:
        return _split(buckets, low, middle, k) + _split(buckets, middle, high, k)
    return [(low, high, sum(buckets[low:high]))]
