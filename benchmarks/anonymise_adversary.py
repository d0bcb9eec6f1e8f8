"""What an adversary gets out of an anonymised clip, as it is published: encoded, with real models.

    python -m benchmarks.anonymise_adversary [--frames 150] [--keys 8] [--json FILE]

A real face drifts, by known fractions of a pixel, over a textured ground with sound and metadata; the clip is
anonymised at the default policy, once by each method, and decoded again. Gain: how much better the mean of 100 frames,
registered by the true movement, correlates (high-pass, inside the hidden region) with the original than one frame
does on average. Found: share of frames in which a detector still finds a face, score 0.2, with its centre inside what
is hidden. A mosaic's gain depends on its key, a new one each time: it is measured with several, and the worst counts.
Left: what PyAV finds in the file besides pictures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from benchmarks._timing import environment
from cv_platform.vision.anonymise import AnonymisePolicy
from cv_platform.vision.anonymise.clip import anonymise_clip
from cv_platform.vision.anonymise.policy import detector_arguments, verifier_arguments
from cv_platform.vision.anonymise.regions import HidingPlan
from cv_platform.vision.anonymise.verification import extra_content

Luma = npt.NDArray[np.float64]
_SIZE = (640, 480)
_AT = (260.0, 170.0)
_FPS = 25
_MOST_GAIN, _MOST_FOUND = 0.02, 0.01


def render(path: Path, frames: int) -> tuple[list[tuple[float, float]], Luma]:
    """Write the clip; return how far the face has moved in each frame, pixels, and the first frame's luma."""
    from skimage import data

    random = np.random.default_rng(3)
    face = np.ascontiguousarray(data.astronaut()[40:200, 150:300, ::-1])
    ground = cv2.resize(random.integers(60, 160, (60, 80, 3)).astype(np.uint8), _SIZE)
    shifts = [(12 * np.sin(n / 17) + random.uniform(-1, 1), 9 * np.cos(n / 23)) for n in range(frames)]
    luma: Luma | None = None
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=_FPS, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = *_SIZE, "yuv420p"
        sound: Any = out.add_stream("aac", rate=8000)
        out.metadata.update({"title": "a secret", "location": "+52.5-013.4/"})
        for number, (x, y) in enumerate(shifts):
            picture = ground.copy()
            matrix = np.array([[1, 0, _AT[0] + x], [0, 1, _AT[1] + y]])
            cv2.warpAffine(face, matrix, _SIZE, dst=picture, borderMode=cv2.BORDER_TRANSPARENT)
            noisy = np.clip(picture + random.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(noisy, format="bgr24")
            frame.pts = number
            if luma is None:
                luma = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float64)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * frames // _FPS), np.float32), "fltp", "mono")
        noise.sample_rate = 8000
        out.mux(sound.encode(noise))
        out.mux(sound.encode(None))
    assert luma is not None
    return shifts, luma


def attack(
    source: Path, output: Path, method: Any, shifts: list[tuple[float, float]], original: Luma
) -> dict[str, Any]:
    """Anonymise by one method, and try all three."""
    from cv_platform.settings import get_settings
    from cv_platform.vision.detectors.build import make_detector
    from cv_platform.vision.models import ModelRegistry

    settings = get_settings()
    models = ModelRegistry(cache_dir=settings.model_cache, model_dir=settings.model_dir)
    policy = AnonymisePolicy(method=method)
    plans: list[HidingPlan] = []
    certificate = anonymise_clip(
        source, output, policy=policy, on_plan=plans.append,
        detector=make_detector(["centerface"], models=models, threads=0, **detector_arguments(policy)),
        verifier=make_detector(["yunet"], models=models, threads=0, **verifier_arguments(policy)),
    )  # fmt: skip
    eyes = {n: make_detector([n], models=models, threads=0, score_threshold=0.2) for n in ("centerface", "yunet")}
    found = dict.fromkeys(eyes, 0)
    registered = []
    with av.open(str(output)) as clip:
        for number, frame in enumerate(clip.decode(video=0)):
            picture = frame.to_ndarray(format="bgr24")
            regions = plans[-1].regions(number)
            for name, eye in eyes.items():
                boxes = eye.detect([picture])[0].boxes
                x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
                inside = [((r.x1 <= x) & (x <= r.x2) & (r.y1 <= y) & (y <= r.y2)).any() for r in regions]
                found[name] += bool(any(inside))
            moved = shifts[number][0] - shifts[0][0], shifts[number][1] - shifts[0][1]
            back = np.array([[1, 0, -moved[0]], [0, 1, -moved[1]]])
            luma = frame.to_ndarray(format="gray").astype(np.float64)
            registered.append(cv2.warpAffine(luma, back, _SIZE).astype(np.float64))
    r = plans[-1].regions(0)[0]
    # 16 pixels inside, so that the region's own moving edges are not taken for knowledge of the face
    inner = slice(r.y1 + 16, r.y2 - 16), slice(r.x1 + 16, r.x2 - 16)
    hundred = registered[:100]
    one = float(np.mean([_alike(f[inner], original[inner]) for f in hundred]))
    many = _alike(np.mean(hundred, axis=0)[inner], original[inner])
    return {
        "frames": certificate.frames,
        "region_px": [r.x2 - r.x1, r.y2 - r.y1],
        "correlation_of_one": round(one, 4),
        "correlation_of_the_mean": round(many, 4),
        "gain": round(many - one, 4),
        "found_share": {name: round(count / len(registered), 4) for name, count in found.items()},
        "left": extra_content(output, keep_audio=False),
        "secret_in_file": b"secret" in output.read_bytes(),
        "bar_met": many - one <= _MOST_GAIN and max(found.values()) <= _MOST_FOUND * len(registered)
        and not extra_content(output, keep_audio=False),
    }  # fmt: skip


def _alike(a: Luma, b: Luma) -> float:
    a, b = (np.asarray(part - cv2.GaussianBlur(part, (0, 0), 4)) for part in (a, b))
    return abs(float(np.corrcoef(a.ravel(), b.ravel())[0, 1])) if a.std() > 1e-6 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=150, help="of the clip; at least 100")
    parser.add_argument("--keys", type=int, default=8, help="of the mosaic")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    results: dict[str, Any] = {"environment": environment(("av", "onnxruntime"))}
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "in.mp4"
        shifts, original = render(source, max(100, options.frames))
        for method in ("solid", "mosaic", "blur"):
            keys = options.keys if method == "mosaic" else 1
            tries = [attack(source, Path(name) / f"{method}.mp4", method, shifts, original) for _ in range(keys)]
            results[method] = max(tries, key=lambda tried: tried["gain"])
            results[method]["bar_met"] = all(tried["bar_met"] for tried in tries)
            results[method]["gains"] = [tried["gain"] for tried in tries]
    print(json.dumps(results, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
