"""What the parts share: the model, the clips, contenders in turns, what the GPU's units do meanwhile."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

MODEL = "yolox_nano"


@dataclass(frozen=True)
class Rig:
    """One run's options; see `--help`."""

    clips: Path
    model_dir: Path
    rounds: int
    streams: int
    work: int
    batch: int
    long_run_s: float
    vtest: Path | None
    mot: Path | None
    hevc: Path | None
    device: str

    def model(self) -> tuple[bytes, dict[str, Any]]:
        """The benchmark's model: its file, and what a detector takes beside it."""
        from cv_platform.vision.detectors.onnx import InputSize
        from cv_platform.vision.models import ModelRegistry

        models = ModelRegistry(cache_dir=self.model_dir, model_dir=self.model_dir, fetch=False)
        entry = models.entry(MODEL)
        content, digest = models.read(MODEL)
        return content, {
            "name": MODEL,
            "digest": digest,
            "head": entry.head,
            "input_size": InputSize(**dict(entry.input)),
            "class_ids": entry.class_ids,
            "score_threshold": entry.score_threshold,
            "iou_threshold": entry.iou_threshold,
        }

    def detector(self, **more: Any) -> Any:
        """The torch detector of the benchmark's model, warm."""
        from cv_platform.vision.detectors.torch_backend import TorchDetector

        content, arguments = self.model()
        arguments.update({"batch_size": self.batch, "device": self.device, **more})
        if self.device == "cpu":
            arguments["precision"] = "fp32"
        made = TorchDetector(content, **arguments)
        made.warmup()
        return made

    def clip_list(self, count: int | None = None) -> list[Path]:
        """The clips of one round, repeated where there are fewer."""
        clips = sorted(self.clips.glob("*.mp4"))
        return list(itertools.islice(itertools.cycle(clips), count or self.work))


@contextmanager
def without_fused_kernels() -> Iterator[None]:
    """In here detectors are made of torch's own operations alone."""
    from cv_platform.vision.gpu import network, resample

    def none() -> None:
        return None

    with mock.patch.object(network, "fused_kernels", none), mock.patch.object(resample, "fused_kernels", none):
        yield


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
        self._samples: list[tuple[int, int, int]] = []
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
                        _jpeg_percent(pynvml, device),
                    )
                )
        except Exception:  # noqa: BLE001 - a machine without NVML, or an older one, has no such figures
            self._samples = []

    def means(self) -> dict[str, float]:
        """Mean use of the GPU's cores, of its video decoders and of its JPEG decoders, percent."""
        if not self._samples:
            return {}
        columns = zip(("gpu", "nvdec", "nvjpg"), zip(*self._samples, strict=True), strict=True)
        return {name: round(statistics.mean(values), 1) for name, values in columns}

    def __enter__(self) -> Utilisation:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _jpeg_percent(pynvml: Any, device: Any) -> int:
    try:
        return int(pynvml.nvmlDeviceGetJpgUtilization(device)[0])
    except Exception:  # noqa: BLE001 - not every card and driver tells it
        return -1


def decode_only(clips: Sequence[Path], streams: int, *, kept: list[Any] | None = None) -> int:
    """NVDEC's own demultiplexer and decoder, `streams` threads, frames thrown away; returns how many there were.

    Args:
        kept: decoders that a clip before has left open, taken and given back; None opens one for each clip.
    """
    import PyNvVideoCodec as nvc  # noqa: N813

    to_do, lock, counts = iter(clips), threading.Lock(), [0] * streams

    def work(n: int) -> None:
        while True:
            with lock:
                clip = next(to_do, None)
                decoder = kept.pop() if clip is not None and kept else None
            if clip is None:
                return
            demuxer = nvc.CreateDemuxer(str(clip))
            if decoder is None:
                decoder = nvc.CreateDecoder(
                    gpuid=0, codec=demuxer.GetNvCodecId(), cudacontext=0, cudastream=0, usedevicememory=True
                )
            for packet in demuxer:
                counts[n] += len(decoder.Decode(packet))
            if kept is not None:
                kept.append(decoder)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


class Clips:
    """Opens clips for `detect_streams`, by NVDEC or on the processor; counts the frames decoded.

    Args:
        fps: frames a second to sample; None for every frame.
        device: "cuda" decodes by NVDEC.
        keep: whether open decoders are kept for the next clip.
    """

    def __init__(self, fps: float | None, device: str, *, keep: bool = True) -> None:
        self._fps, self._device, self._keep = fps, device, keep
        self.decoded = 0

    def __call__(self, clip: Path) -> Iterator[Any]:
        from cv_platform.vision.gpu.stream import Item
        from cv_platform.vision.video.decode import decode_sampled
        from cv_platform.vision.video.limits import DEFAULT_LIMITS
        from cv_platform.vision.video.nvdec import NvdecDecoder, check_suitable
        from cv_platform.vision.video.nvdec_sessions import SESSIONS, NvdecSessions
        from cv_platform.vision.video.probe import open_clip

        if self._device == "cpu":
            for frame in decode_sampled(clip, fps=self._fps, long_side=960, threads=1):
                self.decoded += 1
                yield Item(frame.index, frame.pts_s, frame.image)
            return
        facts = check_suitable(clip)
        with open_clip(clip) as handle:
            decoder = NvdecDecoder(
                handle,
                rotation=facts.rotation,
                fps=self._fps,
                long_side=960,
                limits=DEFAULT_LIMITS,
                sessions=SESSIONS if self._keep else NvdecSessions(0),
            )
            for surface in decoder:
                yield Item(surface.index, surface.pts_s, surface)
        self.decoded += decoder.tally.decoded


def end_to_end(rig: Rig, detector: Any, clips: Sequence[Path], fps: float | None, *, keep: bool = True) -> int:
    """Ours over the clips; returns how many frames were decoded."""
    from cv_platform.vision.gpu.stream import detect_streams

    opened = Clips(fps, rig.device, keep=keep)
    for found in detect_streams(clips, opened, detector, streams=rig.streams):
        if found.error is not None:
            raise found.error
    return opened.decoded


def alone(rig: Rig, detector: Any, *, times: int = 7, runs: int = 20) -> float:
    """Frames a second of network, head and suppression on a batch that is there."""
    import torch

    program = detector._program(detector.batch_size, (416, 416))
    rates = []
    for _ in range(times):
        _wait(rig)
        started = time.perf_counter()
        with torch.inference_mode(), torch.cuda.stream(detector._stream):
            for _ in range(runs):
                program.run()
        _wait(rig)
        rates.append(runs * detector.batch_size / (time.perf_counter() - started))
    return round(statistics.median(rates), 1)


def _wait(rig: Rig) -> None:
    if rig.device != "cpu":
        import torch

        torch.cuda.synchronize()
