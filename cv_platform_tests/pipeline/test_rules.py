"""A camera's rules, as filters and the anonymiser take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cv_platform.governance.policy import Look, Policy, PolicyError
from cv_platform.pipeline.rules import anonymise_policy, check_classes, look_filter
from cv_platform.settings import Settings
from cv_platform.vision.classes import FACE, LICENCE_PLATE, PERSON
from cv_platform.vision.detections import Detections

# On a frame of 100 × 100: a person at the left, a car at the right, a small face in the middle.
FOUND = Detections(
    np.array([[0, 0, 20, 90], [60, 40, 100, 80], [48, 40, 52, 46]], np.float32),
    np.array([0.9, 0.5, 0.3], np.float32),
    np.array([PERSON, 2, FACE], np.int16),
)
LEFT = [(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)]
RIGHT = [(0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)]


@pytest.mark.parametrize(
    ("look", "kept"),
    [
        ({}, [0, 1, 2]),
        ({"classes": ["person"]}, [0]),
        ({"classes": ["person", "face"]}, [0, 2]),
        ({"classes": []}, []),
        ({"min_confidence": 0.5}, [0, 1]),
        ({"min_size_px": 10}, [0, 1]),
        ({"region": [LEFT]}, [0, 2]),
        ({"region": [RIGHT]}, [1, 2]),
        ({"region": [LEFT, RIGHT]}, [0, 1, 2]),
        ({"region": [LEFT], "classes": ["car"]}, []),
    ],
)
def test_what_a_camera_looks_for(look: dict[str, Any], kept: list[int]) -> None:
    assert look_filter(Look.model_validate(look))(FOUND, 100, 100) == FOUND[kept]


def test_regions_scale_with_the_frame() -> None:
    assert len(look_filter(Look(region=[LEFT]))(FOUND, 200, 200)) == 3


def test_what_a_camera_hides() -> None:
    policy = Policy.parse(
        "sites: {a: {public_area: true, hide: {classes: [face, licence plate], audio: keep,"
        " zones: [[[0, 0], [1, 0], [1, 1]]]}}}"
    )
    told = anonymise_policy(policy.rules_for("a", "c"), Settings(max_clip_pixels=1000))
    assert told.classes == (FACE, LICENCE_PLATE)
    assert (told.method, told.audio, told.zones) == ("solid", "keep", (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)),))
    assert told.limits.max_pixels == 1000


def test_a_class_that_there_is_not_is_named_with_its_place() -> None:
    with pytest.raises(PolicyError, match=r"^a: classes hold ghost; allowed: face"):
        check_classes(Policy.parse("sites: {a: {hide: {classes: [ghost]}}}"))
