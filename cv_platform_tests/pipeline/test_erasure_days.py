"""How far an erasure of a track looks: over every day that saw it, however many are cold, and over no other."""

from __future__ import annotations

import uuid
from datetime import date, timedelta

import pytest

from cv_platform import faults
from cv_platform.governance.erasure import requests
from cv_platform.pipeline import erasure
from cv_platform.pipeline.keys import upload_key
from cv_platform.pipeline.warm_to_cold import warm_to_cold
from cv_platform.storage.ledger.days import midnight
from cv_platform.storage.ledger.erasure_scope import ErasureScope
from cv_platform.storage.ledger.registration import Upload, register_uploads
from cv_platform.storage.warehouse import TrackRow, ensure_days, write_tracks
from cv_platform_tests.pipeline.warm_rows import DAY, LATER, fill
from cv_platform_tests.pipeline.world import World

TRACK = ErasureScope("track", camera_id="cam1", track_day=DAY, track_id=0)


def after(days: int) -> date:
    return DAY + timedelta(days=days)


def sees(world: World, day: date, key: str, *, until: timedelta = timedelta(minutes=1)) -> None:
    """A row of the track, of a clip of another day than its first."""
    ensure_days(world.database, [day])
    with world.database.transaction() as connection:
        at = midnight(day)
        write_tracks(connection, "cam1", key, [TrackRow(uuid.uuid4(), at, DAY, 0, 0, at + until, 9, 0.5)])


def cold(world: World) -> set[date]:
    """Days of cam1 that are cold."""
    rows = world.rows("SELECT DISTINCT day FROM cv.cold_files WHERE camera_id = 'cam1' AND state = 'live'")
    return {day for (day,) in rows}


def goes_cold(world: World, *days: int) -> None:
    world.execute("UPDATE cv.mart_days SET built_seq = dirty_seq")
    warm_to_cold(world.platform, LATER)
    assert cold(world) >= {after(n) for n in days}


def test_days_that_never_saw_the_track_stay_cold(world: World) -> None:
    for n in (-3, -2, 0, 1, 2, 9):
        fill(world, after(n), cameras=("cam1",), clips=1, rows=20)
    goes_cold(world, 0, 9)
    erasure.bring_back(world.platform, TRACK)
    assert cold(world) == {after(n) for n in (-3, -2, 2, 9)}  # the next day may have seen it: that is looked at


@pytest.mark.parametrize("clips_end_at_midnight", [True, False])
def test_every_day_that_saw_it_comes_back(world: World, clips_end_at_midnight: bool) -> None:
    for n in range(7):
        fill(world, after(n), cameras=("cam1",), clips=1, rows=20)
    for n in range(1, 4):
        sees(world, after(n), f"clip {n}")
    if not clips_end_at_midnight:  # the last one lasts into another day
        sees(world, after(3), "clip over midnight", until=timedelta(hours=25))
    goes_cold(world, *range(7))
    erasure.bring_back(world.platform, TRACK)
    assert cold(world) == {after(n) for n in range(5 if clips_end_at_midnight else 6, 7)}
    assert world.rows("SELECT count(*) FROM warehouse.tracks WHERE track_day = %s AND track_id = 0", DAY) == [
        (4 if clips_end_at_midnight else 5,)
    ]


def test_what_goes_cold_in_mid_erasure_is_found_when_the_rows_before_it_are_gone(world: World) -> None:
    """Its clips are deleted some at a time, in no order of days: what is left may be on a day far from its first."""
    for n in range(4):
        fill(world, after(n), cameras=("cam1",), clips=1, rows=20)
        at = midnight(after(n)) + timedelta(hours=1)
        upload = Upload(upload_key("north", "cam1", at), "etag", 1, "north", "cam1", at)
        register_uploads(world.database, [upload])
        [(key,)] = world.rows("SELECT published_key FROM cv.clips WHERE captured_at = %s", at)
        sees(world, after(n), key)
    request = requests.receive(world.database, TRACK, reference="case-1", by="clerk")
    erasure.preview(world.platform, request)
    requests.approve(world.database, request, by="officer")
    with faults.plan(erasure__begun="raise"), pytest.raises(faults.InjectedFault):
        erasure.execute(world.platform, request, actor="job")
    # As if the first batch had held all clips but that of the last day.
    gone = 'DELETE FROM warehouse.tracks WHERE track_day = %s AND track_id = 0 AND "timestamp" < %s'
    world.execute(gone, DAY, midnight(after(3)))
    goes_cold(world, 3)
    assert erasure.execute(world.platform, request, actor="job") == "executed"
    erasure.bring_back(world.platform, ErasureScope("camera", camera_id="cam1", starts_at=midnight(DAY), ends_at=LATER))
    assert not world.rows("SELECT 1 FROM warehouse.tracks WHERE track_day = %s AND track_id = 0", DAY)
