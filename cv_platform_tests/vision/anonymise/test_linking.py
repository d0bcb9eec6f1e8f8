"""Tracks over the whole clip: what is linked, bridged, extended, held; and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cv_platform.vision.anonymise import AnonymisePolicy
from cv_platform.vision.anonymise.linking import link
from cv_platform.vision.anonymise.mp4 import IDENTITY_MATRIX
from cv_platform.vision.anonymise.proof import check_coverage, frames_to_verify
from cv_platform.vision.anonymise.regions import HidingPlan, covered_share
from cv_platform.vision.anonymise.sightings import FrameSightings
from cv_platform.vision.anonymise.source import Geometry
from cv_platform.vision.classes import FACE

GEOMETRY = Geometry(640, 360, 0, IDENTITY_MATRIX, 25, 1, None, (2, 2, 2, False), True)
POLICY = AnonymisePolicy()
FRAMES = 100

Boxes = list[tuple[float, float, float, float]]


def seen(boxes: Boxes, score: float = 0.9) -> FrameSightings:
    n = len(boxes)
    return FrameSightings(
        np.array(boxes, np.float32).reshape(-1, 4), np.full(n, score, np.float32), np.full(n, FACE, np.int16)
    )


def box(x: float, y: float = 150, side: float = 40) -> tuple[float, float, float, float]:
    return (x, y, x + side, y + side)


def plan(
    sightings: dict[int, FrameSightings], cuts: list[int] | None = None, gone: dict[int, Boxes] | None = None
) -> HidingPlan:
    tracks = link(sightings, cuts or [], 25.0, POLICY)
    places = {f: [np.array(b, np.float32) for b in boxes] for f, boxes in (gone or {}).items()}
    return HidingPlan(tracks, cuts or [], FRAMES, GEOMETRY, POLICY, gone=places)


def hidden_share(made: HidingPlan, frame: int) -> float:
    return covered_share(np.array([0, 0, 640, 360], np.float32), made.regions(frame), None, width=640, height=360)


def is_hidden(made: HidingPlan, frame: int, where: tuple[float, float, float, float]) -> bool:
    size = {"width": GEOMETRY.width, "height": GEOMETRY.height}
    return covered_share(np.array(where, np.float32), made.regions(frame), None, **size) >= 0.95


@pytest.mark.parametrize(("speed", "stride"), [(0, 1), (0, 5), (3, 5), (10, 1), (10, 5), (19, 1), (19, 3)])
def test_a_moving_face_is_one_track_and_hidden_between_sightings(speed: float, stride: int) -> None:
    made = plan({f: seen([box(20 + speed * f)]) for f in range(0, 30, stride)})
    assert len(made.tracks) == 1
    last = max(range(0, 30, stride))
    assert all(is_hidden(made, f, box(20 + speed * f)) for f in range(last + 1))


@pytest.mark.parametrize("gap", [2, 10, 30])
def test_a_gap_is_bridged_from_both_sides(gap: int) -> None:
    frames = [*range(20), *range(20 + gap, 60 + gap)]
    made = plan({f: seen([box(100 + 2 * f)]) if f in frames else seen([]) for f in range(FRAMES)})
    assert all(is_hidden(made, f, box(100 + 2 * f)) for f in range(60 + gap))


def test_two_that_cross_are_both_hidden_all_the_time() -> None:
    made = plan({f: seen([box(40 + 8 * f), box(480 - 8 * f, 170)]) for f in range(0, 56, 2)})
    for f in range(55):
        assert is_hidden(made, f, box(40 + 8 * f))
        assert is_hidden(made, f, box(480 - 8 * f, 170))


def test_a_face_behind_another_is_held_while_the_other_is_there() -> None:
    def faces(f: int) -> Boxes:
        front = box(60 + 5 * f, 155)
        return [front] if 30 <= f < 50 else [front, box(240)]

    made = plan({f: seen(faces(f)) for f in range(0, 90, 2)})
    assert all(is_hidden(made, f, box(240)) for f in range(89))


def test_no_track_crosses_a_cut() -> None:
    made = plan({f: seen([box(100)]) for f in range(50)}, cuts=[50])
    assert is_hidden(made, 49, box(100))
    assert made.regions(50) == []


def test_ends_are_extended_but_not_for_ever() -> None:
    made = plan({f: seen([box(300)]) for f in range(40, 50)})
    assert is_hidden(made, 37, box(300))
    assert is_hidden(made, 54, box(300))
    assert made.regions(20) == []
    assert made.regions(75) == []


def test_weak_sightings_continue_a_track_but_make_none() -> None:
    weak = {f: seen([box(100)], 0.12) for f in range(20, 60)}
    assert plan(weak).tracks == []
    made = plan({**weak, 19: seen([box(100)], 0.5)})
    assert is_hidden(made, 59, box(100))


def test_a_half_hidden_face_keeps_its_size() -> None:
    shrunk = {f: seen([box(100)] if not 20 <= f < 32 else [(100, 150, 118, 185)]) for f in range(60)}
    assert all(is_hidden(plan(shrunk), f, box(100)) for f in range(60))


@pytest.mark.parametrize("half", [range(12), range(48, 60)], ids=["at first", "at last"])
def test_a_face_that_is_half_hidden_where_its_track_ends_keeps_its_size(half: range) -> None:
    shrunk = {f: seen([(100, 150, 118, 185) if f in half else box(100)]) for f in range(60)}
    assert all(is_hidden(plan(shrunk), f, box(100)) for f in range(60))


@pytest.mark.parametrize("nearer", [True, False], ids=["comes", "goes"])
@pytest.mark.parametrize("drift", [0, 2])
def test_a_face_that_changes_its_size_is_not_taken_for_a_half_hidden_one(nearer: bool, drift: int) -> None:
    """As someone who steps back from the camera within a second: what was large is not held large."""

    def where(f: int) -> tuple[float, float, float, float]:
        step = min(max(f - 40, 0), 20)
        side = 160 - 4 * (20 - step if nearer else step)
        return box(200 + drift * step, 100, side)

    made = plan({f: seen([where(f)]) for f in range(0, FRAMES, 2)})
    for f in range(FRAMES - 1):
        left, top, right, bottom = where(f)
        assert is_hidden(made, f, where(f)), f
        assert hidden_share(made, f) * 640 * 360 < 2.5 * (right - left) * (bottom - top), f


@pytest.mark.parametrize("eaten", ["left", "right", "top", "bottom"])
@pytest.mark.parametrize("drift", [0, 1])
def test_a_half_hidden_face_that_drifts_keeps_its_size(eaten: str, drift: int) -> None:
    def whole(f: int) -> tuple[float, float, float, float]:
        return box(100 + drift * f, 150, 80)

    def shown(f: int) -> tuple[float, float, float, float]:
        left, top, right, bottom = whole(f)
        if not 20 <= f < 32:
            return left, top, right, bottom
        return (
            left + 36 * (eaten == "left"), top + 36 * (eaten == "top"),
            right - 36 * (eaten == "right"), bottom - 36 * (eaten == "bottom"),
        )  # fmt: skip

    made = plan({f: seen([shown(f)]) for f in range(60)})
    for f in range(60):
        assert is_hidden(made, f, whole(f)), f
        assert hidden_share(made, f) * 640 * 360 < 4.0 * 80 * 80, f


@pytest.mark.parametrize("enters", [True, False], ids=["enters", "leaves"])
@pytest.mark.parametrize("speed", [4, 12])
def test_a_face_that_the_edge_cuts_is_not_taken_for_a_half_hidden_one(enters: bool, speed: int) -> None:
    def cut(f: int) -> tuple[float, float, float, float]:
        x = (speed * f if enters else speed * (29 - f)) - 100.0
        return (max(0.0, x), 100, x + 120, 260)

    made = plan({f: seen([cut(f)]) for f in range(30)})
    for f in range(30):
        left, top, right, bottom = cut(f)
        assert is_hidden(made, f, cut(f))
        assert hidden_share(made, f) * 640 * 360 < 2.2 * (right - left + 20) * (bottom - top)


def test_a_face_that_crosses_the_whole_picture_is_hidden_where_it_is() -> None:
    def cut(f: int) -> tuple[float, float, float, float]:
        x = 20 * f - 200.0
        return (max(0.0, x), 80, min(640.0, x + 240), 330)

    made = plan({f: seen([cut(f)]) for f in range(2, 40)})
    assert all(is_hidden(made, f, cut(f)) for f in range(2, 40))
    assert max(hidden_share(made, f) for f in range(FRAMES)) < 0.8


@pytest.mark.parametrize(("score", "hidden"), [(0.9, True), (0.3, False)])
def test_only_a_face_that_was_once_sure_is_bridged_over_a_long_gap(score: float, hidden: bool) -> None:
    sightings = {f: seen([box(100)] if f < 10 or f >= 40 else [], score) for f in range(50)}
    assert is_hidden(plan(sightings), 25, box(100)) is hidden


@pytest.mark.parametrize("score", [0.9, 0.3])
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_a_doubtful_face_is_bridged_between_regular_looks(score: float, stride: int) -> None:
    made = plan({f: seen([box(100 + f)], score) for f in range(0, 41, stride)})
    assert all(is_hidden(made, f, box(100 + f)) for f in range(41))


def test_a_weak_rest_of_a_doubtful_track_is_no_face() -> None:
    sightings = {f: seen([box(100)], 0.3 if f == 10 else 0.12) for f in (9, 10, 11, 40, 41, 42)}
    made = plan(sightings)
    assert is_hidden(made, 10, box(100))
    assert made.regions(41) == []


@pytest.mark.parametrize(
    ("gone", "first", "last"),
    [
        ({}, 30, 69),
        ({60: [box(300)]}, 30, 60),
        ({63: [box(302)]}, 30, 63),
        ({39: [box(300)]}, 39, 69),
        ({60: [box(400)]}, 30, 69),
        ({75: [box(300)]}, 30, 69),
    ],
    ids=["nothing known", "after", "later", "before", "elsewhere", "too late"],
)
def test_a_region_is_extended_no_further_than_where_the_face_is_gone(
    gone: dict[int, Boxes], first: int, last: int
) -> None:
    made = plan({f: seen([box(300)]) for f in range(40, 60)}, gone=gone)
    touched = made.touched()
    assert (min(touched), max(touched)) == (first, last)


@pytest.mark.parametrize(("speed", "last"), [(2, 60), (14, 69)])
def test_a_fast_face_may_have_left_where_it_was_looked_for(speed: float, last: int) -> None:
    made = plan(
        {f: seen([box(20 + speed * (f - 40), side=50)]) for f in range(40, 60)},
        gone={60: [box(20 + speed * 20, side=50)]},
    )
    assert max(made.touched()) == last


def test_a_face_behind_another_is_held_though_its_pixels_are_gone() -> None:
    def faces(f: int) -> Boxes:
        front = box(60 + 5 * f, 155)
        return [front] if f >= 34 else [front, box(240)]

    made = plan({f: seen(faces(f)) for f in range(0, 90, 2)}, gone={34: [box(240)]})
    assert all(is_hidden(made, f, box(240)) for f in range(42))


@given(st.integers(0, 2**31), st.floats(0, 12), st.floats(0.0, 0.3))
def test_dropped_sightings_leave_no_hole(seed: int, speed: float, dropped: float) -> None:
    random = np.random.default_rng(seed)
    sightings = {
        f: seen([] if random.random() < dropped and f not in (0, 40) else [box(50 + speed * f)]) for f in range(41)
    }
    made = plan(sightings)
    assert all(is_hidden(made, f, box(50 + speed * f)) for f in range(41))


def test_coverage_names_what_is_bare_and_where_to_look_again() -> None:
    made = plan({f: seen([box(100)]) for f in range(50)})
    verified = {10: seen([box(100)]), 20: seen([box(100), box(400)]), 30: seen([box(400)], 0.3)}
    coverage = check_coverage(made, verified, None, POLICY)
    assert coverage.faces == 3
    assert list(coverage.uncovered) == [20]
    assert coverage.worst == 0.0
    again = frames_to_verify(coverage.uncovered, verified, FRAMES, 3)
    assert again == {17, 18, 19, 21, 22, 23}
    everything = dict.fromkeys(range(FRAMES), seen([]))
    assert frames_to_verify({20: seen([box(400)])}, everything, FRAMES, 3) == set()


def test_a_zone_covers_too() -> None:
    zones = np.zeros((360, 640), bool)
    zones[:, 390:450] = True
    coverage = check_coverage(plan({}), {5: seen([box(400)])}, zones, POLICY)
    assert coverage.uncovered == {}


@pytest.mark.parametrize("over", [(300, 340, 340, 380), (620, 100, 660, 140), (300, 361, 340, 401), (-20, -20, 20, 20)])
def test_a_face_that_reaches_over_the_edge_is_covered_where_there_is_a_picture(
    over: tuple[float, float, float, float],
) -> None:
    coverage = check_coverage(plan({5: seen([over])}), {5: seen([over])}, None, POLICY)
    assert (coverage.faces, coverage.worst, coverage.uncovered) == (1, 1.0, {})
