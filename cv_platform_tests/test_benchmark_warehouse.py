"""The warehouse's benchmark runs, at a size that says nothing of speed, and prunes partitions at any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cv_platform_tests.conftest import REPOSITORY


@pytest.mark.slow
def test_the_common_queries_prune_partitions(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    sizes = ["--rows", "2000", "--cameras", "2", "--days", "4", "--queries", "40"]
    command = [sys.executable, "-m", "benchmarks.warehouse", "page", *sizes, "--cores", "1", "--json", str(target)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    cases = json.loads(target.read_text())["cases"]
    assert [case["name"] for case in cases] == ["camera and time", "class and time, days not closed", "class and time"]
    for case in cases:
        assert int(case["facts"]["partitions in the plan"].split()[-1]) <= 2  # of four: a day and the next
