"""One camera and day out of a cold year of files, against DuckDB over all files."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks._timing import Case, compare
from benchmarks.warehouse._rows import DAY, fill_day
from cv_platform.pipeline.platform import open_platform
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.days import midnight

DEFAULTS = {"rows": 400, "days": 365, "cameras": 4}


def measure(database: Database, options: Namespace) -> list[Case]:
    """One camera and day out of a year of files."""
    import duckdb

    from cv_platform.pipeline.row_query import query_rows
    from cv_platform.pipeline.warm_to_cold import warm_to_cold

    for n in range(options.days):
        fill_day(database, DAY + timedelta(days=n), options.cameras, clips=2, rows=options.rows // 2)
    with tempfile.TemporaryDirectory(prefix="cvp-bench-", dir=options.folder) as folder:
        platform = open_platform(Settings(state_dir=Path(folder), postgres_url=database.url), database)
        moved = warm_to_cold(platform, midnight(DAY) + timedelta(days=options.days + 91))
        middle = DAY + timedelta(days=options.days // 2)
        where = f"WHERE camera_id = 'cam01' AND timestamp >= '{middle}' AND timestamp < '{middle + timedelta(days=1)}'"
        opened: dict[str, Any] = {}

        def ours() -> None:
            with query_rows(platform, f"SELECT count(*) AS n, avg(confidence) FROM detections {where}") as answer:
                (row,) = answer.batches.read_all().to_pylist()
                assert row["n"] == options.rows // 2 * 2, row
                opened.update(files=len(answer.files["detections"]), cold_bytes=answer.cold_bytes)

        def everything() -> None:
            files = f"{platform.cold.folder}/warehouse/detections/*.parquet"
            with duckdb.connect() as engine:
                engine.execute("SET TimeZone = 'UTC'")
                engine.execute(f"SELECT count(*), avg(confidence) FROM read_parquet('{files}') {where}").fetchone()

        contenders = {"cv-platform query": ours, "DuckDB over all files": everything}
        case = compare("one camera and day of a year", contenders, rounds=options.rounds, warmup=1)
        case.facts.update({"files of detections": moved.files, "files opened": opened["files"], **opened})
    return [case]
