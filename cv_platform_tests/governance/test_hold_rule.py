"""`cv.held` and what a hold is said to cover, beside the oracle's reckoning, for many clips and holds at once."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from cv_platform.governance.holds import covered_clips
from cv_platform.storage.database import Connection, Database
from cv_platform_tests.governance.hold_oracle import FilmedClip, HoldOracle, PlacedHold

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
SITES = ["north", "south"]
CAMERAS = ["cam1", "cam2"]


def second(rng: random.Random, *, whole: int = 6) -> datetime:
    """Few moments, so that bounds meet."""
    return START + timedelta(seconds=rng.randrange(whole))


def add_clip(connection: Connection, rng: random.Random) -> FilmedClip:
    clip = FilmedClip(uuid.uuid4(), rng.choice(SITES), rng.choice(CAMERAS), second(rng))
    known = rng.random() < 0.7
    clip.lasts = timedelta(seconds=rng.randrange(3)) if known else timedelta()
    connection.execute(
        "INSERT INTO cv.clips (clip_id, upload_key, etag, size_bytes, site_id, camera_id, captured_at, duration_s,"
        " published_key) VALUES (%s, %s, 'e', 1, %s, %s, %s, %s, %s)",
        [
            clip.clip_id,
            str(clip.clip_id),
            clip.site,
            clip.camera,
            clip.begins_at,
            clip.lasts.total_seconds() if known else None,
            f"blurred/{clip.clip_id}",
        ],
    )
    return clip


def add_hold(connection: Connection, rng: random.Random, clips: list[FilmedClip]) -> PlacedHold:
    hold = PlacedHold(
        uuid.uuid4(),
        site=rng.choice([None, None, *SITES]),
        camera=rng.choice([None, None, *CAMERAS]),
        clip=rng.choice([None, None, rng.choice(clips).clip_id]),
        starts_at=rng.choice([None, second(rng)]),
        days_left=rng.choice([None, None, 1.0, -1.0]),
        released=rng.random() < 0.2,
    )
    if hold.site is None and hold.camera is None and hold.clip is None:
        hold.site = rng.choice(SITES)
    if rng.random() < 0.6:
        hold.ends_at = (hold.starts_at or second(rng)) + timedelta(seconds=rng.randint(1, 3))
    connection.execute(
        "INSERT INTO cv.holds (hold_id, site_id, camera_id, clip_id, starts_at, ends_at, until, reason, placed_by,"
        " released_at, released_by) VALUES (%s, %s, %s, %s, coalesce(%s, '-infinity'::timestamptz),"
        " coalesce(%s, 'infinity'::timestamptz), coalesce(now() + %s, 'infinity'), 'case', 'officer', %s, %s)",
        [
            hold.hold_id,
            hold.site,
            hold.camera,
            hold.clip,
            hold.starts_at,
            hold.ends_at,
            None if hold.days_left is None else timedelta(days=hold.days_left),
            START if hold.released else None,
            "officer" if hold.released else None,
        ],
    )
    return hold


@pytest.mark.parametrize("seed", range(8))
def test_what_is_held_is_what_the_holds_say(database_url: str, seed: int) -> None:
    rng = random.Random(seed)
    database = Database(database_url)
    with database.transaction() as connection:
        clips = [add_clip(connection, rng) for _ in range(60)]
    oracle = HoldOracle(clips={clip.clip_id: clip for clip in clips})
    kinds = set()
    for _ in range(12):  # few at a time: many would hold everything
        with database.transaction() as connection:
            connection.execute("DELETE FROM cv.holds")
            oracle.holds = [add_hold(connection, rng, clips) for _ in range(3)]
            said = {
                row[0] for row in connection.execute("SELECT clip_id FROM cv.clips WHERE cv.held(clip_id)").fetchall()
            }
        assert said == oracle.held()
        kinds.add((bool(said), len(said) == len(clips)))
        for hold in oracle.holds:
            covered = sum(covered_clips(database, hold.hold_id).values())
            assert covered == sum(oracle.covers(hold, clip) for clip in clips)
    assert (True, False) in kinds
    database.close()
