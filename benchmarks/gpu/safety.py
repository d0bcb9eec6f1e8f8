"""What a real GPU does where tests have a stand-in for it: too little memory, a CUDA error, nvJPEG's encoder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.gpu._rig import Rig

SHARES = (0.008, 0.015, 0.03, 0.06)
"""Of the GPU's memory, to make do with."""
BATCH = 512
TASKS = 6
POISON = 3


def measure(rig: Rig) -> dict[str, Any]:
    """First what leaves the GPU whole, then the error, in a process of its own."""
    if rig.device == "cpu":
        return {"left out": "there is no GPU"}
    return {"nvJPEG writes": written(rig), "out of memory": out_of_memory(rig), "a CUDA error": lost(rig)}


def out_of_memory(rig: Rig) -> dict[str, Any]:
    """By how much of the memory there may be: to which batch it came down, and whether the boxes are the same."""
    import numpy as np
    import torch

    from cv_platform.vision.video.decode import decode_sampled

    clip = rig.vtest or rig.clip_list(1)[0]
    pictures = [frame.image for frame, _ in zip(decode_sampled(clip, fps=2.0, long_side=None), range(64), strict=False)]
    expected = rig.detector(precision="fp32", batch_size=8).detect(pictures)
    results: dict[str, Any] = {}
    for share in SHARES:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(share)
        try:
            detector = rig.detector(precision="fp32", batch_size=BATCH)
            found = detector.detect(pictures * (BATCH // len(pictures)))
            same = all(
                len(one) == len(other) and np.allclose(one.boxes, other.boxes, atol=1)
                for one, other in zip(found, expected * (BATCH // len(pictures)), strict=True)
            )
            results[f"{share:.1%}"] = {"batch": detector.batch_size, "the same boxes": same}
            del detector
        except Exception as error:  # noqa: BLE001 - told among the results
            results[f"{share:.1%}"] = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    return {"asked for": BATCH, **results}


def written(rig: Rig) -> dict[str, Any]:
    """Pictures a second, by nvJPEG and by OpenCV on one core; how far each one's file is from the picture."""
    import cv2
    import numpy as np
    import torch

    from cv_platform.vision.gpu.jpeg import encode_jpegs
    from cv_platform.vision.video.decode import decode_sampled

    clip = rig.clip_list(1)[0]
    frames = [frame.image for frame, _ in zip(decode_sampled(clip, fps=None, long_side=960), range(128), strict=False)]
    rgb = [torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1).contiguous() for frame in frames]
    tensors = [picture.to(rig.device) for picture in rgb]

    def by_opencv() -> list[bytes]:
        return [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes() for frame in frames]

    results = {}
    for name, call in (("nvJPEG", lambda: encode_jpegs(tensors)), ("OpenCV, one core", by_opencv)):
        call()
        started = time.perf_counter()
        files = call()
        seconds = time.perf_counter() - started
        decoded = [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR) for file in files]
        errors = [float(np.mean((a.astype(float) - b) ** 2)) for a, b in zip(decoded, frames, strict=True)]
        results[name] = {
            "pictures_per_s": round(len(files) / seconds, 1),
            "mean bytes": round(sum(map(len, files)) / len(files)),
            "least PSNR, dB": round(10 * np.log10(255**2 / max(*errors, 1e-9)), 2),
        }
    return results


def lost(rig: Rig) -> dict[str, Any]:
    """One task of six provokes a device-side assertion in its worker."""
    from cv_platform.vision.gpu.stream import serve_streams
    from cv_platform.vision.gpu.workers import WorkersGone, spread

    serve = partial(serve_streams, make_detector=partial(rig.detector), open_source=partial(_frames, rig), streams=2)
    result: dict[str, Any] = {"done": [], "released": [], "the others": "none were left"}
    started = time.monotonic()
    try:
        for told in spread(range(TASKS), serve, gpus=[0], in_hand=3):
            if told.ended:
                result["released" if told.released else "done"].append(told.task)
    except WorkersGone:
        result["the others"] = "told as not begun"
    return {**result, "seconds": round(time.monotonic() - started, 1)}


def _frames(rig: Rig, task: int) -> Iterator[Any]:
    """A short source; one of them breaks the GPU for its process."""
    import numpy as np
    import torch

    from cv_platform.vision.gpu.stream import Item

    for n in range(8):
        yield Item(n, n, np.full((360, 480, 3), 114, np.uint8))  # type: ignore[arg-type]
        if task == POISON and n == 4:
            torch.zeros(4, device=rig.device)[torch.tensor([1 << 20], device=rig.device)].cpu()
