"""RetinaNet R50 with random weights, on frames of clips, against the bare model on a batch that is there.

Torchvision's model suppresses in Python, so that one process leaves a third of the GPU idle with nothing to decode:
both are also measured with two processes, and ours with few and with many decoding threads.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.gpu._processes import Runs, started
from benchmarks.gpu._rig import Clips, Rig, turns

BATCH = 16
BARE_BATCHES = 40
MOST_STREAMS = 6


def measure(rig: Rig) -> dict[str, Any]:
    """Pictures a second, both in half precision and in batches of 16."""
    with ExitStack() as stack:
        one, two = (stack.enter_context(started(rig, count, bare_or_whole)) for count in (1, 2))
        return turns(
            {
                "bare model, one process": partial(one.run, "bare"),
                "end to end, one process, 2 decoding threads": partial(one.run, "whole", 2),
                "end to end, one process, 6 decoding threads": partial(one.run, "whole", MOST_STREAMS),
                "bare model, two processes": partial(two.run, "bare"),
                "end to end, two processes, 2 decoding threads each": partial(two.run, "whole", 2),
            },
            rig.rounds,
        )


def bare_or_whole(rig: Rig) -> Runs:
    """The bare model, and frames of clips through it."""
    import torch

    from cv_platform.vision.detectors.torchvision_backend import TorchvisionDetector
    from cv_platform.vision.gpu.stream import detect_streams

    detector = TorchvisionDetector("retinanet_resnet50_fpn", weights=None, batch_size=BATCH, device=rig.device)
    detector.warmup()
    clips = rig.clip_list()
    batch = [torch.rand((3, 540, 960), device=rig.device, dtype=torch.float16) for _ in range(BATCH)]

    def bare() -> int:
        with torch.inference_mode():
            for _ in range(BARE_BATCHES):
                detector.model(batch)
        if rig.device != "cpu":
            torch.cuda.synchronize()
        return BARE_BATCHES * BATCH

    def whole(streams: int) -> int:
        count = 0
        for found in detect_streams(clips, Clips(5.0, rig.device), detector, streams=streams):
            if found.error is not None:
                raise found.error
            count += found.detections is not None
        return count

    return {"bare": bare, "whole": whole}
