"""The doctor finds what is broken, says how to mend it, and starts nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cv_platform.embedded.checkup import Finding, check_up
from cv_platform.embedded.stack import Stack
from cv_platform.settings import Settings
from cv_platform_tests.commands.test_cli import cv_platform
from cv_platform_tests.conftest import S3Server


def findings(settings: Settings) -> dict[str, Finding]:
    return {finding.check: finding for finding in check_up(Stack(settings))}


def test_a_fresh_clone_is_healthy_but_not_running(tmp_path: Path) -> None:
    result = cv_platform("doctor", "--json", state_dir=tmp_path / "state")
    report = json.loads(result.stdout)
    assert result.returncode == 0, report
    assert report["ok"] is True
    by_name = {row["check"]: row for row in report["findings"]}
    assert by_name["packages"]["status"] == "ok"
    assert by_name["postgres server"]["status"] == "warning"
    assert "up" in by_name["postgres server"]["remedy"]
    assert not (tmp_path / "state").exists(), "the doctor must change nothing"


def test_with_servers_up_every_connection_is_checked(settings: Settings, dagster_database_url: str) -> None:
    found = findings(settings.model_copy(update={"dagster_postgres_url": dagster_database_url}))
    for check in ("postgres", "schema", "dagster storage", "redis", "cold store", "restricted store", "video codecs"):
        assert found[check].status == "ok", found[check]
    assert found["postgres"].found.startswith("version 18")


def test_an_empty_database_lacks_migrations(settings: Settings, empty_database_url: str) -> None:
    found = findings(settings.model_copy(update={"postgres_url": empty_database_url}))
    assert found["schema"].status == "warning"
    assert "0001" in found["schema"].found


@pytest.mark.parametrize(
    ("check", "change", "variable"),
    [
        ("postgres", {"postgres_url": "postgresql://nobody@127.0.0.1:1/none"}, "CV_PLATFORM_POSTGRES_URL"),
        (
            "dagster storage",
            {"dagster_postgres_url": "postgresql+psycopg2://nobody@127.0.0.1:1/none"},
            "CV_PLATFORM_DAGSTER_POSTGRES_URL",
        ),
        ("dagster storage", {"dagster_postgres_url": "postgresql://postgres@localhost/d"}, "postgresql+psycopg2://"),
        ("redis", {"redis_url": "redis://127.0.0.1:1/0"}, "CV_PLATFORM_REDIS_URL"),
        ("redis", {"redis_url": "http://127.0.0.1"}, "CV_PLATFORM_REDIS_URL"),
        ("cold store", {"object_store_url": "ftp://somewhere"}, "CV_PLATFORM_OBJECT_STORE_URL"),
        ("detectors", {"detectors": "no_such_model"}, "CV_PLATFORM_DETECTORS"),
    ],
)
def test_what_is_broken_fails_with_a_remedy(
    check: str, change: dict[str, str], variable: str, settings: Settings, dagster_database_url: str
) -> None:
    whole = settings.model_copy(update={"dagster_postgres_url": dagster_database_url})
    finding = findings(whole.model_copy(update=change))[check]
    assert finding.status == "failure"
    assert variable in finding.remedy
    assert "\n" not in finding.found


def test_a_store_open_to_others_is_a_failure(settings: Settings, dagster_database_url: str) -> None:
    store = settings.state_dir / "store"
    store.mkdir(parents=True)
    os.chmod(store, 0o755)
    found = findings(settings.model_copy(update={"dagster_postgres_url": dagster_database_url}))
    assert found["private folder"].status == "failure"
    assert found["private folder"].remedy == f"chmod 700 {store}"


def test_s3_and_its_queue_are_tried(s3_server: S3Server, settings: Settings, dagster_database_url: str) -> None:
    change = {
        "dagster_postgres_url": dagster_database_url,
        "s3_endpoint_url": s3_server.endpoint_url,
        "object_store_url": f"s3://{s3_server.bucket}",
        "restricted_store_url": f"s3://{s3_server.restricted_bucket}",
        "sqs_queue_url": s3_server.queue_url,
    }
    found = findings(settings.model_copy(update=change))
    assert found["cold store"].status == found["restricted store"].status == "ok"
    assert found["upload notifications"].status == "ok"
    assert not s3_server.client().list_objects_v2(Bucket=s3_server.bucket).get("Contents"), "the probe is deleted"

    broken = {**change, "sqs_queue_url": f"{s3_server.queue_url}-gone", "object_store_url": "s3://no-such-bucket"}
    found = findings(settings.model_copy(update=broken))
    assert found["upload notifications"].status == "failure"
    assert found["cold store"].status == "failure"


def test_the_exit_status_says_that_something_is_broken(tmp_path: Path) -> None:
    result = cv_platform("doctor", state_dir=tmp_path / "state", CV_PLATFORM_REDIS_URL="redis://127.0.0.1:1/0")
    assert result.returncode == 1
    assert "FAILURE" in result.stdout
    assert "CV_PLATFORM_REDIS_URL" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
