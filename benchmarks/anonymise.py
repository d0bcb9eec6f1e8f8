"""Anonymisation against deface: speed, leaks, waste.

    python -m benchmarks.anonymise --clip C [C …] [--generated] [--peer deface --peer-python VENV/bin/python]
                                   [--frames 150] [--rounds 5] [--drop 0.2] [--seed 0] [--json FILE]

Speed: frames a second end to end, start-up apart, contenders in turns in one run: deface (CenterFace on every frame),
ours with CenterFace alone, ours at its default (CenterFace, proof by a second model). Leak: share of reference
face-frames of which less than 95% is hidden; the reference is the boxes by construction for generated clips, for
others the union of CenterFace (score 0.2) and YuNet (0.6) on every frame at full resolution. Waste: hidden area over
the area of the reference (unions of pixels, over frames with a face), the share of pixels hidden that lie away from
every face (outside all reference boxes doubled in width and height), the share of face-free frames touched. A
contender that hides a whole frame fails the run.

`benchmarks.anonymise_limits` measures what this does not: surgical output, memory, the adversary.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._timing import Case, Timing, arguments, report

Boxes = list[list[float]]
_COVERED = 0.95


class Peer:
    """The process that runs deface."""

    def __init__(self, python: str) -> None:
        script = Path(__file__).parent / "peers" / "deface_peer.py"
        self._process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        if not self._answer().get("ready"):
            raise SystemExit("--peer-python: deface does not start there; see benchmarks/peers/deface_peer.py")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("--peer-python: deface does not run there; see benchmarks/peers/deface_peer.py")
        return dict(json.loads(line))

    def run(self, clip: Path, output: Path, *, drop: float = 0.0, seed: int = 0) -> dict[str, Any]:
        assert self._process.stdin is not None
        request = {"clip": str(clip), "output": str(output), "drop": drop, "seed": seed}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


class Ours:
    """Our anonymiser in this process, its detectors warm."""

    def __init__(self, *, proof: bool, policy: dict[str, Any] | None = None) -> None:
        from cv_platform.settings import get_settings
        from cv_platform.vision.anonymise import AnonymisePolicy
        from cv_platform.vision.anonymise.policy import detector_arguments, verifier_arguments
        from cv_platform.vision.detectors.build import make_detector
        from cv_platform.vision.models import ModelRegistry

        settings = get_settings()
        models = ModelRegistry(cache_dir=settings.model_cache, model_dir=settings.model_dir)
        self.policy = AnonymisePolicy(**(policy or {}))
        self._detector = make_detector(["centerface"], models=models, threads=0, **detector_arguments(self.policy))
        self._verifier = None
        if proof:
            self._verifier = make_detector(["yunet"], models=models, threads=0, **verifier_arguments(self.policy))

    def run(self, clip: Path, output: Path, *, drop: float = 0.0, seed: int = 0) -> dict[str, Any]:
        import time

        from cv_platform.vision.anonymise.clip import anonymise_clip
        from cv_platform.vision.anonymise.faults import dropping_detections
        from cv_platform.vision.anonymise.regions import HidingPlan

        plans: list[HidingPlan] = []
        started = time.perf_counter()
        with dropping_detections(drop, seed) if drop else nullcontext():
            certificate = anonymise_clip(
                clip, output, policy=self.policy, detector=self._detector, verifier=self._verifier,
                on_plan=plans.append,
            )  # fmt: skip
        seconds = time.perf_counter() - started
        boxes = [[[r.x1, r.y1, r.x2, r.y2] for r in plans[-1].regions(f)] for f in range(certificate.frames)]
        return {"seconds": seconds, "frames": certificate.frames, "boxes": boxes, "certificate": certificate}


@dataclass
class Quality:
    """Leak and waste of one contender on one clip."""

    face_frames: int = 0
    leaks: int = 0
    hardly_seen: int = 0
    hardly_seen_bare: int = 0
    waste: list[float] = field(default_factory=list)
    away: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    free_frames: int = 0
    free_touched: int = 0
    whole: int = 0

    def add(self, other: Quality) -> None:
        for name in (
            "face_frames", "leaks", "hardly_seen", "hardly_seen_bare", "free_frames", "free_touched", "whole",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("waste", "away", "outside"):
            getattr(self, name).extend(getattr(other, name))

    def facts(self) -> dict[str, Any]:
        """As numbers for a table."""
        import numpy as np

        waste = np.array(self.waste or [0.0])
        return {
            "face_frames": self.face_frames,
            "leaks": self.leaks,
            "leak_share": round(self.leaks / max(1, self.face_frames), 5),
            "hardly_seen_bare": f"{self.hardly_seen_bare}/{self.hardly_seen}",
            "waste_median": round(float(np.median(waste)), 2),
            "waste_p95": round(float(np.percentile(waste, 95)), 2),
            "hidden_away_from_faces": round(float(np.mean(self.away or [0.0])), 5),
            "hidden_outside_boxes": round(float(np.mean(self.outside or [0.0])), 5),
            "face_free_frames_touched": f"{self.free_touched}/{self.free_frames}",
            "frames_hidden_whole": self.whole,
        }


def judge(
    hidden: list[Boxes], reference: list[Boxes], partly: list[Boxes], size: tuple[int, int], *, ellipses: bool
) -> Quality:
    """Hold what was hidden against the reference, frame by frame, pixel by pixel.

    `partly` are faces of which less than half is to be seen: part of the faces' area, and counted apart where bare.
    """
    import cv2
    import numpy as np

    width, height = size
    quality = Quality()
    for boxes, truth, hardly in zip(hidden, reference, partly, strict=True):
        mask = np.zeros((height, width), np.uint8)
        for x1, y1, x2, y2 in boxes:
            if ellipses:
                centre, half = ((x1 + x2) // 2, (y1 + y2) // 2), ((x2 - x1) // 2, (y2 - y1) // 2)
                cv2.ellipse(mask, centre, half, 0, 0, 360, 1, -1)
            else:
                mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
        faces, near = np.zeros_like(mask), np.zeros_like(mask)
        for number, (x1, y1, x2, y2) in enumerate([*truth, *hardly]):
            left, top, right, bottom = int(x1), int(y1), -int(-x2 // 1), -int(-y2 // 1)
            faces[top:bottom, left:right] = 1
            w, h = (x2 - x1) / 2, (y2 - y1) / 2
            near[max(0, int(y1 - h)) : int(y2 + h) + 1, max(0, int(x1 - w)) : int(x2 + w) + 1] = 1
            part = mask[top:bottom, left:right]
            bare = bool(part.size and part.mean() < _COVERED)
            if number < len(truth):
                quality.face_frames += 1
                quality.leaks += bare
            else:
                quality.hardly_seen += 1
                quality.hardly_seen_bare += bare
        quality.whole += bool(mask.mean() > 0.98)
        if truth or hardly:
            quality.waste.append(float(mask.sum()) / max(1.0, float(faces.sum())))
            quality.outside.append(float((mask & ~faces & 1).sum()) / max(1, int((faces == 0).sum())))
        else:
            quality.free_frames += 1
            quality.free_touched += bool(boxes)
        quality.away.append(float((mask & ~near & 1).sum()) / max(1, int((near == 0).sum())))
    return quality


def reference_boxes(clip: Path) -> list[Boxes]:
    """The union of both face models on every frame at full resolution."""
    import av

    from cv_platform.settings import get_settings
    from cv_platform.vision.detectors.build import make_detector
    from cv_platform.vision.models import ModelRegistry

    settings = get_settings()
    models = ModelRegistry(cache_dir=settings.model_cache, model_dir=settings.model_dir)
    detectors = [
        make_detector([name], models=models, score_threshold=score, long_side=8192)
        for name, score in (("centerface", 0.2), ("yunet", 0.6))
    ]
    found = []
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            picture = frame.to_ndarray(format="bgr24")
            found.append([box for d in detectors for box in d.detect([picture])[0].boxes.tolist()])
    return found


def cut(clip: Path, target: Path, frames: int) -> Path:
    """The clip's first frames, stream-copied; the clip itself where it is shorter, or lacks decode times."""
    import av

    with av.open(str(clip)) as source:
        packets = [p for p in source.demux(video=0) if p.size]
        if len(packets) <= frames or any(p.dts is None for p in packets[:frames]):
            return clip
        with av.open(str(target), "w") as out:
            copy = out.add_stream_from_template(source.streams.video[0])
            for packet in packets[:frames]:
                packet.stream = copy
                out.mux(packet)
    return target


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clip", nargs="*", type=Path, default=[], help="real clips")
    parser.add_argument("--generated", action="store_true", help="also the generated clips (see face_clips.py)")
    parser.add_argument("--quick", action="store_true", help="only the first few generated clips")
    parser.add_argument("--seed", type=int, default=0, help="of the generated clips and of dropping")
    parser.add_argument("--frames", type=int, default=150, help="of each real clip, from its start")
    parser.add_argument("--drop", type=float, default=0.0, help="also with this share of detections dropped")
    parser.add_argument("--peer", choices=["deface"], default=None)
    parser.add_argument("--peer-python", default=None, help="the Python of deface's environment")
    parser.add_argument("--no-speed", action="store_true", help="leaks and waste only: one run each")
    parser.add_argument("--no-alone", action="store_true", help="leave out ours without the proof")
    parser.set_defaults(cores=len(os.sched_getaffinity(0)), rounds=5)
    options = parser.parse_args()
    if options.peer and not options.peer_python:
        parser.error("--peer deface needs --peer-python; see benchmarks/peers/deface_peer.py")
    contenders: dict[str, Any] = {"ours": Ours(proof=True)}
    if not options.no_alone:
        contenders["ours, CenterFace alone"] = Ours(proof=False)
    if options.peer:
        contenders["deface"] = Peer(options.peer_python)
    cases: list[Case] = []
    totals: dict[str, Quality] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs: list[tuple[str, Path, list[Boxes], list[Boxes], bool]] = []
        for clip in options.clip:
            part = cut(clip, folder / f"{clip.stem}{clip.suffix}", options.frames)
            reference = reference_boxes(part)
            jobs.append((clip.stem, part, reference, [[] for _ in reference], False))
        if options.generated:
            from benchmarks.face_clips import render, scenes

            for scene in scenes(quick=options.quick, seed=options.seed):
                path = folder / f"generated_{scene.name}.mp4"
                truth = render(scene, path)
                counted, partly = ([b.tolist() for b in some] for some in (truth.boxes, truth.partly))
                jobs.append((f"generated {scene.name}", path, counted, partly, True))
        for title, clip, reference, partly, generated in jobs:
            rounds = 1 if options.no_speed or generated else options.rounds
            cases.append(
                _measure(title, clip, reference, partly, contenders, rounds, options, folder, generated, totals)
            )
    for key, quality in totals.items():
        print(f"generated, all: {key}: {quality.facts()}")
    if options.peer:
        contenders["deface"].close()
    report("anonymise", cases, packages=("av", "onnxruntime"), json_path=options.json)
    if options.json and totals:
        document = json.loads(options.json.read_text())
        document["generated_total"] = {key: quality.facts() for key, quality in totals.items()}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if any(v["frames_hidden_whole"] for c in cases for k, v in c.facts.items() if k.startswith("ours")):
        sys.exit("a whole frame was hidden: that is no anonymisation, and the benchmark fails")


