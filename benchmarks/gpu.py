"""How near to the decoder's own speed detection runs on a GPU, and what it gains over the processor and plain torch.

    python -m benchmarks.gpu --clips DIR --model-dir DIR [--parts clips,answers,…] [--json FILE]

DIR holds clips of one size (`python -m benchmarks.gpu_clips` makes noisy ones). Each part compares its contenders in
turns, in one process with the same number of decoding threads, over the same clips, the start of every decoder and the
opening of every file counted in; rates are frames (decoded) a second, the median of the rounds. Parts:
clips (every frame, and sampled at 5 a second), shards (JPEG), cpu (the platform on the processor's cores, two ways),
plain (a plain torch loop), large (RetinaNet R50, random weights), answers (same as the processor's), memory (a long
run).
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks._timing import environment

MODEL = "yolox_nano"
PARTS = ("answers", "clips", "shards", "cpu", "plain", "large", "memory")


def main(argv: list[str] | None = None) -> int:
    """Run the parts that are asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=16, help="decoding threads of every contender")
    parser.add_argument("--work", type=int, default=32, help="clips of one round")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--long-run-s", type=float, default=60.0)
    parser.add_argument("--vtest", type=Path, default=None, help="clip of known truth, for the part answers")
    parser.add_argument("--mot", type=Path, default=None, help="its MOT-format sequence")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(argv)
    results: dict[str, Any] = {"environment": {**_environment(), "gpu": _gpu_name()}}
    results["options"] = {k: str(v) for k, v in vars(options).items()}
    for part in options.parts.split(","):
        started = time.monotonic()
        try:
            results[part] = globals()[f"part_{part}"](options)
        except Exception as error:  # noqa: BLE001 - one part's failure leaves the others' results
            results[part] = {"failed": f"{type(error).__name__}: {error}"}
            import traceback

            traceback.print_exc()
        print(f"## {part} ({time.monotonic() - started:.0f} s)\n{json.dumps(results[part], indent=1)}", flush=True)
        if options.json is not None:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _environment() -> dict[str, Any]:
    try:
        return environment(("torch", "torchvision", "av", "onnxruntime"))
    except OSError:  # no git there
        return {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "python": sys.version.split()[0]}


def _gpu_name() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return "none"


def make(options: argparse.Namespace, **more: Any) -> Any:
    """The torch detector of the benchmark's model."""
    from cv_platform.vision.detectors.onnx import InputSize
    from cv_platform.vision.detectors.torch_backend import TorchDetector

    content, arguments = _model(options)
    arguments["input_size"] = InputSize(**arguments.pop("input"))
    return TorchDetector(content, **{**arguments, "batch_size": options.batch, **more})


def _model(options: argparse.Namespace, name: str = MODEL) -> tuple[bytes, dict[str, Any]]:
    from cv_platform.vision.models import ModelRegistry

    models = ModelRegistry(cache_dir=options.model_dir, model_dir=options.model_dir, fetch=False)
    entry = models.entry(name)
    content, digest = models.read(name)
    return content, {
        "name": name,
        "digest": digest,
        "head": entry.head,
        "input": dict(entry.input),
        "class_ids": entry.class_ids,
        "score_threshold": entry.score_threshold,
        "iou_threshold": entry.iou_threshold,
    }


def clips_of(options: argparse.Namespace, count: int | None = None) -> list[Path]:
    """The clips of one round, repeated where there are fewer."""
    clips = sorted(options.clips.glob("*.mp4"))
    return list(itertools.islice(itertools.cycle(clips), count or options.work))


