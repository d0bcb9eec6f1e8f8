"""Timing that every benchmark shares: contenders take turns in one process, the median of the rounds counts.

    python -m benchmarks.NAME [--rounds 7] [--cores 1] [--json FILE]

A benchmark parses its arguments with `arguments()`, calls `pin_cores()` before it imports anything that starts
threads, measures each case with `compare()` and hands all cases to `report()`. Taking turns matters: the machine's
clock, caches and neighbours change from second to second, so that figures from two runs cannot be divided by each
other, figures from one round can.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Timing:
    """One contender in one case: seconds a call, one entry a round, by the wall and by the process's own clock."""

    wall_s: list[float]
    cpu_s: list[float]

    @property
    def median_s(self) -> float:
        """Median seconds a call by the wall clock."""
        return statistics.median(self.wall_s)


@dataclass(frozen=True)
class Case:
    """One measured case: its name, the timing of each contender, anything else worth keeping (quality, parity)."""

    name: str
    ours: str
    timings: dict[str, Timing]
    units: float = 1.0
    """How many units (frames, boxes, …) one call handles; the table's rate is units a second."""
    facts: dict[str, Any] = field(default_factory=dict)

    def ratio(self, peer: str) -> float:
        """How many times faster ours is than the peer: the median over the rounds of the peer's time over ours."""
        pairs = zip(self.timings[peer].wall_s, self.timings[self.ours].wall_s, strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser that knows what all benchmarks know: --rounds, --cores, --json."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=7, help="rounds in which each contender is timed once (at least 5)"
    )
    parser.add_argument("--cores", type=int, default=1, help="processor cores that this run may use")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the raw results there too")
    return parser


def pin_cores(cores: int = 1) -> None:
    """Bind this process and its later threads to `cores` cores, and tell thread pools so; call before heavy imports."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < cores:
            raise SystemExit(f"--cores {cores}: this process may use only {len(allowed)} cores")
        os.sched_setaffinity(0, set(allowed[-cores:]))
    for name in THREAD_VARIABLES:
        os.environ[name] = str(cores)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(cores)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(cores)


def compare(
    name: str,
    contenders: Mapping[str, Callable[[], object]],
    *,
    ours: str | None = None,
    rounds: int = 7,
    warmup: int = 2,
    sample_s: float = 0.02,
    units: float = 1.0,
    facts: dict[str, Any] | None = None,
) -> Case:
    """Time the contenders in turns.

    Args:
        name: the case, e.g. "nms 1000 clustered".
        contenders: what to call, by name; a call must do the whole of the work each time.
        ours: the name that ratios are taken against; the first where left out.
        rounds: how often each is timed, at least 5; the order turns by one each round.
        warmup: calls before the first round (compilation, caches, lazy imports).
        sample_s: a sample repeats the call until it takes about as long as this, so that short calls are measurable.
        units: what one call handles (frames, boxes), for the rate.
        facts: anything else to keep beside the timings.
    """
    if rounds < 5:
        raise ValueError(f"rounds is {rounds}; allowed is 5 or more: the median of fewer says little")
    names = list(contenders)
    repeats: dict[str, int] = {}
    for key, call in contenders.items():
        for _ in range(warmup):
            call()
        started = time.perf_counter()
        call()
        once = max(time.perf_counter() - started, 1e-7)
        repeats[key] = max(1, round(sample_s / once))
    wall: dict[str, list[float]] = {key: [] for key in names}
    cpu: dict[str, list[float]] = {key: [] for key in names}
    for turn in range(rounds):
        for key in names[turn % len(names) :] + names[: turn % len(names)]:
            call, n = contenders[key], repeats[key]
            gc.collect()
            cpu_started, started = time.process_time(), time.perf_counter()
            for _ in range(n):
                call()
            wall[key].append((time.perf_counter() - started) / n)
            cpu[key].append((time.process_time() - cpu_started) / n)
    timings = {key: Timing(wall[key], cpu[key]) for key in names}
    return Case(name, ours or names[0], timings, units, facts or {})


def environment(packages: Sequence[str] = ()) -> dict[str, Any]:
    """What a reader needs to repeat the run: time, processor, cores, load, Python, versions of the packages, commit."""
    processor = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {}
    for package in ("numpy", "numba", "opencv-python-headless", *packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor,
        "cores_used": cores,
        "load_1_min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "packages": versions,
        "commit": git.stdout.strip() or "unknown",
    }


def report(title: str, cases: Sequence[Case], *, packages: Sequence[str] = (), json_path: Path | None = None) -> None:
    """Print the table (and write the JSON): for each case ours, each peer, and how many times faster ours is."""
    environ = environment(packages)
    print(f"# {title}")
    print("# " + ", ".join(f"{key} {value}" for key, value in environ.items() if key != "packages"))
    print("# " + ", ".join(f"{key} {value}" for key, value in environ["packages"].items()))
    print(f"{'case':<34} {'contender':<34} {'ms a call':>11} {'rate/s':>12} {'ours faster by':>15}")
    for case in cases:
        for key, timing in case.timings.items():
            ratio = "ours" if key == case.ours else f"{case.ratio(key):.2f}x"
            rate = case.units / timing.median_s
            print(f"{case.name:<34} {key:<34} {timing.median_s * 1e3:>11.4f} {rate:>12,.0f} {ratio:>15}")
        for key, value in case.facts.items():
            print(f"{'':<34} {key}: {value}")
    if json_path is not None:
        rows = [
            {**asdict(case), "ours_faster_by": {key: case.ratio(key) for key in case.timings if key != case.ours}}
            for case in cases
        ]
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(
            json.dumps({"title": title, "environment": environ, "cases": rows}, indent=1) + "\n", encoding="utf-8"
        )
