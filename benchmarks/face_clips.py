"""Generated clips in which every face is known: where it is, in each frame, by construction.

One public-domain face (scikit-image's astronaut, NASA) moves over made-up grounds: 12 to 200 px, up to eight at once,
entering, leaving, crossing, turning, hidden for 1 to 30 frames, moving up to half a face a frame, with motion blur,
cuts, noise and texture. A face counts where at least half of it is to be seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

_HEAD = (140, 12, 312, 196)
"""The astronaut's head in her picture, x1, y1, x2, y2."""
_FACE = (180, 62, 270, 178)
"""Her face, from the brows' upper end to the chin, ear to ear."""
_SEEN_SHARE = 0.5
_SAMPLES = 48
_OPAQUE = 0.96
_SHUTTER = 0.5
_EXPOSURES = 5


@dataclass(frozen=True)
class Pose:
    """Where a face is: its centre, width in pixels, turn (1 frontal, 0.6 three quarters), roll in degrees."""

    x: float
    y: float
    width: float
    turn: float = 1.0
    roll: float = 0.0


@dataclass(frozen=True)
class Actor:
    """A face over time: `pose` of a frame (also between two), the frames it is there, when a panel hides it."""

    pose: Callable[[float], Pose]
    first: int
    last: int
    hidden: tuple[tuple[int, int], ...] = ()
    mirrored: bool = False
    light: float = 1.0


@dataclass(frozen=True)
class Scene:
    """A clip to be made: a seed for its ground, actors, and the frames at which the ground changes."""

    name: str
    actors: tuple[Actor, ...]
    frames: int = 120
    size: tuple[int, int] = (640, 360)
    fps: int = 25
    seed: int = 0
    noise: float = 4.0
    cuts: tuple[int, ...] = ()


@dataclass
class Truth:
    """Boxes by construction: for each frame float32 (N, 4), x1, y1, x2, y2 in pixels, inside the picture.

    `boxes` are the faces that count; `partly` those of which less than half, but something, is to be seen: hiding one
    of them is no waste, and not hiding it no leak.
    """

    boxes: list[npt.NDArray[np.float32]] = field(default_factory=list)
    partly: list[npt.NDArray[np.float32]] = field(default_factory=list)


def scenes(*, quick: bool = False, seed: int = 0) -> list[Scene]:
    """The standard set. Another seed gives other clips of the same kinds."""
    kinds = [_steady, _crossing, _turning, _occluded, _fast, _tiny, _crowd, _cuts, _entering, _empty]
    made = [kind(np.random.default_rng([seed, number]), number) for number, kind in enumerate(kinds)]
    return made[:4] if quick else made


def render(scene: Scene, path: Path) -> Truth:
    """Write the clip as H.264 MP4 and return where its faces are."""
    truth = Truth()
    random = np.random.default_rng([scene.seed, 7])
    starts = [0, *scene.cuts]
    grounds = [_ground(random, scene.size) for _ in starts]
    head = _Head()
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=scene.fps, options={"crf": "17", "preset": "veryfast"})
        stream.width, stream.height = scene.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, scene.fps)
        for number in range(scene.frames):
            ground = grounds[sum(1 for s in starts if s <= number) - 1]
            picture, boxes, partly = _frame(scene, number, ground, head, random)
            truth.boxes.append(boxes)
            truth.partly.append(partly)
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return truth


