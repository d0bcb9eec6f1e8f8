"""Sample footage: people walk past a fixed camera. Their face is scikit-image's public-domain astronaut picture.

A scene is a function of time alone, so clips that follow each other show one unbroken movement, over midnight too.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

FPS = 10
WIDTH, HEIGHT = 640, 360

_SPEED_PX_S = 60.0
_FIRST_WALKER_S = -60.0  # the scene has been going on for a while when the first clip starts
_GROUND = 354  # pixels from the top, where feet stand

_SUIT, _SLEEVE, _TROUSERS, _SHOE = (40, 80, 200), (35, 70, 180), (50, 35, 30), (20, 20, 20)  # BGR


@dataclass(frozen=True)
class Scene:
    """What one camera looks at: a light wall, and people who walk by in one direction.

    Attributes:
        seed: decides the wall and who walks when.
        leftwards: the direction in which they walk.
        height: of a person, pixels.
        spacing_s: seconds between two people.
    """

    seed: int
    leftwards: bool = False
    height: int = 300
    spacing_s: float = 2.8

    def background(self) -> NDArray[np.uint8]:
        """The empty scene, (360, 640, 3) BGR: a wall, a floor, some texture for a codec to chew on."""
        random = np.random.default_rng(self.seed)
        picture = np.full((HEIGHT, WIDTH, 3), 195.0) * random.uniform(0.92, 1.0, 3)
        coarse = random.normal(0.0, 5.0, (HEIGHT // 20, WIDTH // 20)).astype(np.float32)
        picture = picture + cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)[:, :, None]
        picture[int(HEIGHT * 0.72) :] *= 0.88  # the floor
        for column in range(60, WIDTH, 160):  # seams of the wall
            picture[: int(HEIGHT * 0.72), column : column + 2] *= 0.95
        return np.clip(picture, 0, 255).astype(np.uint8)

    def frame(self, background: NDArray[np.uint8], seconds: float) -> NDArray[np.uint8]:
        """The scene at a moment, `seconds` since its start: (360, 640, 3) BGR."""
        picture = background.copy()
        offset = (self.seed * 0.37) % self.spacing_s
        number = int((seconds - _FIRST_WALKER_S - offset) // self.spacing_s)
        while number >= 0:
            walked = (seconds - _FIRST_WALKER_S - offset - number * self.spacing_s) * _SPEED_PX_S
            person, mask = _walker(self.height, round(12 * (seconds * 0.9 + number * 0.37)) % 12, self.leftwards)
            width = person.shape[1]
            if walked > WIDTH + width:
                break
            left = WIDTH - walked if self.leftwards else walked - width
            _paste(picture, person, mask, round(left), _GROUND - self.height)
            number -= 1
        return picture


def write_clip(path: Path, scene: Scene, *, start_s: float, duration_s: float) -> None:
    """Write a stretch of a scene as H.264 MP4; the same arguments give the same pictures."""
    background = scene.background()
    scratch = path.with_suffix(".part.mp4")
    with av.open(str(scratch), "w") as container:
        # One thread: the encoder's output then depends on the pictures alone.
        stream = container.add_stream(
            "libx264", rate=FPS, options={"preset": "veryfast", "crf": "23", "threads": "1", "g": str(FPS * 2)}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for index in range(round(duration_s * FPS)):
            picture = scene.frame(background, start_s + index / FPS)
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    scratch.replace(path)


def write_corrupt_clip(path: Path, scene: Scene, *, start_s: float) -> None:
    """A clip as a camera leaves it whose power fails: cut off before its index was written."""
    write_clip(path, scene, start_s=start_s, duration_s=2.0)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 5])


@lru_cache(maxsize=64)
def _walker(height: int, step: int, mirrored: bool) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A person at one of twelve steps of a stride, (height, w, 3) BGR, and how opaque each pixel is, (height, w, 1)."""
    width = round(height * 0.5)
    middle = width // 2
    swing = float(np.sin(2 * np.pi * step / 12))
    picture = np.full((height, width, 3), 190, np.uint8)  # about the wall's shade: soft edges blend into it
    mask = np.zeros((height, width), np.uint8)

    def draw(points: list[tuple[float, float]], colour: tuple[int, int, int], thickness: float) -> None:
        """A limb: x is measured from the middle and y from the top, in heights; thickness 0 fills."""
        line = np.array([(middle + round(x * height), round(y * height)) for x, y in points], np.int32)
        for canvas, shade in ((picture, colour), (mask, (255, 255, 255))):
            if thickness:
                cv2.polylines(canvas, [line], False, shade, max(2, round(thickness * height)))
            else:
                cv2.fillPoly(canvas, [line], shade)

    for side in (1, -1):
        lift = max(0.0, side * swing) * 0.03
        foot = side * (0.04 + 0.054 * abs(swing))
        draw([(side * 0.036, 0.56), (side * (0.036 + 0.027 * abs(swing)), 0.77), (foot, 0.94 - lift)], _TROUSERS, 0.085)
        draw([(foot - 0.02, 0.975 - lift), (foot + 0.03, 0.975 - lift)], _SHOE, 0.035)
    draw([(-0.1, 0.258), (0.1, 0.258), (0.085, 0.58), (-0.085, 0.58)], _SUIT, 0)
    for side in (1, -1):
        draw([(side * 0.1, 0.28), (side * 0.12, 0.45), (side * 0.115 + swing * 0.015, 0.55)], _SLEEVE, 0.05)

    bust, bust_mask = _bust(round(height * 0.3))
    place = (slice(0, bust.shape[0]), slice(middle - bust.shape[1] // 2, middle - bust.shape[1] // 2 + bust.shape[1]))
    picture[place] = np.where(bust_mask[:, :, None] > 0, bust, picture[place])
    mask[place] = np.maximum(mask[place], bust_mask)
    if mirrored:
        picture, mask = np.ascontiguousarray(picture[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
    return picture, cv2.GaussianBlur(mask, (0, 0), 1.0)[:, :, None].astype(np.float32) / 255.0


def _bust(height: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Head and shoulders of the portrait, (height, w, 3) BGR, and where they are, (height, w) 0 or 255."""
    from skimage import data

    astronaut = np.asarray(data.astronaut())  # type: ignore[no-untyped-call]
    portrait = np.ascontiguousarray(astronaut[0:310, 95:365, ::-1])
    width = round(270 * height / 310)
    picture = cv2.resize(portrait, (width, height), interpolation=cv2.INTER_AREA)
    mask = np.zeros((height, width), np.uint8)
    head = (round(width * 0.49), round(height * 0.32)), (round(width * 0.26), round(height * 0.33))
    cv2.ellipse(mask, *head, 0, 0, 360, 255, -1)
    shoulders = (width // 2, height), (round(width * 0.44), round(height * 0.42))
    cv2.ellipse(mask, *shoulders, 0, 180, 360, 255, -1)
    return picture.astype(np.uint8), mask


def _paste(
    picture: NDArray[np.uint8], person: NDArray[np.uint8], mask: NDArray[np.float32], left: int, top: int
) -> None:
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + person.shape[1], WIDTH), min(top + person.shape[0], HEIGHT)
    if x1 >= x2 or y1 >= y2:
        return
    inside = (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))
    under = picture[y1:y2, x1:x2]
    blended = person[inside] * mask[inside] + under * (1.0 - mask[inside])
    picture[y1:y2, x1:x2] = blended.astype(np.uint8)