def turns(contenders: dict[str, Callable[[], int]], rounds: int) -> dict[str, Any]:
    """Run every contender once a round, after one run to warm up; each returns how many frames it handled."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    usage: dict[str, dict[str, float]] = {}
    for call in contenders.values():
        call()
    names = list(contenders)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            with Utilisation() as seen:
                started = time.perf_counter()
                frames = contenders[name]()
                rates[name].append(frames / (time.perf_counter() - started))
            usage[name] = seen.means()
    first = rates[names[0]]
    return {
        name: {
            "frames_per_s": round(statistics.median(values), 1),
            "rounds": [round(v, 1) for v in values],
            f"share of {names[0]}": round(statistics.median(v / f for v, f in zip(values, first, strict=True)), 3),
            "utilisation_percent": usage[name],
        }
        for name, values in rates.items()
    }


class Utilisation:
    """Samples what the GPU's units are doing, ten times a second."""

    def __init__(self) -> None:
        self._samples: list[tuple[int, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            device = pynvml.nvmlDeviceGetHandleByIndex(0)
            while not self._over.wait(0.1):
                self._samples.append(
                    (
                        pynvml.nvmlDeviceGetUtilizationRates(device).gpu,
                        pynvml.nvmlDeviceGetDecoderUtilization(device)[0],
                    )
                )
        except Exception:  # noqa: BLE001 - a machine without NVML has no such figures
            self._samples = []

    def means(self) -> dict[str, float]:
        """Mean use of the GPU's cores and of its decoders, percent."""
        if not self._samples:
            return {}
        return {
            "gpu": round(statistics.mean(s[0] for s in self._samples), 1),
            "nvdec": round(statistics.mean(s[1] for s in self._samples), 1),
        }

    def __enter__(self) -> Utilisation:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def decode_only(clips: Sequence[Path], streams: int) -> int:
    """NVDEC's own demultiplexer and decoder, `streams` threads, frames thrown away; returns how many there were."""
    import PyNvVideoCodec as nvc  # noqa: N813

    to_do, lock, counts = iter(clips), threading.Lock(), [0] * streams

    def work(n: int) -> None:
        while True:
            with lock:
                clip = next(to_do, None)
            if clip is None:
                return
            demuxer = nvc.CreateDemuxer(str(clip))
            decoder = nvc.CreateDecoder(
                gpuid=0, codec=demuxer.GetNvCodecId(), cudacontext=0, cudastream=0, usedevicememory=True
            )
            for packet in demuxer:
                counts[n] += len(decoder.Decode(packet))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def clip_items(fps: float | None) -> Callable[[Path], Iterator[Any]]:
    """Opens a clip by NVDEC for `detect_streams`; counts decoded frames in `decoded`."""
    from cv_platform.vision.gpu.stream import Item
    from cv_platform.vision.video.limits import DEFAULT_LIMITS
    from cv_platform.vision.video.nvdec import NvdecDecoder, check_suitable
    from cv_platform.vision.video.probe import open_clip

    def opened(clip: Path) -> Iterator[Item]:
        facts = check_suitable(clip)
        with open_clip(clip) as handle:
            decoder = NvdecDecoder(handle, rotation=facts.rotation, fps=fps, long_side=960, limits=DEFAULT_LIMITS)
            for surface in decoder:
                yield Item(surface.index, surface.pts_s, surface)
        opened.decoded += decoder.tally.decoded  # type: ignore[attr-defined]

    opened.decoded = 0  # type: ignore[attr-defined]
    return opened


def end_to_end(detector: Any, clips: Sequence[Path], streams: int, fps: float | None) -> int:
    """Ours over the clips; returns how many frames were decoded."""
    from cv_platform.vision.gpu.stream import detect_streams

    opened = clip_items(fps)
    for found in detect_streams(clips, opened, detector, streams=streams):
        if found.error is not None:
            raise found.error
    return int(opened.decoded)  # type: ignore[attr-defined]


def part_clips(options: argparse.Namespace) -> dict[str, Any]:
    """Clips against the decoder alone; the network alone; latency of one frame."""
    import numpy as np
    import torch

    detector = make(options)
    detector.warmup()
    clips = clips_of(options)
    rates = turns(
        {
            "NVDEC decode only": lambda: decode_only(clips, options.streams),
            "end to end, every frame": lambda: end_to_end(detector, clips, options.streams, None),
            "end to end, 5 frames a second": lambda: end_to_end(detector, clips, options.streams, 5.0),
        },
        options.rounds,
    )
    program = detector._program(options.batch, (416, 416))
    times = []
    for _ in range(7):
        torch.cuda.synchronize()
        started = time.perf_counter()
        with torch.cuda.stream(detector._stream):
            for _ in range(20):
                program.run()
        torch.cuda.synchronize()
        times.append(20 * options.batch / (time.perf_counter() - started))
    frame = np.random.default_rng(0).integers(0, 255, (540, 960, 3), dtype=np.uint8)
    detector.detect([frame])
    latencies = []
    for _ in range(50):
        started = time.perf_counter()
        detector.detect([frame])
        latencies.append((time.perf_counter() - started) * 1e3)
    return {
        **rates,
        "network, head and suppression alone, frames_per_s": round(statistics.median(times), 1),
        "latency of one 960x540 frame from host memory, ms": round(statistics.median(latencies), 3),
    }


def part_shards(options: argparse.Namespace) -> dict[str, Any]:
    """JPEG shards against nvJPEG alone."""
    from cv_platform.vision.gpu.jpeg import decode_jpegs, shard_frames, shard_items
    from cv_platform.vision.gpu.stream import detect_streams
    from cv_platform.vision.video.decode import decode_sampled
    from cv_platform.vision.video.shards import ShardWriter

    shards = []
    for clip in clips_of(options, 4):
        file = io.BytesIO()
        with ShardWriter(file) as writer:
            for frame in itertools.islice(decode_sampled(clip, fps=None, long_side=960, threads=0), 200):
                writer.add(frame)
        shards.append(file.getvalue())
    files = [frame.jpeg for shard in shards for frame in shard_frames(shard)]
    detector = make(options)
    detector.warmup()

    def alone() -> int:
        for _ in range(5):
            for start in range(0, len(files), options.batch):
                decode_jpegs(files[start : start + options.batch])
        return 5 * len(files)

    def items(shard: bytes) -> Iterator[Any]:
        return shard_items(shard, batch=options.batch)

    def whole(streams: int) -> int:
        count = 0
        for found in detect_streams(shards * 5, items, detector, streams=streams, prefetch=4):
            if found.error is not None:
                raise found.error
            count += found.detections is not None
        return count

    rates = turns(
        {"nvJPEG decode only": alone, "end to end": lambda: whole(2), "end to end, 4 readers": lambda: whole(4)},
        options.rounds,
    )
    return {**rates, "mean JPEG bytes": round(statistics.mean(map(len, files)))}


CPU_WORKER = """
import sys, time, itertools
from pathlib import Path
from benchmarks.gpu import cpu_path
print(*cpu_path(sys.argv[1:], ready=lambda: (print("ready", flush=True), sys.stdin.readline())), flush=True)
"""


def cpu_path(arguments: Sequence[str], ready: Callable[[], Any]) -> tuple[int, float]:
    """The platform's processor path over clips for a while: frames decoded, and seconds taken.

    Args:
        arguments: folder of clips, of models, threads, frames a second (0: every), seconds.
        ready: called once all is warm.
    """
    from cv_platform.vision.detectors.onnx import InputSize, OnnxDetector
    from cv_platform.vision.video.ahead import ahead
    from cv_platform.vision.video.decode import ClipDecoder
    from cv_platform.vision.video.limits import DEFAULT_LIMITS
    from cv_platform.vision.video.probe import open_clip

    options = argparse.Namespace(clips=Path(arguments[0]), model_dir=Path(arguments[1]), work=64)
    threads, fps, limit_s = int(arguments[2]), float(arguments[3]), float(arguments[4])
    content, values = _model(options)
    values["input_size"] = InputSize(**values.pop("input"))
    detector = OnnxDetector(content, threads=threads, **values)
    detector.warmup()
    ready()
    started, frames = time.perf_counter(), 0
    for clip in itertools.cycle(clips_of(options)):
        with open_clip(clip, threads=threads) as handle:
            decoder = ClipDecoder(handle, fps=fps or None, long_side=960, limits=DEFAULT_LIMITS)
            for sampled in _eights(ahead(decoder)):
                detector.detect([frame.image for frame in sampled])
                if time.perf_counter() - started > limit_s:
                    return frames + decoder.tally.decoded, time.perf_counter() - started
            frames += decoder.tally.decoded
    raise AssertionError("a cycle has no end")


def _eights(frames: Any) -> Iterator[list[Any]]:
    iterator = iter(frames)
    while batch := list(itertools.islice(iterator, 8)):
        yield batch


def part_cpu(options: argparse.Namespace) -> dict[str, Any]:
    """The processor's path on all cores: one worker with all of them, and a worker a core."""
    cores = len(os.sched_getaffinity(0))
    detector = make(options)
    detector.warmup()
    clips = clips_of(options)
    result: dict[str, Any] = {"cores": cores}
    for label, fps in (("every frame", None), ("5 frames a second", 5.0)):
        end_to_end(detector, clips, options.streams, fps)
        ours = []
        for _ in range(3):
            started = time.perf_counter()
            ours.append(end_to_end(detector, clips, options.streams, fps) / (time.perf_counter() - started))
        rate = statistics.median(ours)
        entry: dict[str, Any] = {"GPU, frames_per_s": round(rate, 1)}
        for name, workers, threads in (("one worker, all cores", 1, cores), ("a worker a core", cores, 1)):
            cpu = _cpu_rate(options, workers, threads, fps or 0.0)
            entry[name] = {"frames_per_s": round(cpu, 1), "GPU faster by": round(rate / cpu, 2)}
        result[label] = entry
    return result


def _cpu_rate(options: argparse.Namespace, workers: int, threads: int, fps: float, limit_s: float = 5.0) -> float:
    arguments = [str(options.clips), str(options.model_dir), str(threads), str(fps), str(limit_s)]
    one = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CPU_WORKER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one},
        )
        for _ in range(workers)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    answers = [child.communicate()[0].split() for child in children]
    return sum(int(frames) / float(seconds) for frames, seconds in answers)


