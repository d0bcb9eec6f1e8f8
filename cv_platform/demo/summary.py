"""The demonstration's outcome: what stands in the ledger, the warehouse, the store and Dagster's storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg import sql

from cv_platform.demo.plan import DemoClip
from cv_platform.demo.readback import DagsterMemory
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.model import clip_id_for
from cv_platform.storage.ledger.queries import balance, quarantined, seconds_by_stage, warehouse_counts

MARTS = (
    "marts.camera_hourly",
    "marts.site_daily",
    "marts.dwell_histogram",
    "marts.pipeline_daily",
    "restricted.track_summary",
)


@dataclass(frozen=True)
class Mart:
    """The head of one mart: for analysts as they see it, small cells suppressed."""

    name: str
    rows: int
    columns: list[str]
    head: list[list[Any]]


@dataclass(frozen=True)
class Summary:
    """Everything that the demonstration shows, and what is wrong with it (`problems` empty: nothing)."""

    states: dict[str, int]
    received: int
    counts: dict[str, int]
    quarantine: list[dict[str, str]]
    stage_seconds: dict[str, dict[str, float]]
    marts: list[Mart]
    dagster: DagsterMemory
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values for summary.json."""
        document = asdict(self)
        memory = document.pop("dagster")
        for mart in document["marts"]:
            if mart["name"].startswith("restricted."):
                mart["head"] = []  # a row a track is personal data: it belongs in no file
        return {
            "ok": not self.problems,
            **document,
            "run_ids": [run["run_id"] for run in self.dagster.runs],
            "tick_ids": [tick["tick_id"] for tick in self.dagster.ticks],
            "dagster": memory,
        }


def summarise(database: Database, clips: Sequence[DemoClip], memory: DagsterMemory) -> Summary:
    """Read the outcome, and judge it: the ledger balances, no check of severity ERROR failed, exactly the clips that
    were made corrupt are quarantined.

    Args:
        clips: everything that this state folder's demonstrations have uploaded.
    """
    books = balance(database)
    problems = []
    if not books.balances:
        problems.append(f"the ledger does not balance: {books.received} clips received, by state {books.states}")
    refused = quarantined(database)
    expected = {str(clip_id_for(clip.key, 0)) for clip in clips if clip.corrupt}
    ours = {str(clip_id_for(clip.key, 0)) for clip in clips}
    found = {str(clip.clip_id) for clip in refused}
    for clip_id in sorted((found & ours) - expected):
        reason = next(clip.reason for clip in refused if str(clip.clip_id) == clip_id)
        problems.append(f"clip {clip_id} is quarantined and should not be: {reason}")
    for clip_id in sorted(expected - found):
        problems.append(f"the corrupt clip {clip_id} is not quarantined")
    for check in memory.failed_checks:
        if check["severity"] == "ERROR":
            problems.append(
                f"check {check['check']} of {check['asset']} failed ({check['partition'] or 'no partition'})"
            )
    marts = [mart for name in MARTS if (mart := _mart(database, name)) is not None]
    missing = sorted(set(MARTS) - {mart.name for mart in marts})
    if missing:
        problems.append(f"marts that were not built: {', '.join(missing)}")
    return Summary(
        states=books.states,
        received=books.received,
        counts={**warehouse_counts(database), "blurred_clips": books.states.get("published", 0)},
        quarantine=[
            {"clip_id": str(clip.clip_id), "stage": clip.stage, "code": clip.code, "reason": clip.reason}
            for clip in refused
        ],
        stage_seconds={
            stage: {"clips": clips_done, "seconds": round(float(seconds), 2)}
            for stage, (clips_done, seconds) in seconds_by_stage(database).items()
        },
        marts=marts,
        dagster=memory,
        problems=problems,
    )


def _mart(database: Database, name: str, rows: int = 5) -> Mart | None:
    """The head of a mart; None where it was not built."""
    table = sql.Identifier(*name.split("."))
    with database.transaction() as connection:
        if connection.execute("SELECT to_regclass(%s)", [name]).fetchone() == (None,):
            return None
        total = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchone()
        cursor = connection.execute(sql.SQL("SELECT * FROM {} ORDER BY 1, 2, 3 LIMIT {}").format(table, rows))
        columns = [column.name for column in cursor.description or []]
        head = [list(row) for row in cursor.fetchall()]
    return Mart(name, total[0] if total else 0, columns, head)
