"""The clip graph's checks fail where they should, with the severity that they should."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import dagster as dg
import pytest

from cv_platform.defs.vision import checks
from cv_platform.resources.platform import PlatformResource
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform_tests.defs.conftest import noon

AddClip = Callable[..., None]
DAY = noon(1).date().isoformat()


def evaluate(light: Settings, check: dg.AssetChecksDefinition, day: str = DAY) -> dg.AssetCheckResult:
    """The check's function alone: a run of one check by partition is more than Dagster 1.13 offers outside a job."""
    result = check.node_def.compute_fn.decorated_fn(SimpleNamespace(partition_key=day), PlatformResource(light))  # type: ignore[attr-defined]
    assert isinstance(result, dg.AssetCheckResult)
    return result


def change(ledger: Database, statement: str) -> None:
    with ledger.transaction() as connection:
        connection.execute(statement)


def test_quarantine_warns_with_reasons_and_of_its_day_alone(
    light: Settings, ledger: Database, add_clip: AddClip
) -> None:
    add_clip("harbour", noon(1))
    assert evaluate(light, checks.quarantine).passed
    change(
        ledger,
        "UPDATE cv.clips SET state = 'quarantined', quarantine_stage = 'raw_clips', quarantine_code = 'truncated',"
        " quarantine_reason = 'cut off', quarantined_at = now()",
    )
    found = evaluate(light, checks.quarantine)
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.WARN
    assert "raw_clips: truncated" in str(found.metadata["reasons"].value)
    assert evaluate(light, checks.quarantine, noon(2).date().isoformat()).passed


def test_pending_says_which_site(light: Settings, ledger: Database, add_clip: AddClip) -> None:
    add_clip("harbour", noon(1))
    found = evaluate(light, checks.pending_by_site)
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.WARN
    assert "harbour" in str(found.metadata["sites"].value)
    change(ledger, "UPDATE cv.stages SET state = 'done'")
    assert evaluate(light, checks.pending_by_site).passed


def test_a_ledger_that_contradicts_itself_is_an_error(light: Settings, ledger: Database, add_clip: AddClip) -> None:
    add_clip("harbour", noon(1))
    assert evaluate(light, checks.ledger_balance).passed
    change(ledger, "UPDATE cv.stages SET state = 'done'")  # and the clip still counts as in progress
    found = evaluate(light, checks.ledger_balance)
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.ERROR


@pytest.mark.parametrize("table", ["detections", "tracks"])
def test_a_changed_table_is_an_error(light: Settings, ledger: Database, table: str) -> None:
    (check,) = [c for c in checks.checks if next(iter(c.check_keys)).to_user_string() == f"{table}:schema"]
    assert evaluate(light, check).passed
    change(ledger, f"ALTER TABLE warehouse.{table} ADD COLUMN colour text")
    found = evaluate(light, check)
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.ERROR
    assert "colour" in str(found.metadata["extra"].value)
