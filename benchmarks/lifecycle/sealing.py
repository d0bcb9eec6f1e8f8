"""What sealing costs: against the plain copy of the same bytes, and as a share of each stage's time. Bar: 10%.

    python -m benchmarks.lifecycle sealing [--clip FILE] [--model-dir FOLDER] [--rounds 7] [--json FILE]

First the stages work on a clip, as in production, on a folder as store. Then the objects that each stage reads and
writes are moved once more, sealed and plain in turns: what sealing adds, over the stage's time without it, is its
overhead. The vault counts whole: before it, `raw_clips` wrote nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks._timing import Case, arguments, compare, report
from benchmarks.lifecycle._postgres import fresh_database

BAR = 0.10
MIB = 2**20


def main(argv: Sequence[str]) -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--clip", type=Path, default=None, help="a clip; made up where left out")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the clip that is made up")
    parser.add_argument("--model-dir", type=Path, default=None, help="folder with model files")
    parser.add_argument("--detectors", default="auto", help="as CV_PLATFORM_DETECTORS")
    parser.add_argument("--size", type=int, default=64, help="MiB of the object that is only copied")
    options = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", str(options.cores))
    with fresh_database() as database, tempfile.TemporaryDirectory(prefix="cvp-bench-") as name:
        folder = Path(name)
        bench = Bench.make(folder, database, options)
        clip = options.clip or made_up(folder / "made-up.mp4", options.seconds)
        cases = [bench.copy_case(folder, options.size, options.rounds)]
        stages = bench.run_stages(clip)
        total_s = added_s = 0.0
        for stage, seconds in stages.items():
            case = bench.stage_case(stage, folder, options.rounds)
            if case is None:
                continue
            sealed_s, plain_s = (case.timings[key].median_s for key in ("sealed", "plain"))
            added = sealed_s - plain_s
            case.facts["stage, s"] = f"{seconds:.3f}"
            case.facts["overhead of sealing"] = f"{added / (seconds - added):.1%} (bar {BAR:.0%})"
            total_s, added_s = total_s + seconds, added_s + added
            cases.append(case)
        share = added_s / (total_s - added_s)
        cases[-1].facts["overhead over all stages"] = f"{share:.2%} (bar {BAR:.0%})"
    report("sealing, MiB/s", cases, packages=("cryptography", "obstore"), json_path=options.json)
    if share > BAR:
        raise SystemExit(f"sealing adds {share:.1%} to the stages; the bar is {BAR:.0%}")


def made_up(path: Path, seconds: float) -> Path:
    """A clip with people and faces."""
    from cv_platform.demo.footage import Scene, write_clip

    write_clip(path, Scene(seed=3), start_s=0.0, duration_s=seconds)
    return path


@dataclass
class Bench:
    """A platform with one clip."""

    platform: Any
    clip_id: Any = None
    upload: Path = Path()

    @classmethod
    def make(cls, folder: Path, database: Any, options: Any) -> Bench:
        """An empty platform on a folder."""
        from cv_platform.pipeline.platform import open_platform
        from cv_platform.settings import Settings

        settings = Settings(
            state_dir=folder / "state",
            postgres_url=database.url,
            model_dir=options.model_dir,
            detectors=options.detectors,
            inference_threads=options.cores,
        )
        return cls(open_platform(settings, database))

    def run_stages(self, clip: Path) -> dict[str, float]:
        """Seconds of each stage on the clip."""
        from cv_platform.pipeline.ingest import ingest_listing
        from cv_platform.pipeline.keys import upload_key
        from cv_platform.pipeline.stages import current_versions, run_named_stage
        from cv_platform.storage.ledger.model import STAGES, TRACKS, Scope
        from cv_platform.storage.ledger.versions import adopt_versions

        self.upload = clip
        key = upload_key("north", "cam1", datetime(2026, 3, 1, 8, tzinfo=UTC), clip.suffix.lstrip("."))
        self.platform.restricted.put_file(key, clip)
        ingest_listing(self.platform, limit=10)
        adopt_versions(self.platform.database, current_versions(self.platform))
        for stage in STAGES:
            if stage != TRACKS:  # reads and writes no object
                run_named_stage(self.platform, stage, Scope())
        with self.platform.database.transaction() as connection:
            rows = connection.execute("SELECT clip_id, stage, seconds FROM cv.stages WHERE state = 'done'").fetchall()
            [(state, reason)] = connection.execute("SELECT state, quarantine_reason FROM cv.clips").fetchall()
        if state != "published":
            raise SystemExit(f"the clip is {state}: {reason}")
        self.clip_id = rows[0][0]
        return {stage: seconds for _, stage, seconds in rows}

    def copy_case(self, folder: Path, size: int, rounds: int) -> Case:
        """An object of random bytes, sealed on its way and not."""
        path = folder / "large"
        path.write_bytes(os.urandom(size * MIB))
        key = os.urandom(32)
        from cv_platform.storage.sealed import sealed_chunks

        store = self.platform.restricted

        def sealed() -> None:
            with path.open("rb") as file:
                store.put_chunks("bench/sealed", sealed_chunks(file, key, "bench"))

        contenders = {"sealed": sealed, "plain": lambda: store.put_file("bench/plain", path)}
        return compare("one large object to a folder", contenders, rounds=rounds, units=size)

    def stage_case(self, stage: str, folder: Path, rounds: int) -> Case | None:
        """What a stage reads and writes, sealed and plain in turns; None for a stage that handles nothing sealed."""
        from cv_platform.pipeline.sealing import put_sealed, unseal_object

        restricted, cold = self.platform.restricted, self.platform.cold
        kinds = {"raw_clips": (restricted, "raw"), "decoded_frames": (restricted, "frames")}
        kinds["blurred_clips"] = (cold, "blurred")
        keys, plain = {}, {}
        for name, (store, kind) in kinds.items():
            with self.platform.database.transaction() as connection:
                [(key,)] = connection.execute(
                    "SELECT output_key FROM cv.stages WHERE stage = %s AND clip_id = %s", [name, self.clip_id]
                ).fetchall()
            plain[kind] = folder / f"plain-{kind}"
            with plain[kind].open("wb") as file:
                unseal_object(self.platform, store, key, file, self.clip_id, kind)
            keys[kind] = key
            store.put_file(f"bench/{kind}", plain[kind])

        def read(kind: str, sealed: bool) -> None:
            store = cold if kind == "blurred" else restricted
            if not sealed:
                store.download(f"bench/{kind}", folder / "scratch")
                return
            with (folder / "scratch").open("wb") as file:
                unseal_object(self.platform, store, keys[kind], file, self.clip_id, kind)

        def write(kind: str, sealed: bool) -> None:
            store = cold if kind == "blurred" else restricted
            if sealed:
                put_sealed(self.platform, store, f"bench/sealed-{kind}", plain[kind], self.clip_id, kind)
            else:
                store.put_file(f"bench/{kind}", plain[kind])

        # Before it was sealed, the raw clip was only read from where it had been uploaded.
        work: dict[str, Callable[[bool], None]] = {
            "raw_clips": lambda sealed: (read("raw", False), write("raw", True) if sealed else None)[0],
            "decoded_frames": lambda sealed: (read("raw", sealed), write("frames", sealed))[0],
            "detections": lambda sealed: read("frames", sealed),
            "blurred_clips": lambda sealed: (read("raw", sealed), write("blurred", sealed))[0],
        }
        if stage not in work:
            return None
        moved = {"raw_clips": ("raw",), "decoded_frames": ("raw", "frames"), "detections": ("frames",)}
        size = sum(plain[kind].stat().st_size for kind in moved.get(stage, ("raw", "blurred"))) / MIB
        contenders = {"sealed": lambda: work[stage](True), "plain": lambda: work[stage](False)}
        return compare(f"{stage}: what it moves", contenders, rounds=rounds, units=size)
