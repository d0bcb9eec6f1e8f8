"""Watching the daemon work: what is done, what is left, and when the ledger is at rest."""

from __future__ import annotations

from dataclasses import dataclass, field

from cv_platform.storage.database import Database
from cv_platform.storage.ledger.model import STAGES
from cv_platform.storage.ledger.queries import clip_states, stage_states

_SETTLED = ("done", "failed", "stopped", "frozen")


@dataclass(frozen=True)
class Progress:
    """How far the ledger is, at one moment.

    Attributes:
        registered: how many of the expected uploads the ledger knows.
        expected: uploads that were made.
        stages: for each stage, clips that need nothing more from it and clips in all.
        clips: clips by state.
        copies_due: published clips whose stable object is not yet the ledger's.
        dirty_days: days whose marts are behind.
    """

    registered: int
    expected: int
    stages: dict[str, tuple[int, int]] = field(default_factory=dict)
    clips: dict[str, int] = field(default_factory=dict)
    copies_due: int = 0
    dirty_days: int = 0

    @property
    def at_rest(self) -> bool:
        """Whether nothing is left to do: every upload known, every stage settled, every mart built."""
        return (
            self.registered >= self.expected
            and self.clips.get("in_progress", 0) == 0
            and all(settled == total for settled, total in self.stages.values())
            and self.copies_due == 0
            and self.dirty_days == 0
        )

    def line(self) -> str:
        """One line for a log."""
        stages = "  ".join(f"{stage} {settled}/{total}" for stage, (settled, total) in self.stages.items())
        return (
            f"registered {self.registered}/{self.expected}  {stages}  published {self.clips.get('published', 0)}"
            f"  quarantined {self.clips.get('quarantined', 0)}  days to build {self.dirty_days}"
        )


def read_progress(database: Database, upload_keys: list[str]) -> Progress:
    """Read how far the ledger is with everything, and whether it knows these uploads."""
    stages = stage_states(database)
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT (SELECT count(DISTINCT upload_key) FROM cv.clips WHERE upload_key = ANY(%s)),"
            " (SELECT count(*) FROM cv.clips WHERE copy_due),"
            " (SELECT count(*) FROM cv.mart_days WHERE dirty_seq > built_seq)",
            [upload_keys],
        ).fetchone()
    registered, copies_due, dirty_days = row or (0, 0, 0)
    return Progress(
        registered=registered,
        expected=len(set(upload_keys)),
        stages={
            stage: (sum(stages.get(stage, {}).get(state, 0) for state in _SETTLED), sum(stages.get(stage, {}).values()))
            for stage in STAGES
        },
        clips=clip_states(database),
        copies_due=copies_due,
        dirty_days=dirty_days,
    )
