"""One day of one site, each step in a pod of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from cv_platform_tests.kubernetes.deployment import Deployment, deployment
from cv_platform_tests.servers import TestServers

TODAY = datetime.now(UTC).date()
pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]


@pytest.fixture
def deployed(servers: TestServers) -> Iterator[Deployment]:
    with (
        tempfile.TemporaryDirectory(prefix="cvp-k8s-") as folder,
        deployment(servers, Path(folder), sensors="") as made,
    ):
        yield made


def test_one_day(deployed: Deployment) -> None:
    day = TODAY - timedelta(days=3)
    clips = deployed.register([day], ["north"])
    deployed.backfill([day])
    (run,) = deployed.wait_finished(1)
    assert run.status is dg.DagsterRunStatus.SUCCESS, deployed.failures(run.run_id)
    assert deployed.world.states() == {"published": clips}
