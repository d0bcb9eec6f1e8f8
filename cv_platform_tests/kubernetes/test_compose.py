"""docker/compose.yaml: who waits for whom, and that its containers are as bare as the cluster's pods."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from cv_platform.settings import Settings
from cv_platform_tests.conftest import REPOSITORY

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((REPOSITORY / "docker" / "compose.yaml").read_text())["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("cv-platform"))


def waits_for(name: str) -> dict[str, str]:
    """Every service that has to be there, or done, before one starts, directly or not, with the condition."""
    found: dict[str, str] = {}
    for other, how in SERVICES[name].get("depends_on", {}).items():
        found |= {other: how["condition"], **waits_for(other)}
    return found


@pytest.mark.parametrize("name", [name for name in OURS if name != "migrate"])
def test_dagsters_tables_are_there_before_anything_looks_for_them(name: str) -> None:
    assert waits_for(name)["migrate"] == "service_completed_successfully"
    assert waits_for(name)["buckets"] == "service_completed_successfully"


def test_one_process_alone_makes_dagsters_tables() -> None:
    migrate = SERVICES["migrate"]
    assert migrate["command"] == ["dagster", "instance", "migrate"]
    assert migrate["restart"] == "no"
    assert set(migrate["depends_on"]) == {"postgres"}


@pytest.mark.parametrize("name", OURS)
def test_a_container_has_no_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "/tmp" in service["tmpfs"]
    # Where it writes, the image's user may: a file system in memory is root's unless it says otherwise.
    for place in ("/var/lib/cv-platform", "/opt/dagster/dagster_home/storage"):
        assert place not in service["tmpfs"], f"{place}: without uid and gid it belongs to root"
    known = {f"CV_PLATFORM_{setting.upper()}" for setting in Settings.model_fields}
    assert {key for key in service["environment"] if key.startswith("CV_PLATFORM_")} <= known
    for ports in service.get("ports", []):
        assert ports.startswith("127.0.0.1:"), "Dagster has no login"


def test_every_service_that_goes_on_says_whether_it_is_well() -> None:
    built_in = {"code", "webserver"}  # the images' own HEALTHCHECK
    done = {"migrate", "buckets"}
    assert {name for name, service in SERVICES.items() if "test" in service.get("healthcheck", {})} == (
        set(SERVICES) - built_in - done
    )


def test_an_image_is_built_once() -> None:
    built = [service["image"] for service in SERVICES.values() if "build" in service]
    assert sorted(built) == ["cv-platform-code", "cv-platform-dagster"]
