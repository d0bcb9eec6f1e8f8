"""The exporter: figures of the ledger in Prometheus's format, and nothing personal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import yaml

from cv_platform.commands.metrics import exposition, make_server
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.claims import claim_clips
from cv_platform.storage.ledger.measures import Measures, measure
from cv_platform.storage.ledger.model import Scope
from cv_platform.storage.ledger.registration import Upload, register_uploads
from cv_platform_tests.conftest import REPOSITORY

LINE = re.compile(r'[a-z_]+(\{[a-z_]+="[^"\\\n]*"(,[a-z_]+="[^"\\\n]*")*\})? -?[0-9.e+-]+')
GRAFANA = REPOSITORY / "docker" / "grafana"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, max_size=2)
    yield opened
    opened.close()


def _fill(database: Database) -> None:
    noon = datetime.now(UTC) - timedelta(days=1)
    uploads = [
        Upload(f"raw/{site}/{n}", "e", 1000, site, f"{site}-secret-cam", noon + timedelta(seconds=n))
        for site in ("north", "south")
        for n in range(3)
    ]
    register_uploads(database, [*uploads, Upload("raw/odd", "e", 1, problem=("bad_key", "says nothing"))])
    (claim,) = claim_clips(database, "raw_clips", version="v", scope=Scope(), run_id="r", lease_s=60.0, limit=1)
    with database.transaction() as connection:
        connection.execute(
            "UPDATE cv.stages SET lease_expires_at = now() - interval '1 s' WHERE clip_id = %s AND stage = 'raw_clips'",
            [claim.clip.clip_id],
        )
        connection.execute(
            "UPDATE cv.stages SET state = 'done', finished_at = now(), seconds = 2, counts = '{\"frames\": 50}'"
            " WHERE stage = 'decoded_frames' AND site_id = 'south'"
        )


def test_figures(database: Database) -> None:
    _fill(database)
    found = measure(database)
    assert found.clips == {("north", "in_progress"): 3, ("south", "in_progress"): 3, ("", "quarantined"): 1}
    assert found.stages["raw_clips"] == {"pending": 5, "running": 1}
    assert found.quarantined == {"bad_key": 1}
    assert found.ready == {"raw_clips": 5}
    assert found.expired_leases == {"raw_clips": 1}
    assert found.fps == {"decoded_frames": 25.0}
    assert set(found.lag_s) == {"north", "south"}
    assert {tier: size > 0 for tier, size in found.bytes_.items()} == {
        "ledger": True,
        "warm": True,
        "cold": False,
        "raw": True,
    }
    assert found.dirty_days == 2


def test_text(database: Database) -> None:
    _fill(database)
    text = exposition(measure(database))
    assert 'cv_clips{site="north",state="in_progress"} 3\n' in text
    for line in text.splitlines():
        assert line.startswith("# ") or LINE.fullmatch(line), line
    assert "secret-cam" not in text


def test_labels_are_escaped() -> None:
    assert '{code="a\\"b\\\\c\\nd"} 1' in exposition(Measures(quarantined={'a"b\\c\nd': 1}))


def test_it_serves_and_outlasts_a_database_that_is_gone() -> None:
    looks: list[int] = []

    def look() -> Measures:
        looks.append(1)
        if len(looks) == 1:
            raise psycopg.OperationalError("address of a server")
        return Measures(dirty_days=7)

    server = make_server("127.0.0.1", 0, look)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{address}/metrics", timeout=10)
        assert caught.value.code == 503
        assert b"address" not in caught.value.read()
        for _ in range(3):
            with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
                assert b"cv_dirty_days 7\n" in answer.read()
        assert len(looks) == 2, "a look is kept for a while"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("file", ["dashboard.json", "alerts.yaml"])
def test_dashboard_and_alerts_name_metrics_that_there_are(file: str) -> None:
    text = (GRAFANA / file).read_text()
    yaml.safe_load(text)
    served = set(re.findall(r"# TYPE (\S+)", exposition(Measures()))) | {"cv_look_seconds"}
    named = set(re.findall(r"\bcv_[a-z_]+", text)) - {"cv_platform"}
    assert named <= served
    assert len(named) > 5


def test_it_ends_when_it_is_asked_to(database: Database) -> None:
    """As a container's first process it gets no SIGTERM that it does not handle, and is killed after half a minute."""
    environment = {**os.environ, "CV_PLATFORM_POSTGRES_URL": database.url}
    command = [sys.executable, "-c", "from cv_platform.cli import main; main()", "metrics", "--port", "0"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "metrics at" in process.stderr.readline()
        process.terminate()
        assert process.wait(timeout=30) == 0
