"""What sealing costs: on one large object, and on the stages that mostly move bytes. Bar: 10% of a stage's throughput.

    python -m benchmarks.lifecycle sealing [--clip FILE] [--rounds 7] [--json FILE]

Stages work on copies of one clip, a camera each, on a folder as store and a PostgreSQL of its own: sealed, and, in
turns, with the same objects in the clear (encryption, decryption and clips' keys taken out, all else as it is).
`raw_clips` and `decoded_frames` have the least other work for the bytes that they move; detections and blurred_clips
take ten to a hundred times as long for the same bytes. Overhead is told by the clock and by processor time, of this
process and the decoder's: on a machine that others keep busy the clock says little.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks._timing import Case, arguments, compare, report
from benchmarks.lifecycle._postgres import fresh_database

BAR = 0.10
MIB = 2**20
_CHUNK = 256 * 1024


def main(argv: Sequence[str]) -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--clip", type=Path, default=None, help="a clip; made up where left out")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the clip that is made up")
    parser.add_argument("--size", type=int, default=64, help="MiB of the object that is only copied")
    options = parser.parse_args(argv)
    with fresh_database() as database, tempfile.TemporaryDirectory(prefix="cvp-bench-") as name:
        from cv_platform.pipeline.platform import open_platform
        from cv_platform.settings import Settings

        folder = Path(name)
        platform = open_platform(Settings(state_dir=folder / "state", postgres_url=database.url), database)
        clip = options.clip or made_up(folder / "made-up.mp4", options.seconds)
        cases = [copy_case(platform, folder, options.size, options.rounds)]
        for stage in ("raw_clips", "decoded_frames"):
            case = stage_case(platform, stage, clip, options.rounds)
            cases.append(case)
    report("sealing, MiB/s of clip", cases, packages=("cryptography", "obstore"), json_path=options.json)


def made_up(path: Path, seconds: float) -> Path:
    """A clip with people and faces."""
    from cv_platform.demo.footage import Scene, write_clip

    write_clip(path, Scene(seed=3), start_s=0.0, duration_s=seconds)
    return path


def copy_case(platform: Any, folder: Path, size: int, rounds: int) -> Case:
    """An object of random bytes, sealed on its way and not."""
    from cv_platform.storage.sealed import sealed_chunks

    path, key = folder / "large", os.urandom(32)
    path.write_bytes(os.urandom(size * MIB))

    def sealed() -> None:
        with path.open("rb") as file:
            platform.restricted.put_chunks("bench/sealed", sealed_chunks(file, key, "bench"))

    def plain() -> None:
        with path.open("rb") as file:
            platform.restricted.put_chunks("bench/plain", _plain_chunks(file, key, "bench"))

    contenders = {"sealed": sealed, "plain": plain, "plain, put_file": lambda: put_file(platform, path)}
    return compare("one large object to a folder", contenders, rounds=rounds, units=size)


def put_file(platform: Any, path: Path) -> None:
    """The store's own way with a file."""
    platform.restricted.put_file("bench/file", path)


def stage_case(platform: Any, stage: str, clip: Path, rounds: int) -> Case:
    """One stage on one clip, sealed and plain in turns; each call has a clip of its own that has come so far."""
    from cv_platform.pipeline.ingest import ingest_listing
    from cv_platform.pipeline.keys import upload_key
    from cv_platform.pipeline.stages import run_named_stage
    from cv_platform.storage.ledger.model import Scope

    at = datetime(2026, 3, 1, 8, tzinfo=UTC)
    calls = rounds + 2  # one to warm up, one to see how long it takes
    waiting: dict[str, Iterator[str]] = {}
    for kind in ("sealed", "plain"):
        cameras = [f"{stage}-{kind}-{n}" for n in range(calls)]
        for camera in cameras:
            platform.restricted.put_file(upload_key("north", camera, at, clip.suffix.lstrip(".")), clip)
        ingest_listing(platform, limit=1000)
        if stage != "raw_clips":
            with _plain(kind == "plain"):
                run_named_stage(platform, "raw_clips", Scope(cameras=tuple(cameras)))
        waiting[kind] = iter(cameras)

    processor_s: dict[str, list[float]] = {"sealed": [], "plain": []}

    def work(kind: str) -> None:
        before = _processor_s()
        with _plain(kind == "plain"):
            done = run_named_stage(platform, stage, Scope(cameras=(next(waiting[kind]),)))
        processor_s[kind].append(_processor_s() - before)
        if done.done != 1:
            raise SystemExit(f"{stage}: {dict(done.quarantined) or 'nothing done'}")

    contenders = {"sealed": lambda: work("sealed"), "plain": lambda: work("plain")}
    size = clip.stat().st_size / MIB
    case = compare(stage, contenders, rounds=rounds, warmup=1, sample_s=0.0, units=size)
    used = {kind: statistics.median(seconds[2:]) for kind, seconds in processor_s.items()}
    case.facts["overhead by the clock"] = f"{1 / case.ratio('plain') - 1:.1%} (bar {BAR:.0%})"
    case.facts["overhead in processor time"] = f"{used['sealed'] / used['plain'] - 1:.1%} of {used['plain']:.3f} s"
    return case


def _processor_s() -> float:
    """Processor time of this process and of the children that have ended."""
    return sum(os.times()[:4])


@contextmanager
def _plain(plain: bool) -> Iterator[None]:
    """Within it objects are neither encrypted nor decrypted, and no clip's key is looked up."""
    from cv_platform.governance.keys import ClipKeys
    from cv_platform.storage import sealed

    if not plain:
        yield
        return
    before = sealed.sealed_chunks, sealed.unseal, ClipKeys.key_for, ClipKeys.open
    sealed.sealed_chunks, sealed.unseal = _plain_chunks, _plain_copy
    ClipKeys.key_for = ClipKeys.open = lambda self, clip_id: b""  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        sealed.sealed_chunks, sealed.unseal = before[:2]
        ClipKeys.key_for, ClipKeys.open = before[2:]  # type: ignore[method-assign]


def _plain_chunks(source: BinaryIO, key: bytes, owner: str) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK):
        yield chunk


def _plain_copy(source: BinaryIO, target: BinaryIO, key: bytes, owner: str) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()
