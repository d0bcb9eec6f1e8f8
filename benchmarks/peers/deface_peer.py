"""deface 1.5 as a process that serves clips: run by the Python of deface's own environment, not by ours.

    python3 -m venv VENV && VENV/bin/pip install deface==1.5.0 onnx onnxruntime
    python -m benchmarks.anonymise --peer deface --peer-python VENV/bin/python …

A line of JSON in: {"clip", "output", "drop", "seed"}; a line out: {"seconds", "frames", "boxes"}, the boxes as deface
hides them (ellipses inside). Its defaults are kept: threshold 0.2, mask scale 1.3, blur, libx264. `drop` loses that
share of its detections, as the fault point does with ours.
"""

import json
import random
import sys
import time
import warnings


def main():
    warnings.filterwarnings("ignore")
    import deface.deface as tool
    import onnx  # noqa: F401 - without it deface falls back to another backend
    from deface.centerface import CenterFace

    answers = sys.stdout
    sys.stdout = sys.stderr
    network = CenterFace(in_shape=None, backend="onnxrt", override_execution_provider="CPUExecutionProvider")
    hide = tool.anonymize_frame
    state = {"drop": 0.0, "seed": 0, "boxes": []}

    def recording(dets, frame, mask_scale, **settings):
        chance = random.Random(f"{state['seed']}/{len(state['boxes'])}")
        dets = dets[[chance.random() >= state["drop"] for _ in range(len(dets))]] if len(dets) else dets
        boxes = []
        for det in dets:
            x1, y1, x2, y2 = tool.scale_bb(*det[:4].astype(int), mask_scale)
            boxes.append(
                [int(v) for v in (max(0, x1), max(0, y1), min(frame.shape[1] - 1, x2), min(frame.shape[0] - 1, y2))]
            )
        state["boxes"].append(boxes)
        return hide(dets, frame, mask_scale=mask_scale, **settings)

    tool.anonymize_frame = recording
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        state.update(drop=request["drop"], seed=request["seed"], boxes=[])
        started = time.perf_counter()
        tool.video_detect(
            ipath=request["clip"],
            opath=request["output"],
            centerface=network,
            threshold=0.2,
            enable_preview=False,
            cam=False,
            nested=False,
            replacewith="blur",
            mask_scale=1.3,
            ellipse=True,
            draw_scores=False,
            ffmpeg_config={"codec": "libx264"},
            replaceimg=None,
            keep_audio=False,
            mosaicsize=20,
        )
        seconds = time.perf_counter() - started
        answer = {"seconds": seconds, "frames": len(state["boxes"]), "boxes": state["boxes"]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
