"""Surgical output and memory, on generated clips with a bright square for a face and a detector that finds it.

    python -m benchmarks.anonymise_limits [--minutes 10] [--memory-minutes 60] [--json FILE]

Surgical: a clip in which 1% of the groups of pictures show a face; seconds of the write stage against a full encode
of the same clip, in turns. Memory: a 1080p clip; peak resident memory of the process that anonymises it.
A scripted detector keeps the networks' time out of it, and makes the figures depend on the pipeline alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from benchmarks._timing import environment
from cv_platform.vision.anonymise import AnonymisePolicy, Certificate
from cv_platform.vision.anonymise.clip import anonymise_clip
from cv_platform.vision.anonymise.sandbox import DetectorSpec, anonymise_clip_sandboxed
from cv_platform.vision.classes import FACE
from cv_platform.vision.detections import Detections

_FPS = 25
_GOP = 50


class BrightSquare:
    """Finds the one bright square of a picture."""

    classes = (FACE,)

    def __init__(self, version: str = "first") -> None:
        self.version = version

    def warmup(self) -> None:
        """Nothing to load."""

    def detect(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        found = []
        for frame in frames:
            rows, columns = (np.flatnonzero((frame[:, :, 1] > 200).any(axis=axis)) for axis in (1, 0))
            if len(rows) < 4 or len(columns) < 4:
                found.append(Detections.empty())
                continue
            box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
            found.append(Detections(box, np.array([0.9]), np.array([FACE])))
        return found


def bright_square(version: str = "first") -> BrightSquare:
    """For a `DetectorSpec`."""
    return BrightSquare(version)


def generate(path: Path, *, minutes: float, size: tuple[int, int], face_share: float) -> int:
    """Write a clip with texture that drifts, and a square in this share of its groups; return the groups' number."""
    width, height = size
    random = np.random.default_rng(1)
    texture = random.integers(40, 120, (height // 8, width // 4, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    groups = max(1, round(minutes * 60 * _FPS / _GOP))
    chosen = set(np.linspace(groups // 3, groups - 2, max(1, round(groups * face_share))).astype(int).tolist())
    with av.open(str(path), "w") as out:
        params = f"keyint={_GOP}:min-keyint={_GOP}:scenecut=0"
        options = {"preset": "veryfast", "crf": "26", "x264-params": params}
        stream: Any = out.add_stream("libx264", rate=_FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 12800)
        for number in range(groups * _GOP):
            shift = number % texture.shape[1] // 2
            picture = texture[:, shift : shift + width].copy()
            if number // _GOP in chosen and 15 <= number % _GOP < 35:
                x = width // 4 + number % _GOP
                picture[height // 3 : height // 3 + height // 6, x : x + height // 6] = 230
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.time_base, frame.pts = Fraction(1, 12800), number * (12800 // _FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return groups


def surgical(folder: Path, minutes: float, rounds: int) -> dict[str, Any]:
    """The write stage with and without surgery, in turns."""
    clip = folder / "in.mp4"
    groups = generate(clip, minutes=minutes, size=(640, 360), face_share=0.01)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    certificates: dict[bool, Certificate] = {}
    for turn in range(rounds):
        for cutting in (True, False) if turn % 2 else (False, True):
            certificates[cutting] = anonymise_clip(
                clip, folder / f"out{cutting}.mp4", policy=AnonymisePolicy(surgical=cutting),
                detector=BrightSquare(), verifier=BrightSquare("second"),
            )  # fmt: skip
            seconds[cutting].append(certificates[cutting].seconds["write"])
    return {
        "minutes": minutes,
        "groups": groups,
        "groups_copied": certificates[True].gops_copied,
        "write_s_surgical": seconds[True],
        "write_s_full": seconds[False],
        "write_faster_by": round(
            statistics.median(f / s for f, s in zip(seconds[False], seconds[True], strict=True)), 1
        ),
        "all_stages_s_surgical": certificates[True].seconds,
        "all_stages_s_full": certificates[False].seconds,
    }


def memory(folder: Path, minutes: float) -> dict[str, Any]:
    """Peak resident memory of the worker process over a 1080p clip."""
    clip = folder / "long.mp4"
    generate(clip, minutes=minutes, size=(1920, 1080), face_share=0.5)
    certificate = anonymise_clip_sandboxed(
        clip, folder / "long_out.mp4", policy=AnonymisePolicy(),
        detector=DetectorSpec("benchmarks.anonymise_limits:bright_square"),
        verifier=DetectorSpec("benchmarks.anonymise_limits:bright_square", {"version": "second"}), timeout_s=7200,
    )  # fmt: skip
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"minutes": minutes, "frames": certificate.frames, "peak_mib": round(peak_kib / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the surgical clip; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3, help="full encode and surgery, in turns")
    parser.add_argument(
        "--memory-minutes", type=float, nargs="*", default=[1.0, 60.0], help="of the 1080p clips, shortest first"
    )
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    results: dict[str, Any] = {"environment": environment(("av",))}
    with tempfile.TemporaryDirectory() as name:
        # the children's peak only rises: the shorter clips come first
        results["memory"] = [memory(Path(name), minutes) for minutes in options.memory_minutes]
        if options.minutes:
            results["surgical"] = surgical(Path(name), options.minutes, options.rounds)
    print(json.dumps(results, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