class _Head:
    """The cut-out head, mip-mapped so that small ones are not aliased."""

    def __init__(self) -> None:
        from skimage import data

        x1, y1, x2, y2 = _HEAD
        picture = data.astronaut()[y1:y2, x1:x2, ::-1].astype(np.float32)
        h, w = picture.shape[:2]
        y, x = np.mgrid[0:h, 0:w]
        away = np.hypot((x - w / 2) / (w / 2), (y - h / 2) / (h / 2))
        alpha = np.clip((1.0 - away) / 0.08, 0, 1).astype(np.float32)
        self.picture = np.dstack([picture, alpha * 255])
        self.face = (_FACE[0] - x1, _FACE[1] - y1, _FACE[2] - x1, _FACE[3] - y1)

    def place(self, pose: Pose, mirrored: bool) -> npt.NDArray[np.float64]:
        """2×3 matrix from the head's pixels to the picture's."""
        x1, y1, x2, y2 = self.face
        scale = pose.width / (x2 - x1)
        angle = math.radians(pose.roll)
        sx = scale * pose.turn * (-1 if mirrored else 1)
        a = np.array(
            [[sx * math.cos(angle), -scale * math.sin(angle)], [sx * math.sin(angle), scale * math.cos(angle)]]
        )
        centre = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
        return np.hstack([a, (np.array([pose.x, pose.y]) - a @ centre)[:, None]])

    def box(self, pose: Pose, mirrored: bool) -> npt.NDArray[np.float32]:
        """The box around the face's ellipse in the picture."""
        m = self.place(pose, mirrored)
        x1, y1, x2, y2 = self.face
        half = np.array([(x2 - x1) / 2, (y2 - y1) / 2])
        reach = np.sqrt(((m[:, :2] * half) ** 2).sum(axis=1))
        return np.array([pose.x - reach[0], pose.y - reach[1], pose.x + reach[0], pose.y + reach[1]], np.float32)

    def is_face(self, pose: Pose, mirrored: bool, points: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which of the picture's points (..., 2) lie in the face's ellipse."""
        x1, y1, x2, y2 = self.face
        return self._inside(pose, mirrored, points, ((x1 + x2) / 2, (y1 + y2) / 2), ((x2 - x1) / 2, (y2 - y1) / 2))

    def hides(self, pose: Pose, mirrored: bool, points: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which of the picture's points (..., 2) the head is painted over, more than half opaque."""
        h, w = self.picture.shape[:2]
        return self._inside(pose, mirrored, points, (w / 2, h / 2), (_OPAQUE * w / 2, _OPAQUE * h / 2))

    def _inside(
        self,
        pose: Pose,
        mirrored: bool,
        points: npt.NDArray[np.float64],
        centre: tuple[float, float],
        half: tuple[float, float],
    ) -> npt.NDArray[np.bool_]:
        m = self.place(pose, mirrored)
        own = (points - m[:, 2]) @ np.linalg.inv(m[:, :2]).T
        return np.asarray((((own - centre) / half) ** 2).sum(axis=-1) <= 1)


def _frame(
    scene: Scene, number: int, ground: Picture, head: _Head, random: np.random.Generator
) -> tuple[Picture, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    width, height = scene.size
    picture = ground.astype(np.float32)
    here = [a for a in scene.actors if a.first <= number <= a.last]
    for actor in here:
        _draw(picture, head, actor, number)
    boxes, partly, panels = [], [], []
    for actor in here:
        for start, end in actor.hidden:
            if start <= number < end:
                box = head.box(actor.pose(number), actor.mirrored)
                w, h = box[2] - box[0], box[3] - box[1]
                panels.append(np.maximum(0, box + np.array([-0.7 * w, -0.8 * h, 0.7 * w, 0.6 * h], np.float32)))
    panels = [panel.astype(int).astype(np.float32) for panel in panels]
    for x1, y1, x2, y2 in (panel.astype(int) for panel in panels):
        picture[y1:y2, x1:x2] = (90, 120, 100)
    for index, actor in enumerate(here):
        share, visible = _visible(head, actor, here[index + 1 :], panels, number, scene.size)
        if share >= _SEEN_SHARE:
            boxes.append(visible)
        elif share > 0:
            partly.append(visible)
    if scene.noise:
        picture += random.normal(0, scene.noise, (height, width, 1)).astype(np.float32)
    listed = [np.array(some, np.float32).reshape(-1, 4) for some in (boxes, partly)]
    return np.clip(picture, 0, 255).astype(np.uint8), listed[0], listed[1]


def _visible(
    head: _Head,
    actor: Actor,
    in_front: Sequence[Actor],
    panels: Sequence[npt.NDArray[np.float32]],
    number: int,
    size: tuple[int, int],
) -> tuple[float, npt.NDArray[np.float32]]:
    """Share of the face's ellipse that is to be seen, and the box around that part.

    What lies in front hides what it is painted over: a panel its rectangle, another actor the whole head, hair too.
    """
    pose = actor.pose(number)
    box = head.box(pose, actor.mirrored)
    step = (box[2:] - box[:2]) / _SAMPLES
    x, y = (box[i] + (np.arange(_SAMPLES) + 0.5) * step[i] for i in range(2))
    points = np.stack(np.meshgrid(x, y), axis=-1)
    face = head.is_face(pose, actor.mirrored, points)
    seen = face & (points >= 0).all(axis=-1) & (points < size).all(axis=-1)
    for other in in_front:
        seen &= ~head.hides(other.pose(number), other.mirrored, points)
    for panel in panels:
        seen &= ~((points >= panel[:2]) & (points < panel[2:])).all(axis=-1)
    if not seen.any():
        return 0.0, box
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    # a sample more on each side: the ellipse touches its box between two of them
    first = box[:2] + np.maximum(0, np.array([columns[0], rows[0]]) - 1) * step
    last = box[:2] + np.minimum(_SAMPLES, np.array([columns[-1], rows[-1]]) + 2) * step
    visible = np.clip(np.concatenate([first, last]), 0, [*size, *size])
    return float(seen.sum() / face.sum()), visible.astype(np.float32)


def _draw(picture: npt.NDArray[np.float32], head: _Head, actor: Actor, number: int) -> None:
    """Composite the head over an exposure of half a frame, centred on the frame's time."""
    height, width = picture.shape[:2]
    before, after = actor.pose(number - _SHUTTER / 2), actor.pose(number + _SHUTTER / 2)
    path = math.hypot(after.x - before.x, after.y - before.y)
    steps = 1 if path < 1.5 else _EXPOSURES
    total: npt.NDArray[np.float32] | None = None
    pose = actor.pose(number)
    reach = int(2.2 * max(pose.width, 8)) + int(path) + 4
    x1, y1 = max(0, int(pose.x) - reach), max(0, int(pose.y) - reach)
    x2, y2 = min(width, int(pose.x) + reach), min(height, int(pose.y) + reach)
    if x2 <= x1 or y2 <= y1:
        return
    source = head.picture
    shrink = 1.0
    while pose.width / (head.face[2] - head.face[0]) / shrink < 0.5:
        shrink /= 2
        source = cv2.resize(source, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    for step in range(steps):
        at = number + (step / max(1, steps - 1) - 0.5) * _SHUTTER if steps > 1 else float(number)
        m = head.place(actor.pose(at), actor.mirrored)
        m[:, :2] /= shrink
        m[:, 2] -= (x1, y1)
        layer = cv2.warpAffine(source, m, (x2 - x1, y2 - y1), flags=cv2.INTER_LINEAR)
        total = layer if total is None else total + layer
    assert total is not None
    total /= steps
    alpha = total[:, :, 3:] / 255
    part = picture[y1:y2, x1:x2]
    part[:] = part * (1 - alpha) + total[:, :, :3] * actor.light * alpha


def _ground(random: np.random.Generator, size: tuple[int, int]) -> Picture:
    """Texture over several scales, in colour."""
    width, height = size
    picture = np.full((height, width, 3), random.uniform(70, 160, 3), np.float32)
    for cells, strength in ((4, 40), (12, 25), (48, 18), (160, 10)):
        coarse = random.normal(0, strength, (cells * height // width + 2, cells, 3)).astype(np.float32)
        picture += cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        corner = random.uniform(0, 1, 2) * size
        shape = random.uniform(0.05, 0.3, 2) * size
        colour = tuple(float(c) for c in random.uniform(20, 235, 3))
        cv2.rectangle(picture, tuple(corner.astype(int)), tuple((corner + shape).astype(int)), colour, -1)
    return np.clip(picture, 0, 255).astype(np.uint8)


# --- the kinds ---


def _line(x: float, y: float, vx: float, vy: float, width: float, sway: float = 0.0, period: float = 40.0) -> Any:
    def pose(t: float) -> Pose:
        return Pose(x + vx * t + sway * math.sin(2 * math.pi * t / period), y + vy * t, width)

    return pose


def _drawn(r: np.random.Generator, *spans: tuple[float, float]) -> list[float]:
    return [float(r.uniform(*span)) for span in spans]


def _steady(r: np.random.Generator, n: int) -> Scene:
    actors = tuple(
        Actor(_line(160 + 300 * i, 180, 0, 0, w, sway=6), 0, 119, mirrored=bool(i)) for i, w in enumerate((60.0, 34.0))
    )
    return Scene("steady", actors, seed=int(r.integers(1 << 30)))


def _crossing(r: np.random.Generator, n: int) -> Scene:
    actors = tuple(
        Actor(_line(40 if i % 2 else 600, 90 + 60 * i, (4.5 if i % 2 else -4.5), 0, 30 + 14 * i), 0, 119)
        for i in range(4)
    )
    return Scene("crossing", actors, seed=int(r.integers(1 << 30)))


def _turning(r: np.random.Generator, n: int) -> Scene:
    def turner(x: float, width: float, period: float) -> Callable[[float], Pose]:
        def pose(t: float) -> Pose:
            phase = 2 * math.pi * t / period
            return Pose(x + 30 * math.sin(phase), 180, width, 0.8 + 0.2 * math.cos(2 * phase), 22 * math.sin(phase))

        return pose

    actors = tuple(Actor(turner(110 + 210 * i, 70 - 18 * i, 60 + 13 * i), 0, 119) for i in range(3))
    return Scene("turning", actors, seed=int(r.integers(1 << 30)))


def _occluded(r: np.random.Generator, n: int) -> Scene:
    actors = []
    for i, gap in enumerate((1, 4, 11, 30)):
        start = int(r.integers(25, 50))
        again = start + gap + int(r.integers(6, 14))
        actors.append(
            Actor(
                _line(90 + 150 * i, 180, 0.8 * (-1) ** i, 0, 44 + 6 * i),
                0,
                119,
                ((start, start + gap), (again, again + 3)),
            )
        )
    return Scene("occluded", tuple(actors), seed=int(r.integers(1 << 30)))


def _fast(r: np.random.Generator, n: int) -> Scene:
    def bouncer(width: float, speed: float, phase: float, y: float) -> Callable[[float], Pose]:
        span = 640 - 1.5 * width

        def pose(t: float) -> Pose:
            along = (phase + speed * t) % (2 * span)
            return Pose(0.75 * width + (along if along < span else 2 * span - along), y, width)

        return pose

    actors = tuple(
        Actor(bouncer(w, s * w, float(r.uniform(0, 600)), 80 + 100 * i), 0, 119)
        for i, (w, s) in enumerate(((64.0, 0.5), (46.0, 0.35), (36.0, 0.45)))
    )
    return Scene("fast", actors, seed=int(r.integers(1 << 30)))


def _tiny(r: np.random.Generator, n: int) -> Scene:
    actors = tuple(
        Actor(_line(60 + 75 * i, 120 + 40 * (i % 3), float(r.uniform(-0.6, 0.6)), 0, 12 + 1.5 * i), 0, 119)
        for i in range(8)
    )
    return Scene("tiny", actors, seed=int(r.integers(1 << 30)), noise=2.0)


def _crowd(r: np.random.Generator, n: int) -> Scene:
    actors = tuple(
        Actor(
            _line(*_drawn(r, (60, 580)), 70 + 75 * (i % 4), *_drawn(r, (-2.5, 2.5)), 0, *_drawn(r, (22, 60))),
            int(r.integers(0, 30)), int(r.integers(80, 119)), mirrored=bool(i % 2), light=float(r.uniform(0.7, 1.1)),
        )
        for i in range(8)
    )  # fmt: skip
    return Scene("crowd", actors, seed=int(r.integers(1 << 30)), noise=6.0)


def _cuts(r: np.random.Generator, n: int) -> Scene:
    cuts = (31, 58, 87)
    actors = []
    for start, end in zip((0, *cuts), (*cuts, 120), strict=True):
        for _ in range(int(r.integers(1, 4))):
            pose = _line(
                float(r.uniform(80, 560)),
                float(r.uniform(90, 270)),
                float(r.uniform(-3, 3)),
                0,
                float(r.uniform(24, 110)),
            )
            actors.append(Actor(lambda t, pose=pose, start=start: pose(t - start), start, end - 1))
    return Scene("cuts", tuple(actors), seed=int(r.integers(1 << 30)), cuts=cuts)


def _entering(r: np.random.Generator, n: int) -> Scene:
    def walker(start: int, width: float, speed: float, y: float) -> Callable[[float], Pose]:
        return lambda t: Pose(-width + speed * (t - start), y, width)

    actors = (
        Actor(walker(8, 200, 14, 190), 8, 119),
        Actor(walker(40, 80, 12, 90), 40, 119),
        Actor(walker(70, 40, 9, 300), 70, 119),
        Actor(lambda t: Pose(500, 100, 36), 47, 52),
        Actor(lambda t: Pose(420, 290, 30), 91, 93),
    )
    return Scene("entering", actors, seed=int(r.integers(1 << 30)))


def _empty(r: np.random.Generator, n: int) -> Scene:
    return Scene("empty", (), frames=80, seed=int(r.integers(1 << 30)), noise=8.0, cuts=(40,))
