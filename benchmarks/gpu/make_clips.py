"""Noisy 1080p H.264 clips for `benchmarks.gpu`, made by this code: a moving pattern, boxes that move across it, noise.

    python -m benchmarks.gpu.make_clips DIR [--clips 8] [--frames 400] [--distinct 400] [--codec libx264]

The same arguments give the same pictures. Noise makes the stream about as heavy as a camera's at night. With
`--distinct` fewer frames are drawn and encoded, and their packets repeated: a decoder has the same work with them.
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import numpy as np

WIDTH, HEIGHT, FPS = 1920, 1080, 25
NOISE_LEVELS = 8.0


def main(argv: list[str] | None = None) -> int:
    """Make the clips; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--distinct", type=int, default=None, help="frames drawn; the clip repeats them")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--codec", default="libx264", choices=["libx264", "libx265"])
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    distinct = options.distinct or options.frames
    tasks = [
        (options.folder / f"clip{n}.mp4", n, distinct, -(-options.frames // distinct), options.codec)
        for n in range(options.clips)
    ]
    with get_context("spawn").Pool(options.processes) as pool:
        pool.starmap(make_clip, tasks)
    sizes = [task[0].stat().st_size for task in tasks]
    seconds = options.frames / FPS
    print(f"{len(sizes)} clips of {seconds:g} s, {sum(sizes) / len(sizes) * 8 / seconds / 1e6:.1f} Mbit/s")
    return 0


def make_clip(path: Path, seed: int, frames: int, times: int, codec: str) -> None:
    """Write one clip of `frames` frames, `times` times over."""
    import av

    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pattern = np.stack([x / WIDTH * 200 + 20, y / HEIGHT * 200 + 20, (x + y) % 256], -1).astype(np.int16)
    noises = [rng.normal(0, NOISE_LEVELS, (HEIGHT, WIDTH, 3)).astype(np.int16) for _ in range(11)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "25", "g": "50"}
        stream.codec_context.thread_count = 2
        packets = []
        for number in range(frames):
            picture = np.roll(pattern, number * 4, axis=1) + noises[number % len(noises)]
            for box in range(6):
                left, top = (200 + 300 * box + number * (3 + box)) % (WIDTH - 120), 150 + 130 * box
                picture[top : top + 200, left : left + 80] = (30 * box, 255 - 40 * box, 120)
            frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            packets.extend(stream.encode(frame))
        packets.extend(stream.encode())
        for turn in range(times):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.stream, again.time_base, again.is_keyframe = stream, packet.time_base, packet.is_keyframe
                shift = round(turn * frames / FPS / packet.time_base)
                again.pts, again.dts, again.duration = packet.pts + shift, packet.dts + shift, packet.duration
                container.mux(again)


if __name__ == "__main__":
    sys.exit(main())
