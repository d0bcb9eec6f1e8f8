"""RetinaNet R50 with random weights, on frames of clips, against the bare model on a batch that is there."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu._rig import Clips, Rig, turns

BATCH = 16
CLIPS = 6


def measure(rig: Rig) -> dict[str, Any]:
    """Pictures a second, both in half precision and in batches of 16."""
    import torch

    from cv_platform.vision.detectors.torchvision_backend import TorchvisionDetector
    from cv_platform.vision.gpu.stream import detect_streams

    detector = TorchvisionDetector("retinanet_resnet50_fpn", weights=None, batch_size=BATCH, device=rig.device)
    detector.warmup()
    clips = rig.clip_list(CLIPS)
    batch = [torch.rand((3, 540, 960), device=rig.device, dtype=torch.float16) for _ in range(BATCH)]

    def bare() -> int:
        with torch.inference_mode():
            for _ in range(20):
                detector.model(batch)
        torch.cuda.synchronize()
        return 20 * BATCH

    def whole() -> int:
        count = 0
        for found in detect_streams(clips, Clips(5.0, rig.device), detector, streams=CLIPS):
            if found.error is not None:
                raise found.error
            count += found.detections is not None
        return count

    return turns({"bare model, batches of 16, fp16": bare, "end to end": whole}, rig.rounds)
