"""Generated faces: what counts as seen is what the picture shows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("skimage", reason="the bench extra is not installed")

from benchmarks import face_clips
from benchmarks.face_clips import Actor, Pose, Scene

SIZE = (320, 200)


def actor(x: float, width: float = 60.0, hidden: tuple[tuple[int, int], ...] = ()) -> Actor:
    return Actor(lambda t: Pose(x, 100, width), 0, 0, hidden)


def truth(*actors: Actor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    scene = Scene("test", actors, frames=1, size=SIZE, noise=0.0)
    ground = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    _, boxes, partly = face_clips._frame(scene, 0, ground, face_clips._Head(), np.random.default_rng(0))
    return boxes, partly


@pytest.mark.parametrize(
    ("front", "counted", "partly"),
    [
        ((), 1, 0),
        ((actor(100),), 1, 0),  # right over it: nothing of the one behind is to be seen
        ((actor(260),), 2, 0),
        ((actor(175),), 2, 0),  # only its hair touches the face
        ((actor(145),), 1, 1),  # half of the face box is bare, but hair lies over it
        ((actor(260, hidden=((0, 1),)),), 1, 0),
    ],
    ids=["alone", "behind", "apart", "touched", "under hair", "other behind a panel"],
)
def test_a_face_counts_by_what_is_to_be_seen_of_it(front: tuple[Actor, ...], counted: int, partly: int) -> None:
    boxes, hardly = truth(actor(100), *front)
    assert (len(boxes), len(hardly)) == (counted, partly)


def test_a_face_alone_has_its_whole_box() -> None:
    boxes, _ = truth(actor(100))
    height = 60.0 * (178 - 62) / (270 - 180)
    assert boxes[0] == pytest.approx([70, 100 - height / 2, 130, 100 + height / 2], abs=0.1)


def test_a_panel_hides_the_face_whole() -> None:
    assert [len(some) for some in truth(actor(100, hidden=((0, 1),)))] == [0, 0]


def test_a_face_over_the_edge_is_boxed_inside_the_picture() -> None:
    boxes, _ = truth(actor(10))
    assert boxes[0][0] == 0
    assert boxes[0][2] == pytest.approx(40, abs=0.1)