def _measure(
    title: str,
    clip: Path,
    reference: list[Boxes],
    partly: list[Boxes],
    contenders: dict[str, Any],
    rounds: int,
    options: Any,
    folder: Path,
    generated: bool,
    totals: dict[str, Quality],
) -> Case:
    """One clip: all contenders in turns, then once more with detections dropped."""
    import av

    with av.open(str(clip)) as container:
        context = container.streams.video[0].codec_context
        size = (context.width, context.height)
    seconds: dict[str, list[float]] = {key: [] for key in contenders}
    facts: dict[str, Any] = {}
    names = list(contenders)
    for turn in range(rounds):
        for key in names[turn % len(names) :] + names[: turn % len(names)]:
            answer = contenders[key].run(clip, folder / "out.mp4")
            seconds[key].append(answer["seconds"])
            if turn == 0:
                facts[key] = _judged(answer, reference, partly, size, key, totals if generated else None)
                if "certificate" in answer:
                    facts[key]["stages_s"] = answer["certificate"].seconds
                    facts[key]["rounds"] = answer["certificate"].rounds
    if options.drop:
        for key in names:
            answer = contenders[key].run(clip, folder / "out.mp4", drop=options.drop, seed=options.seed)
            label = f"{key}, {options.drop:.0%} dropped"
            facts[label] = _judged(answer, reference, partly, size, label, totals if generated else None)
    rates = {key: len(reference) / statistics.median(values) for key, values in seconds.items()}
    facts["frames_per_s"] = {key: round(rate, 2) for key, rate in rates.items()}
    print(f"{title}: {facts}", flush=True)
    return Case(title, names[0], {k: Timing(v, v) for k, v in seconds.items()}, float(len(reference)), facts)


def _judged(
    answer: dict[str, Any],
    reference: list[Boxes],
    partly: list[Boxes],
    size: tuple[int, int],
    key: str,
    totals: dict[str, Quality] | None,
) -> dict[str, Any]:
    hidden = answer["boxes"][: len(reference)]
    hidden += [[]] * (len(reference) - len(hidden))
    quality = judge(hidden, reference, partly, size, ellipses=key.startswith("deface"))
    if totals is not None:
        totals.setdefault(key, Quality()).add(quality)
    return quality.facts()


if __name__ == "__main__":
    main()
