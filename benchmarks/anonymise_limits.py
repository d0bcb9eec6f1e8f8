"""Surgical output and memory, on generated clips with a bright square for a face and a detector that finds it.

    python -m benchmarks.anonymise_limits [--minutes 10] [--memory-minutes 1 60] [--browser CHROMIUM] [--json FILE]

Surgical: a clip in which 1% of the groups of pictures show a face, coordinates planted in an SEI message of every
sample; seconds of the write stage against a full encode of the same clip, in turns. Of the copied groups: how many
pictures have the source's very VCL NAL units, how many decode to the same planes in FFmpeg, how many seek points (the
IDR and the middle of each copied group, at most 60) show the same pixels in Chromium. Memory: a 1080p clip, one minute
of it repeated; peak of the resident memory of this process and all that it starts, summed, sampled ten times a second.
A scripted detector keeps the networks' time out of it, and makes the figures depend on the pipeline alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from benchmarks._browser import shown_in_chromium
from benchmarks._timing import environment
from cv_platform.vision.anonymise import AnonymisePolicy, Certificate, h264
from cv_platform.vision.anonymise.clip import anonymise_clip
from cv_platform.vision.anonymise.sandbox import DetectorSpec, anonymise_clip_sandboxed
from cv_platform.vision.classes import FACE
from cv_platform.vision.detections import Detections

_FPS = 25
_GOP = 50
_SECRET = b"GPS 52.5200N 13.4050E"


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


def plant(path: Path, planted: Path, *, repeat: int = 1) -> None:
    """The clip, so many times over, with coordinates in an SEI message of every sample."""
    body = bytes(16) + _SECRET
    sei = bytes([6, 5, len(body)]) + body + b"\x80"
    with av.open(str(planted), "w") as out:
        target: Any = None
        shift = 0
        for _ in range(repeat):
            with av.open(str(path)) as clip:
                stream = clip.streams.video[0]
                target = target or out.add_stream_from_template(stream)
                for packet in clip.demux(stream):
                    if packet.size:
                        made = av.Packet(len(sei).to_bytes(4, "big") + sei + bytes(packet))
                        made.pts, made.dts = int(packet.pts or 0) + shift, int(packet.dts or 0) + shift
                        made.time_base, made.is_keyframe, made.stream = packet.time_base, packet.is_keyframe, target
                        out.mux(made)
                shift += int(stream.duration or 0)


def slices(path: Path) -> dict[float, list[bytes]]:
    """The VCL NAL units of each picture, by its time in seconds."""
    found = {}
    with av.open(str(path)) as clip:
        stream = clip.streams.video[0]
        length = h264.AvcConfig.parse(bytes(stream.codec_context.extradata or b"")).length_size
        for packet in clip.demux(stream):
            if packet.size:
                nals = h264.split_lengths(bytes(packet), length)
                when = round(float((packet.pts or 0) * packet.time_base), 4)
                found[when] = [n for n in nals if h264.nal_type(n) in h264.VCL]
    return found


def planes_of(path: Path) -> Iterator[tuple[float, bytes]]:
    """Time in seconds and planes of each picture, as FFmpeg decodes it."""
    with av.open(str(path)) as clip:
        for frame in clip.decode(video=0):
            yield round(frame.time or 0.0, 4), frame.to_ndarray().tobytes()


def identity(folder: Path, source: str, output: str, copied: int, browser: str | None) -> dict[str, Any]:
    """How much of the copied groups is the source's: NAL units, pictures in FFmpeg, pictures in Chromium."""
    before, after = slices(folder / source), slices(folder / output)
    same = {when for when in before if before[when] == after.get(when)}
    pairs = zip(planes_of(folder / source), planes_of(folder / output), strict=True)
    alike = {when for (when, a), (_, b) in pairs if a == b}
    facts: dict[str, Any] = {
        "pictures_of_copied_groups": copied * _GOP,
        "with_identical_vcl": len(same),
        "of_these_identical_in_ffmpeg": len(same & alike),
        "coordinates_in_output": _SECRET in (folder / output).read_bytes(),
    }
    if browser:
        inside = sorted(same)
        points = [inside[i] for i in np.linspace(0, len(inside) - 1, 60).astype(int)]
        points = sorted({when // (_GOP / _FPS) * _GOP / _FPS for when in points[::2]} | set(points[1::2]))
        points = [when for when in points if round(when, 4) in same]
        times = [when + 0.5 / _FPS for when in points]
        shown = shown_in_chromium(folder, [source, output], times, browser)
        facts["seek_points_in_chromium"] = len(points)
        facts["of_these_identical"] = sum(a == b for a, b in zip(*shown, strict=True))
        facts["different_at_s"] = [w for w, a, b in zip(points, *shown, strict=True) if a != b]
        facts["different_pictures_among_them"] = len(set(shown[0]))
    return facts


def surgical(folder: Path, minutes: float, rounds: int, browser: str | None) -> dict[str, Any]:
    """The write stage with and without surgery, in turns."""
    plain, clip = folder / "plain.mp4", folder / "in.mp4"
    groups = generate(plain, minutes=minutes, size=(640, 360), face_share=0.01)
    plant(plain, clip)
    assert _SECRET in clip.read_bytes()
    seconds: dict[bool, list[float]] = {True: [], False: []}
    certificates: dict[bool, Certificate] = {}
    for turn in range(rounds):
        for cutting in (True, False) if turn % 2 else (False, True):
            certificates[cutting] = anonymise_clip(
                clip, folder / f"out{cutting}.mp4", policy=AnonymisePolicy(surgical=cutting),
                detector=BrightSquare(), verifier=BrightSquare("second"),
            )  # fmt: skip
            seconds[cutting].append(certificates[cutting].seconds["write"])
    copied = certificates[True].gops_copied
    return {
        "minutes": minutes,
        "groups": groups,
        "groups_copied": copied,
        "write_s_surgical": seconds[True],
        "write_s_full": seconds[False],
        "write_faster_by": round(
            statistics.median(f / s for f, s in zip(seconds[False], seconds[True], strict=True)), 1
        ),
        **identity(folder, "in.mp4", "outTrue.mp4", copied, browser),
        "all_stages_s_surgical": certificates[True].seconds,
        "all_stages_s_full": certificates[False].seconds,
    }


def resident_mib() -> float:
    """Resident memory of this process and all below it, MiB: pages that two share count twice."""
    parents, sizes = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            parents[int(folder.name)] = int(status["PPid"])
            sizes[int(folder.name)] = int(status.get("VmRSS", "0 kB").split()[0])
        except (OSError, ValueError, KeyError):
            continue  # it ended meanwhile
    mine = {os.getpid()}
    for _ in range(8):
        mine |= {child for child, parent in parents.items() if parent in mine}
    return sum(sizes.get(pid, 0) for pid in mine) / 1024


def memory(folder: Path, minutes: float) -> dict[str, Any]:
    """Peak resident memory of all processes of a run over a 1080p clip."""
    minute, clip = folder / "minute.mp4", folder / "long.mp4"
    if not minute.exists():
        generate(minute, minutes=1.0, size=(1920, 1080), face_share=0.5)
    plant(minute, clip, repeat=max(1, round(minutes)))
    peak, samples, done = 0.0, 0, threading.Event()

    def sample() -> None:
        nonlocal peak, samples
        while not done.wait(0.1):
            peak, samples = max(peak, resident_mib()), samples + 1

    watch = threading.Thread(target=sample)
    before = resident_mib()
    watch.start()
    try:
        certificate = anonymise_clip_sandboxed(
            clip, folder / "long_out.mp4", policy=AnonymisePolicy(),
            detector=DetectorSpec("benchmarks.anonymise_limits:bright_square"),
            verifier=DetectorSpec("benchmarks.anonymise_limits:bright_square", {"version": "second"}),
        )  # fmt: skip
    finally:
        done.set()
        watch.join()
    return {
        "minutes": max(1, round(minutes)), "frames": certificate.frames, "peak_mib": round(peak), "samples": samples,
        "before_mib": round(before), "seconds": certificate.seconds,
        "gops": [certificate.gops_copied, certificate.gops_encoded],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the surgical clip; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3, help="full encode and surgery, in turns")
    parser.add_argument(
        "--memory-minutes", type=float, nargs="*", default=[1.0, 60.0], help="of the 1080p clips, whole minutes"
    )
    parser.add_argument("--browser", default=shutil.which("chromium"), help="Chromium, for the seek points")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    results: dict[str, Any] = {"environment": environment(("av",))}
    with tempfile.TemporaryDirectory() as name:
        results["memory"] = [memory(Path(name), minutes) for minutes in options.memory_minutes]
        if options.minutes:
            results["surgical"] = surgical(Path(name), options.minutes, options.rounds, options.browser)
    print(json.dumps(results, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
