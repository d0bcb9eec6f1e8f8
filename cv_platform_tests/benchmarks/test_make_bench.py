"""`make bench`: every command that it would run is one that its benchmark takes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("data", "modules"),
    [
        ("", ["suppression", "preprocess", "tracking"]),
        ("some/data", ["suppression", "preprocess", "tracking", "detect"]),
    ],
)
def test_benchmarks_take_what_make_gives_them(data: str, modules: list[str]) -> None:
    told = subprocess.run(
        ["make", "--dry-run", "bench", f"BENCH_DATA={data}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    commands = [shlex.split(line) for line in told.replace("\\\n", " ").splitlines() if " -m benchmarks." in line]
    assert [command[2] for command in commands] == [f"benchmarks.{name}" for name in modules]
    for command in commands:
        # so many cores there are nowhere: a benchmark says so once it has understood all of its arguments
        answer = subprocess.run(
            [sys.executable, *command[1:], "--cores", "100000"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert "--cores 100000" in answer.stderr, answer.stderr
