"""A key's file is made once, whole, for its owner alone, whoever else makes one at that moment."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from cv_platform.governance.key_files import write_key_file

MAKERS = 16


def test_of_many_makers_at_once_one_makes_it(tmp_path: Path) -> None:
    """Threads of one process too: they once shared a scratch file, named by the process alone."""
    for attempt in range(20):
        path = tmp_path / str(attempt) / "key"
        together = Barrier(MAKERS)

        def make(number: int, path: Path = path, together: Barrier = together) -> bool:
            together.wait()
            try:
                write_key_file(path, bytes([number]) * 4096)
            except FileExistsError:
                return False
            return True

        with ThreadPoolExecutor(MAKERS) as pool:
            made = list(pool.map(make, range(MAKERS)))
        assert made.count(True) == 1
        assert path.read_bytes() == bytes([made.index(True)]) * 4096
        assert [found.name for found in path.parent.iterdir()] == ["key"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_key_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_key_file(path, b"first")
    with pytest.raises(FileExistsError):
        write_key_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["key"]
