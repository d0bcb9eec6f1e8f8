"""`new_uploads`: registers what is there, within bounds, asks for nothing, and keeps a number as its cursor."""

from __future__ import annotations

import dagster as dg

from cv_platform.defs.ingest.sensors import new_uploads
from cv_platform.pipeline.keys import upload_key
from cv_platform.resources.platform import PlatformResource
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform_tests.defs.conftest import noon


def tick(settings: Settings, cursor: str | None) -> dg.SensorEvaluationContext:
    """One tick; returns its context."""
    context = dg.build_sensor_context(
        instance=dg.DagsterInstance.ephemeral(), cursor=cursor, resources={"platform": PlatformResource(settings)}
    )
    data = new_uploads(settings).evaluate_tick(context)
    assert not data.run_requests
    assert data.skip_message
    assert "cam" not in data.skip_message
    return context


def clips(ledger: Database) -> int:
    with ledger.transaction() as connection:
        row = connection.execute("SELECT count(*) FROM cv.clips").fetchone()
    assert row is not None
    return int(row[0])


def test_registers_in_bounds_and_asks_for_nothing(light: Settings, ledger: Database) -> None:
    store = PlatformResource(light).open().restricted
    for hour in range(7):
        store.put_bytes(upload_key("harbour", "cam", noon(1).replace(hour=hour)), b"not empty")
    bounded = light.model_copy(update={"max_uploads_per_tick": 3})
    cursor: str | None = None
    for expected in (3, 6, 7, 7):
        cursor = tick(bounded, cursor).cursor
        assert clips(ledger) == expected
        assert cursor is not None
        assert cursor.isdigit(), "a cursor is a number: no list of keys, nothing personal"
    assert cursor == "4"


def test_an_object_that_is_no_upload_is_quarantined_and_the_others_go_on(light: Settings, ledger: Database) -> None:
    store = PlatformResource(light).open().restricted
    store.put_bytes("raw/holiday pictures/Anna.mp4", b"?")
    store.put_bytes(upload_key("harbour", "cam", noon(1)), b"not empty")
    tick(light, None)
    with ledger.transaction() as connection:
        rows = connection.execute("SELECT state, quarantine_reason FROM cv.clips ORDER BY state").fetchall()
    assert [state for state, _ in rows] == ["in_progress", "quarantined"]
    assert "Anna" not in rows[1][1]
