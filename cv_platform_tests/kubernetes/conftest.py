"""One deployment a module: it takes half a minute to come up."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cv_platform_tests.kubernetes.deployment import Deployment, deployment
from cv_platform_tests.servers import TestServers

TODAY = datetime.now(UTC).date()
LAST_DAYS = [TODAY - timedelta(days=n) for n in range(8, 0, -1)]


@pytest.fixture(scope="module")
def quiet(servers: TestServers) -> Iterator[Deployment]:
    """Nothing runs but what a test asks for."""
    # Not under pytest's own folder: as root, PostgreSQL is another user, and pytest closes that folder to it.
    with tempfile.TemporaryDirectory(prefix="cvp-k8s-") as folder, deployment(servers, Path(folder)) as made:
        yield made


@pytest.fixture(scope="module")
def lively(servers: TestServers) -> Iterator[Deployment]:
    """`pending_work` asks for runs by itself; they have no checks."""
    with (
        tempfile.TemporaryDirectory(prefix="cvp-k8s-") as folder,
        deployment(servers, Path(folder), sensors="pending_work", checks=False) as made,
    ):
        yield made