def part_plain(options: argparse.Namespace) -> dict[str, Any]:
    """A plain torch loop: cv2 decodes, torchvision transforms each frame, fp32, batches of 16."""
    import cv2
    import torch
    from torchvision.ops import batched_nms
    from torchvision.transforms import v2

    from cv_platform.vision.gpu.boxes import HEADS
    from cv_platform.vision.gpu.network import OnnxNetwork

    content, values = _model(options)
    network = OnnxNetwork(content).eval().cuda()
    prepare = v2.Compose([v2.ToImage(), v2.Resize((234, 416), antialias=True), v2.ToDtype(torch.float32, scale=False)])
    detector = make(options)
    detector.warmup()
    clips = clips_of(options)

    def flush(frames: list[Any]) -> None:
        batch = torch.stack([torch.nn.functional.pad(f, (0, 0, 0, 182), value=114) for f in frames]).cuda()
        with torch.inference_mode():
            dense = HEADS["yolox"](network(batch), 416, 416)
        for boxes, scores, labels in zip(*dense, strict=True):
            keep = scores > values["score_threshold"]
            kept = batched_nms(boxes[keep], scores[keep], labels[keep], values["iou_threshold"])
            boxes[keep][kept].cpu()

    def plain(every: int, clip_count: int) -> int:
        count = 0
        for clip in clips[:clip_count]:
            capture, frames = cv2.VideoCapture(str(clip)), []
            while capture.grab():
                count += 1
                if (count - 1) % every:
                    continue
                if count > 500 // (5 if every == 1 else 1):
                    break
                _, picture = capture.retrieve()
                frames.append(prepare(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)))
                if len(frames) == 16:
                    flush(frames)
                    frames = []
            if frames:
                flush(frames)
        return count

    result = {}
    for label, every, fps, few in (("every frame", 1, None, 1), ("5 frames a second", 5, 5.0, 2)):
        rates = turns(
            {
                "plain torch loop": lambda every=every, few=few: plain(every, few),
                "ours": lambda fps=fps: end_to_end(detector, clips, options.streams, fps),
            },
            options.rounds,
        )
        result[label] = rates
    return result


