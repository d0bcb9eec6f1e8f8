"""Preprocessing against the plain loop that people write: resize, cvtColor, astype / 255, transpose.

    python -m benchmarks.preprocess [--cores 2] [--rounds 9] [--json FILE]

Pictures are made up (smooth colour, sensor noise); what they show does not change how long anything takes, except JPEG
decoding. OpenCV's own threads are left as they are on both sides. The plain loop is timed twice: with its frames put
into one contiguous batch, which is what a network takes and what ours gives, and without that last copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks._timing import Case, arguments, compare, pin_cores, report

FRAMES = 16


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.set_defaults(cores=2, rounds=9)
    options = parser.parse_args()
    pin_cores(options.cores)
    import cv2
    import numpy as np

    from cv_platform.vision.preprocess import Preprocessor

    cv2.setNumThreads(options.cores)
    cases: list[Case] = []
    for (height, width), size in (((1080, 1920), 640), ((1080, 1920), 416), ((720, 1280), 640), ((480, 640), 416)):
        frames = [picture(height, width, seed) for seed in range(FRAMES)]
        files = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
        stretch = Preprocessor((size, size), fit="stretch", threads=options.cores)
        boxed = Preprocessor((size, size), threads=options.cores)
        for name, ours, plain in (
            ("stretch", lambda p=stretch, f=frames: p(f), lambda f=frames, s=size: plain_loop(f, s, stretched)),
            ("letterbox", lambda p=boxed, f=frames: p(f), lambda f=frames, s=size: plain_loop(f, s, letterboxed)),
            (
                "jpeg stretch",
                lambda p=stretch, f=files: p.from_jpegs(f),
                lambda f=files, s=size: plain_loop([decoded(file) for file in f], s, stretched),
            ),
        ):
            difference = float(np.abs(ours().tensor - np.stack(plain())).max())
            facts = {"greatest difference": f"{difference:.2e} (allowed {1 / 255:.2e})"}
            case = f"{name} {width}x{height} to {size}"
            contenders: dict[str, Callable[[], object]] = {
                "cv_platform": ours,
                "plain loop, into one batch": lambda p=plain: np.stack(p()),
                "plain loop, views in a list": plain,
            }
            cases.append(compare(case, contenders, rounds=options.rounds, units=FRAMES, facts=facts))
    report(f"preprocessing, batches of {FRAMES}, frames/s", cases, json_path=options.json)


def picture(height: int, width: int, seed: int) -> Any:
    """Smooth colours and some noise, BGR uint8."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.integers(0, 256, (9, 16, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def plain_loop(frames: Any, size: int, fit: Callable[[Any, int], Any]) -> Any:
    """One frame after the other, one temporary after the other."""
    import cv2
    import numpy as np

    return [
        (cv2.cvtColor(fit(frame, size), cv2.COLOR_BGR2RGB).astype(np.float32) / 255).transpose(2, 0, 1)
        for frame in frames
    ]


def stretched(frame: Any, size: int) -> Any:
    """Resized without its aspect ratio."""
    import cv2

    return cv2.resize(frame, (size, size))


def letterboxed(frame: Any, size: int) -> Any:
    """Resized with its aspect ratio, grey above and below."""
    import cv2
    import numpy as np

    scale = min(size / frame.shape[0], size / frame.shape[1])
    height, width = round(frame.shape[0] * scale), round(frame.shape[1] * scale)
    canvas = np.full((size, size, 3), 114, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = cv2.resize(frame, (width, height))
    return canvas


def decoded(file: bytes) -> Any:
    """A JPEG file as BGR."""
    import cv2
    import numpy as np

    return cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)


if __name__ == "__main__":
    main()
