"""A plain torch loop: cv2 decodes, torchvision transforms each frame, fp32, batches of 16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gpu._rig import Rig, end_to_end, turns, without_fused_kernels

BATCH = 16


def measure(rig: Rig) -> dict[str, Any]:
    """Frames decoded a second, every fifth of them looked at."""
    import torch
    from torchvision.ops import batched_nms
    from torchvision.transforms import v2

    from cv_platform.vision.gpu.boxes import HEADS
    from cv_platform.vision.gpu.network import OnnxNetwork

    content, values = rig.model()
    with without_fused_kernels():
        network = OnnxNetwork(content).eval().to(rig.device)
    prepare = v2.Compose([v2.ToImage(), v2.Resize((234, 416), antialias=True), v2.ToDtype(torch.float32, scale=False)])
    detector = rig.detector()
    clips = rig.clip_list()

    def flush(frames: list[Any]) -> None:
        batch = torch.stack([torch.nn.functional.pad(f, (0, 0, 0, 182), value=114) for f in frames]).to(rig.device)
        with torch.inference_mode():
            dense = HEADS["yolox"](network(batch), 416, 416)
        for boxes, scores, labels in zip(*dense, strict=True):
            keep = scores > values["score_threshold"]
            kept = batched_nms(boxes[keep], scores[keep], labels[keep], values["iou_threshold"])
            boxes[keep][kept].cpu()

    def plain(clip: Path) -> int:
        import cv2

        count, capture, frames = 0, cv2.VideoCapture(str(clip)), []
        while capture.grab():
            count += 1
            if count % 5 != 1:
                continue
            _, picture = capture.retrieve()
            frames.append(prepare(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)))
            if len(frames) == BATCH:
                flush(frames)
                frames = []
        if frames:
            flush(frames)
        return count

    return turns(
        {"plain torch loop": lambda: plain(clips[0]), "ours": lambda: end_to_end(rig, detector, clips, 5.0)}, rig.rounds
    )