def part_large(options: argparse.Namespace) -> dict[str, Any]:
    """RetinaNet R50 with random weights, on frames of clips, against the bare model on a batch that is there."""
    import torch

    from cv_platform.vision.detectors.torchvision_backend import TorchvisionDetector
    from cv_platform.vision.gpu.stream import detect_streams

    detector = TorchvisionDetector("retinanet_resnet50_fpn", weights=None, batch_size=16)
    detector.warmup()
    clips = clips_of(options, 12)
    batch = [torch.rand((3, 540, 960), device="cuda", dtype=torch.float16) for _ in range(16)]

    def bare() -> int:
        with torch.inference_mode():
            for _ in range(20):
                detector.model(batch)
        torch.cuda.synchronize()
        return 320

    def whole() -> int:
        count = 0
        for found in detect_streams(clips, clip_items(5.0), detector, streams=6):
            if found.error is not None:
                raise found.error
            count += found.detections is not None
        return count

    return turns({"bare model, batches of 16, fp16": bare, "end to end": whole}, options.rounds)


def part_answers(options: argparse.Namespace) -> dict[str, Any]:
    """Frames, times, boxes and AP50 against the processor's."""
    import numpy as np

    from benchmarks._mot import MotSequence
    from benchmarks.detect import LEAST_SCORE, at_threshold, average_precision, matches
    from cv_platform.vision.classes import PERSON
    from cv_platform.vision.detectors.onnx import InputSize, OnnxDetector
    from cv_platform.vision.video.decode import decode_sampled
    from cv_platform.vision.video.nvdec import sampled_frames

    result: dict[str, Any] = {}
    for clip in ([options.vtest] if options.vtest else []) + clips_of(options, 2):
        for fps in (None, 5.0, 7.3):
            theirs = itertools.islice(decode_sampled(clip, fps=fps, long_side=960, threads=0), 120)
            ours = itertools.islice(sampled_frames(clip, fps=fps, long_side=960, backend="nvdec"), 120)
            differences, same = [], True
            for a, b in itertools.zip_longest(theirs, ours):
                if a is None or b is None:
                    same = False
                    break
                same = same and (a.index, a.pts_s) == (b.index, b.pts_s)
                if a.index % 10 == 0:
                    differences.append(float(np.abs(b.image().astype(int) - a.image).mean()))
            result[f"{clip.name} at {fps or 'every'}"] = {
                "frames and times are the same": same,
                "mean difference of pixels, levels": round(statistics.mean(differences), 3),
            }
    if options.vtest is None:
        return result
    content, values = _model(options)
    values["score_threshold"] = LEAST_SCORE
    values["input_size"] = InputSize(**values.pop("input"))
    cpu = OnnxDetector(content, **values)
    pictures = [frame.image for frame in decode_sampled(options.vtest, fps=None, long_side=None, threads=0)]
    surfaces = list(sampled_frames(options.vtest, fps=None, long_side=None, backend="nvdec"))
    answers = {"processor": cpu.detect(pictures)}
    for precision in ("fp32", "fp16"):
        detector = make(options, precision=precision, score_threshold=LEAST_SCORE)
        answers[f"torch {precision}, the same pictures"] = detector.detect(pictures)
        answers[f"torch {precision}, NVDEC"] = detector.detect(surfaces)
    theirs = [found[found.scores > 0.25] for found in answers["processor"]]
    sequence = MotSequence.read(options.mot) if options.mot else None
    for name, found in answers.items():
        ours = [one[one.scores > 0.25] for one in found]
        far = [_farthest(a, b) for a, b in zip(theirs, ours, strict=True)]
        entry: dict[str, Any] = {
            "largest difference of a matched box, pixels": round(max(f[0] for f in far), 3),
            "frames with a difference over 1 pixel": sum(f[0] > 1 for f in far),
            "boxes without a match": sum(f[1] for f in far),
            "boxes": sum(map(len, ours)),
        }
        if sequence is not None:
            scores, hits, truths = [], [], 0
            for one, picture, truth in zip(found, pictures, sequence.truth, strict=False):
                scale = np.array([picture.shape[1] / sequence.width, picture.shape[0] / sequence.height] * 2)
                persons = one[one.class_ids == PERSON]
                scores.append(persons.scores)
                hits.append(matches(persons.boxes, truth[0] * scale))
                truths += len(truth[0])
            entry["AP50"] = round(average_precision(np.concatenate(scores), np.concatenate(hits), truths), 4)
            entry["precision, recall"] = [
                round(v, 4) for v in at_threshold(np.concatenate(scores), np.concatenate(hits), truths, 0.25)
            ]
        result[name] = entry
    return result


