"""A folder for servers: pytest's own is closed to other accounts again whenever another pytest starts as this user."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A new folder outside pytest's; as root the embedded PostgreSQL's account has to pass through it."""
    folder = Path(tempfile.mkdtemp(prefix="cvp-folder-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
