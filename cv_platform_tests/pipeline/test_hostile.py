"""Real broken, odd and malicious files beside good clips: each ends published or quarantined, nothing hangs."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from cv_platform.pipeline.blurred_clips import BlurredClips
from cv_platform.pipeline.keys import upload_key
from cv_platform.pipeline.published_clips import fetch_published
from cv_platform.pipeline.publishing import publish_due
from cv_platform.pipeline.stage import run_stage
from cv_platform.storage.ledger.model import BLURRED_CLIPS, DECODED_FRAMES, DETECTIONS, RAW_CLIPS, TRACKS, Clip, Scope
from cv_platform.storage.ledger.published import published_clips
from cv_platform.storage.ledger.queries import balance, quarantined
from cv_platform.vision.anonymise import AnonymisePolicy, Certificate
from cv_platform.vision.anonymise.sandbox import DetectorSpec, anonymise_clip_sandboxed
from cv_platform.vision.video.contact_sheet import contact_sheet
from cv_platform_tests.pipeline.world import MORNING, World, short_clip, work_of

LONGEST_S = 30.0


def anonymise(clip: Clip, source: Path, destination: Path, should_stop: Callable[[], bool]) -> Certificate:
    """The real anonymiser in its own process; only its detectors are cheap."""
    detector = DetectorSpec("cv_platform_tests.pipeline.nothing:make")
    verifier = DetectorSpec("cv_platform_tests.pipeline.nothing:make_second")
    return anonymise_clip_sandboxed(
        source,
        destination,
        policy=AnonymisePolicy(verify_rate_hz=0.5),
        detector=detector,
        verifier=verifier,
        should_stop=should_stop,
        timeout_s=LONGEST_S,
    )


@pytest.mark.slow
def test_all_hostile_files_end_and_good_ones_publish(
    make_world: Callable[..., World], shared_data: Path, tmp_path: Path
) -> None:
    files = sorted(path for path in (shared_data / "hostile").iterdir() if path.is_file())
    assert len(files) > 50
    world = make_world(decode_timeout_s=LONGEST_S, lease_s=600.0, frames_fps=1.0, frames_long_side=320)
    good = [short_clip(tmp_path / f"{n}.mp4", frames=6, first_level=n) for n in range(3)]
    keys: dict[str, str] = {}
    for n, path in enumerate([*good, *files]):
        extension = path.suffix.lstrip(".").lower()
        # A name that no video has would be refused by its key alone: the file's content is what is tried here.
        if extension not in {"mp4", "mov", "mkv", "avi", "webm", "flv", "mpeg", "3gp"}:
            extension = "mp4"
        key = upload_key("north", f"cam{n % 4}", MORNING + timedelta(minutes=10 * n), extension)
        world.upload(path, key=key)
        keys[key] = path.name
    assert world.ingest().new == len(files) + 3

    def run(stage: str) -> None:
        if stage == BLURRED_CLIPS:
            run_stage(world.platform, BlurredClips("v1", anonymise), Scope())
        elif stage == TRACKS:
            work_of(stage, "v1").run(world.platform, Scope())
        else:
            run_stage(world.platform, work_of(stage, "v1"), Scope())

    for stages in ([RAW_CLIPS] * 3, [DECODED_FRAMES, BLURRED_CLIPS, BLURRED_CLIPS], [DETECTIONS], [TRACKS]):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(run, stages))
    for _ in range(3):  # failures that may pass are tried again at once
        world.execute("UPDATE cv.stages SET next_attempt_at = '-infinity' WHERE state = 'pending'")
        for stage in (RAW_CLIPS, DECODED_FRAMES, DETECTIONS, BLURRED_CLIPS, TRACKS):
            run(stage)
    publish_due(world.platform, Scope())
    states = world.states()
    assert set(states) == {"published", "quarantined"}, states
    found = balance(world.database)
    assert found.balances
    assert found.received == len(files) + 3
    for name, state in world.rows("SELECT upload_key, state FROM cv.clips ORDER BY captured_at")[:3]:
        assert state == "published", name
    for clip in quarantined(world.database):
        assert re.fullmatch(r"[a-z_]+", clip.code)
        assert clip.code not in ("failed_repeatedly", "worker_died"), clip  # those are our failures, not the file's
        assert 10 < len(clip.reason) < 200
        for part in ("/", "raw", "cam", "\n", "Error", "Traceback", "north"):
            assert part not in clip.reason, clip.reason
    slow = world.rows("SELECT stage, seconds FROM cv.stages WHERE seconds > %s", LONGEST_S)
    assert not slow
    for clip in published_clips(world.database):
        path = tmp_path / "published.mp4"
        assert fetch_published(world.platform, clip.clip_id, path).sha256 == clip.sha256
        assert contact_sheet(path, frames=1, width=32)  # it opens, and shows something
