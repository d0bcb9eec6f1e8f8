"""Runs a part of `benchmarks.warehouse`: one of the modules beside this one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path

import benchmarks.warehouse
from benchmarks._timing import arguments, pin_cores, report
from benchmarks.lifecycle._postgres import fresh_database


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the part that is named and print."""
    parts = sorted(found.name for found in pkgutil.iter_modules(benchmarks.warehouse.__path__) if found.name[0] != "_")
    parser = arguments(benchmarks.warehouse.__doc__)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--rows", type=int, default=None, help="detections, see above")
    parser.add_argument("--cameras", type=int, default=None)
    parser.add_argument("--days", type=int, default=None)
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--shared-buffers", default="128MB", help="PostgreSQL's own cache")
    parser.add_argument("--folder", type=Path, default=None)
    parser.set_defaults(cores=2)
    options = parser.parse_args(argv)
    pin_cores(options.cores)
    part = importlib.import_module(f"benchmarks.warehouse.{options.part}")
    for name, value in part.DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    with fresh_database(options.folder, settings={"shared_buffers": options.shared_buffers}) as database:
        cases = part.measure(database, options)
    report(
        f"warehouse: {options.part}",
        cases,
        packages=("psycopg", "psycopg2-binary", "pyarrow", "duckdb"),
        json_path=options.json,
    )


if __name__ == "__main__":
    main()
