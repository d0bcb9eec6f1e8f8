"""A day of detections from PostgreSQL to Parquet. Bars: 200,000 rows/s, 600 MB, no live table locked for a second.

    python -m benchmarks.lifecycle export [--rows 5000000] [--cameras 64] [--folder FOLDER] [--json FILE]

The same as `python -m benchmarks.warehouse export`, which says how it is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.warehouse.__main__ import main as measure


def main(argv: Sequence[str]) -> None:
    """Measure and print."""
    measure(["export", *argv])
