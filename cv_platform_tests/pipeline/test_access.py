"""A bundle holds what is kept of its subject, readable by its owner alone, and the log says that it was made."""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cv_platform.governance import audit
from cv_platform.governance.policy import Policy
from cv_platform.pipeline.access import write_bundle
from cv_platform.storage.ledger.erasure_scope import ErasureScope
from cv_platform_tests.pipeline.test_erasure import FIRST_CLIP
from cv_platform_tests.pipeline.world import World


@pytest.fixture
def world(make_filmed: Callable[[], World]) -> World:
    """Footage of two cameras, published."""
    return make_filmed()


def lines(bundle: zipfile.ZipFile, table: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in bundle.read(f"rows/{table}.jsonl").splitlines()]


def test_a_bundle_of_an_interval(world: World, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    done = write_bundle(world.platform, FIRST_CLIP, path, reference="case-3", by="officer")
    assert (done.clips, done.without_pictures) == (1, 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    [(clip_id, sha256)] = world.rows(
        "SELECT clip_id, published_sha256 FROM cv.clips WHERE camera_id = 'cam1' ORDER BY captured_at LIMIT 1"
    )
    with zipfile.ZipFile(path) as bundle:
        assert hashlib.sha256(bundle.read(f"clips/{clip_id}.mp4")).hexdigest() == sha256
        assert json.loads(bundle.read(f"clips/{clip_id}.certificate.json"))["output_sha256"] == sha256
        rows = lines(bundle, "detections")
        assert {row["camera_id"] for row in rows} == {"cam1"}
        assert len(rows) == done.rows["detections"] == 20
    assert [entry.action for entry in audit.entries(world.database)][-1] == "access.bundled"


def test_a_bundle_of_a_track_holds_no_row_of_anybody_else(world: World, tmp_path: Path) -> None:
    [(day, number, detections)] = world.rows(
        "SELECT track_day, track_id, sum(detections)::int FROM warehouse.tracks WHERE camera_id = 'cam2'"
        " GROUP BY 1, 2 ORDER BY 3 DESC, 2 LIMIT 1"
    )
    scope = ErasureScope("track", camera_id="cam2", track_day=day, track_id=number)
    path = tmp_path / "bundle.zip"
    write_bundle(world.platform, scope, path, reference="case-4", by="officer")
    with zipfile.ZipFile(path) as bundle:
        for table in ("detections", "tracks", "events"):
            assert {row["track_id"] for row in lines(bundle, table)} <= {number}
        assert len(lines(bundle, "detections")) == detections


@pytest.mark.parametrize("more", ["classes: [face, person]", "zones: [[[0, 0], [0.5, 0], [0.5, 0.5]]]"])
def test_a_clip_that_hides_less_than_the_policy_asks_for_is_left_out(world: World, tmp_path: Path, more: str) -> None:
    text = f"defaults: {{keep: {{cold: 100y}}}}\nsites: {{north: {{cameras: {{cam1: {{hide: {{{more}}}}}}}}}}}"
    world.platform.policy = Policy.parse(text)  # type: ignore[misc]  # cached, so that a run sees one
    done = write_bundle(world.platform, FIRST_CLIP, tmp_path / "bundle.zip", reference="case-6", by="officer")
    assert (done.clips, done.without_pictures, done.hiding_too_little) == (0, 0, 1)
    assert done.rows["detections"] == 20
    with zipfile.ZipFile(tmp_path / "bundle.zip") as bundle:
        assert not [name for name in bundle.namelist() if name.startswith("clips/")]
        assert json.loads(bundle.read("README.json"))["clips whose pictures hide too little"] == 1


def test_nothing_is_overwritten_and_nothing_half_is_left(world: World, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        write_bundle(world.platform, FIRST_CLIP, path, reference="case-5", by="officer")
    assert path.read_text() == "mine"

    def stop(done: int, all_: int) -> None:
        raise KeyboardInterrupt

    other = tmp_path / "other.zip"
    with pytest.raises(KeyboardInterrupt):
        write_bundle(world.platform, FIRST_CLIP, other, reference="case-5", by="officer", progress=stop)
    assert not other.exists()