def _farthest(a: Any, b: Any) -> tuple[float, int]:
    """Largest difference of a coordinate among boxes of one class that belong together, and how many belong nowhere."""
    import numpy as np

    largest, alone, free = 0.0, 0, np.ones(len(b), bool)
    for box, class_id in zip(a.boxes, a.class_ids, strict=True):
        gaps = np.where(free & (b.class_ids == class_id), np.abs(b.boxes - box).max(1) if len(b) else 0, np.inf)
        if not len(gaps) or gaps.min() > 10:
            alone += 1
            continue
        free[gaps.argmin()] = False
        largest = max(largest, float(gaps.min()))
    return largest, alone + int(free.sum())


def part_memory(options: argparse.Namespace) -> dict[str, Any]:
    """A worker over clips for a long time: memory of process and GPU, ten times."""
    import psutil
    import torch

    detector = make(options)
    detector.warmup()
    clips = clips_of(options)
    samples, frames, started = [], 0, time.monotonic()
    while time.monotonic() - started < options.long_run_s:
        frames += end_to_end(detector, clips, options.streams, 5.0)
        free, total = torch.cuda.mem_get_info()
        samples.append(
            {
                "s": round(time.monotonic() - started, 1),
                "frames": frames,
                "process MiB": round(psutil.Process().memory_info().rss / 2**20),
                "GPU MiB": round((total - free) / 2**20),
                "torch MiB": round(torch.cuda.memory_reserved() / 2**20),
                "threads": threading.active_count(),
            }
        )
    return {"samples": samples}


if __name__ == "__main__":
    sys.exit(main())
