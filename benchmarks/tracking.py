"""Tracking alone: frames a second, and HOTA, MOTA, IDF1 and ID switches on MOT-format sequences.

    python -m benchmarks.tracking --mot DIR [DIR ...] [--norfair-python PYTHON] [--json FILE]
    python -m benchmarks.tracking --mot DIR [DIR ...] --select [--json FILE]

DIR holds det/det.txt, gt/gt.txt and seqinfo.ini. The `bench` extra brings the peers (`trackers`) and the scorer
(TrackEval). norfair does not go into the same environment: give it one of its own (`python -m venv E`,
`E/bin/pip install -r benchmarks/peers/norfair.txt`) and name its interpreter with --norfair-python E/bin/python.

--select chooses the default tracker's parameters by leaving one sequence out: for each sequence, those that do best on
the others are scored on it, and these held-out scores are combined. The grid and the rule are in `_selection.py`.

Each tracker starts anew on every sequence and gets its detections as its own library's type, made beforehand. Peers
that can look at pictures for the camera's motion or for masks do without. All answers hold only tracks that a detection
of the frame belongs to.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks._timing import Case, arguments, compare, environment, pin_cores, report

PACKAGES = ("scipy", "trackers", "supervision", "trackeval")
OURS = ("default", "sort", "bytetrack", "ocsort")


def main() -> None:
    """Parse, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--mot", type=Path, nargs="+", default=[], metavar="DIR", help="sequences in MOT format")
    parser.add_argument("--norfair-python", type=Path, metavar="PYTHON", help="interpreter of norfair's environment")
    parser.add_argument("--crowd", type=int, default=200, help="boxes a frame of the made-up crowd")
    parser.add_argument(
        "--peers", nargs="*", metavar="CLASS", help="only these classes of `trackers`; none: ours alone"
    )
    parser.add_argument("--no-speed", action="store_true", help="quality alone")
    parser.add_argument("--select", action="store_true", help="choose the default tracker's parameters")
    options = parser.parse_args()
    pin_cores(options.cores)
    from benchmarks._mot import MotSequence

    sequences = [MotSequence.read(folder) for folder in options.mot]
    if options.select:
        if len(sequences) < 2:
            raise SystemExit("--select needs two sequences or more (--mot DIR DIR ...)")
        from benchmarks._selection import select

        chosen = select(sequences)
        if options.json:
            _write(options.json, {"title": "Selection", "environment": environment(PACKAGES), **chosen})
        return
    cases, quality = [], {}
    if sequences:
        cases, quality = _measure(options, sequences, with_quality=True)
    else:
        print("# no --mot DIR: only the made-up crowd is measured, and no quality")
    if not options.no_speed:
        from benchmarks.peers.tracking_peers import crowd

        cases += _measure(options, [crowd(options.crowd)], with_quality=False)[0]
        report("Tracking", cases, packages=PACKAGES, json_path=options.json)
    if quality:
        _print_quality(quality)
    if options.json:
        written = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() and cases else {}
        _write(options.json, {**written, "environment": environment(PACKAGES), "quality": quality})


def _measure(
    options: argparse.Namespace, sequences: list[Any], *, with_quality: bool
) -> tuple[list[Case], dict[str, dict[str, dict[str, float]]]]:
    """Time all contenders on the sequences taken together, in turns, and score them."""
    from benchmarks.peers.tracking_peers import WITHOUT_PICTURES, NorfairPeer, Ours, TrackersPeer

    ours = {f"ours: {name}": Ours(name, sequences) for name in OURS}
    names = WITHOUT_PICTURES if options.peers is None else options.peers
    peers = {f"trackers {name}": TrackersPeer(name, sequences) for name in names}
    contenders: dict[str, Any] = {**ours, **peers}
    norfair = NorfairPeer(options.norfair_python, sequences) if options.norfair_python else None
    answers = {name: contender.answers() for name, contender in contenders.items()} if with_quality else {}
    if norfair is not None:
        contenders["norfair"] = norfair
        if with_quality:
            answers["norfair (detected boxes)"] = norfair.answers(estimated=False)
            answers["norfair (its estimates)"] = norfair.answers(estimated=True)
    cases = []
    if not options.no_speed:
        frames = sum(len(sequence.detections) for sequence in sequences)
        title = "MOT sequences" if with_quality else sequences[0].name
        runs = {name: contender.run for name, contender in contenders.items()}
        timed = compare(title, runs, ours="ours: sort", rounds=options.rounds, warmup=1, units=frames)
        default = {key: timing for key, timing in timed.timings.items() if key != "ours: sort"}
        cases = [timed, Case(f"{title}, default", "ours: default", default, frames)]
    if norfair is not None:
        norfair.close()
    return cases, {name: _score(sequences, answer) for name, answer in answers.items()}


def _score(sequences: list[Any], answers: list[Any]) -> dict[str, dict[str, float]]:
    from benchmarks._mot import Scores

    scores = Scores()
    for sequence, answer in zip(sequences, answers, strict=True):
        scores.add(sequence, answer)
    return {**{sequence.name: scores.figures([sequence.name]) for sequence in sequences}, "combined": scores.figures()}


def _print_quality(quality: dict[str, dict[str, dict[str, float]]]) -> None:
    print("\n# Quality (TrackEval; MOTA, IDF1 and ID switches at IoU 0.5)")
    print(f"{'sequence':<20} {'tracker':<28} {'HOTA':>6} {'MOTA':>6} {'IDF1':>6} {'IDSW':>5} {'FP':>6} {'FN':>6}")
    for sequence in next(iter(quality.values())):
        for name, of in quality.items():
            row = of[sequence]
            print(
                f"{sequence:<20} {name:<28} {row['HOTA']:>6.2f} {row['MOTA']:>6.2f} {row['IDF1']:>6.2f} "
                f"{row['IDSW']:>5} {row['FP']:>6} {row['FN']:>6}"
            )


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
