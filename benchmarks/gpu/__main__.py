"""Runs the parts of `benchmarks.gpu`: the modules beside this one."""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import benchmarks.gpu
from benchmarks._timing import environment
from benchmarks.gpu._rig import Rig

PARTS = (
    "shards",
    "frames",
    "clips",
    "packed",
    "gpus",
    "answers",
    "asset",
    "processor",
    "large",
    "memory",
    "safety",
    "plain",
)


def main(argv: list[str] | None = None) -> int:
    """Run the parts that are asked for, each in its process and within its time; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=benchmarks.gpu.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, required=True, help="folder of clips of one size")
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=16, help="decoding threads of every contender")
    parser.add_argument("--work", type=int, default=32, help="clips of one round")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--long-run-s", type=float, default=60.0, help="of the part memory")
    parser.add_argument("--part-s", type=int, default=600, help="a part that takes longer is given up")
    parser.add_argument("--vtest", type=Path, default=None, help="clip of known truth, for the part answers")
    parser.add_argument("--mot", type=Path, default=None, help="its MOT-format sequence")
    parser.add_argument("--hevc", type=Path, default=None, help="an HEVC clip, for the part answers")
    parser.add_argument("--device", default="cuda", help="cpu: tries the code, measures nothing")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(argv)
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--parts has {', '.join(sorted(unknown))}; allowed is {', '.join(PARTS)}")
    parts = options.parts.split(",")
    results: dict[str, Any] = {"environment": {**_environment(), "gpu": gpu_name()}}
    results["options"] = {
        key: str(value) for key, value in vars(options).items() if not isinstance(value, Path) and value is not None
    }
    for part in parts:
        started = time.monotonic()
        results[part] = _measured(part, options) if len(parts) == 1 else _apart(part, argv or sys.argv[1:])
        print(f"## {part} ({time.monotonic() - started:.0f} s)\n{json.dumps(results[part], indent=1)}", flush=True)
        if options.json is not None:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _measured(part: str, options: argparse.Namespace) -> Any:
    """A part's results. One that takes too long ends this process, wherever it hangs, and says where."""
    faulthandler.dump_traceback_later(options.part_s, exit=True)
    rig = Rig(**{name: getattr(options, name) for name in Rig.__dataclass_fields__})
    try:
        return importlib.import_module(f"benchmarks.gpu.{part}").measure(rig)
    except Exception as error:  # noqa: BLE001 - told among the results
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}
    finally:
        faulthandler.cancel_dump_traceback_later()


def _apart(part: str, argv: list[str]) -> Any:
    """A part in a process of its own: neither a hang nor a lost GPU takes the others along."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.json"
        command = [sys.executable, "-m", "benchmarks.gpu", *argv, "--parts", part, "--json", str(file)]
        status = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        if not file.exists():
            return {"failed": f"its process ended with status {status} before it had results"}
        return json.loads(file.read_text(encoding="utf-8"))[part]


def _environment() -> dict[str, Any]:
    try:
        return environment(("torch", "torchvision", "triton", "av", "onnxruntime", "PyNvVideoCodec"))
    except OSError:  # no git there
        return {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "python": sys.version.split()[0]}


def gpu_name() -> str:
    """What nvidia-smi calls the GPU, and its driver's version."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return "none"


if __name__ == "__main__":
    sys.exit(main())
