"""What the settings make of the stages: the tracker and its parameters."""

from __future__ import annotations

import pytest

from cv_platform.pipeline.stages import tracker_maker
from cv_platform.pipeline.versions import current_versions
from cv_platform_tests.pipeline.world import World, with_settings

LIGHT = {"detectors": "hog_people", "face_detector": "hog_people", "face_verifier": "hog_people"}


def test_the_settings_choose_the_tracker_its_parameters_and_with_them_the_version(world: World) -> None:
    def at(**changes: str) -> World:
        return World.at(with_settings(world.settings, **LIGHT, **changes))

    plain, strict = at(tracker="sort"), at(tracker="sort", tracker_parameters="min_hits=5,iou_threshold=0.5")
    make = tracker_maker(strict.platform)
    state = make().state_dict()
    assert (state["parameters"]["min_hits"], state["parameters"]["iou_threshold"]) == (5, 0.5)
    assert make() is not make()
    versions = [current_versions(one.platform)["tracks"] for one in (plain, strict, at(tracker="sort"))]
    assert versions[0] == versions[2] != versions[1]


@pytest.mark.parametrize("parameters", ["min_hit=5", "iou_threshold=2"])
def test_wrong_parameters_show_before_any_clip_is_claimed(world: World, parameters: str) -> None:
    settings = with_settings(world.settings, **LIGHT, tracker="sort", tracker_parameters=parameters)
    with pytest.raises(ValueError, match=r"parameters|allowed"):
        tracker_maker(World.at(settings).platform)
