"""The demonstration's verdict: what is wrong with an outcome, and that a command with something wrong fails."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from cv_platform.commands.demo import conclude
from cv_platform.demo.plan import DemoClip
from cv_platform.demo.readback import DagsterMemory
from cv_platform.demo.summary import MARTS, summarise
from cv_platform.pipeline.keys import upload_key
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.model import clip_id_for
from cv_platform.storage.ledger.registration import Upload, register_uploads
from cv_platform.storage.ledger.withdrawal import quarantine_clip

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOT_BUILT = f"marts that were not built: {', '.join(sorted(MARTS))}"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, max_size=2)
    yield opened
    opened.close()


def _uploaded(database: Database, *, corrupt: tuple[bool, ...]) -> list[DemoClip]:
    """Registered clips, by whether they were made corrupt."""
    times = [NOON + timedelta(minutes=n) for n in range(len(corrupt))]
    keys = [upload_key("harbour", "quay", at) for at in times]
    register_uploads(
        database, [Upload(key, "e", 1, "harbour", "quay", at) for key, at in zip(keys, times, strict=True)]
    )
    return [DemoClip(key, Path("a.mp4"), bad) for key, bad in zip(keys, corrupt, strict=True)]


def _id(clip: DemoClip) -> uuid.UUID:
    return clip_id_for(clip.key, 0)


def _memory(*failed_checks: dict[str, Any]) -> DagsterMemory:
    return DagsterMemory(runs=[], ticks=[], skipped_ticks=0, failed_checks=list(failed_checks), active_runs=0)


def _refuse(database: Database, clip: DemoClip) -> None:
    with database.transaction() as connection:
        quarantine_clip(connection, _id(clip), stage="raw_clips", code="truncated", reason="it ends too early")


def test_only_clips_made_corrupt_are_to_be_quarantined(database: Database) -> None:
    good, bad, missed = clips = _uploaded(database, corrupt=(False, True, True))
    for clip in (good, bad):
        _refuse(database, clip)
    summary = summarise(database, clips, _memory())
    assert summary.problems == [
        f"clip {_id(good)} is quarantined and should not be: it ends too early",
        f"the corrupt clip {_id(missed)} is not quarantined",
        NOT_BUILT,
    ]
    assert summary.states["quarantined"] == 2
    assert {entry["reason"] for entry in summary.quarantine} == {"it ends too early"}
    assert summary.as_json()["ok"] is False


@pytest.mark.parametrize(("severity", "wrong"), [("ERROR", True), ("WARN", False)])
def test_a_failed_check_is_wrong_where_it_is_an_error(database: Database, severity: str, wrong: bool) -> None:
    check = {"check": "schema", "asset": "tracks", "partition": None, "severity": severity}
    told = ["check schema of tracks failed (no partition)"] if wrong else []
    assert summarise(database, [], _memory(check)).problems == [*told, NOT_BUILT]


def test_a_command_with_something_wrong_fails_and_says_what(capsys: pytest.CaptureFixture[str]) -> None:
    conclude([])
    with pytest.raises(typer.Exit) as ended:
        conclude(["the ledger does not balance"])
    assert ended.value.exit_code == 1
    assert "- the ledger does not balance" in capsys.readouterr().err
