"""A camera's rules as the anonymiser and the detections' filters take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cv_platform.governance.policy import Look, Policy, PolicyError, Rules
from cv_platform.pipeline.raw_clips import clip_limits
from cv_platform.settings import Settings

if TYPE_CHECKING:
    from cv_platform.vision.anonymise import AnonymisePolicy
    from cv_platform.vision.detections import Detections


def class_ids(names: list[str]) -> tuple[int, ...]:
    """Class ids of names. Raises PolicyError for one that there is not."""
    from cv_platform.vision.classes import CLASS_IDS

    unknown = sorted(set(names) - CLASS_IDS.keys())
    if unknown:
        raise PolicyError(
            f"classes hold {', '.join(unknown)}; allowed: face, licence plate, and COCO's names such as person, car"
        )
    return tuple(CLASS_IDS[name] for name in names)


def check_classes(policy: Policy) -> None:
    """Hold the policy's class names against the platform's. Raises PolicyError, naming the place."""
    for place, rules in policy.all_rules().items():
        try:
            class_ids(rules.hide.classes)
            class_ids(rules.look.classes or [])
        except PolicyError as error:
            raise PolicyError(f"{place}: {error}") from None


def anonymise_policy(rules: Rules, settings: Settings) -> AnonymisePolicy:
    """What the anonymiser is told of a camera."""
    from cv_platform.vision.anonymise import AnonymisePolicy

    return AnonymisePolicy(
        classes=class_ids(rules.hide.classes),
        method=rules.hide_method,
        audio=rules.hide.audio,
        zones=tuple(tuple(polygon) for polygon in rules.hide.zones),
        verify_rate_hz=rules.hide.verify_rate_hz,
        limits=clip_limits(settings),
    )


def look_filter(look: Look) -> Callable[[Detections, int, int], Detections]:
    """What a camera's rules keep of a frame's detections.

    Returns:
        A function of detections in pixels and the frame's width and height.
    """
    import numpy as np

    from cv_platform.vision.detections import Detections
    from cv_platform.vision.filters import by_class, by_confidence, by_region, by_size

    classes = None if look.classes is None else class_ids(look.classes)
    regions = [np.array(polygon, np.float32) for polygon in look.region]

    def keep(found: Detections, width: int, height: int) -> Detections:
        if classes is not None:
            found = by_class(found, classes)
        if look.min_confidence > 0:
            found = by_confidence(found, look.min_confidence)
        if look.min_size_px > 0:
            found = by_size(found, least_width=look.min_size_px, least_height=look.min_size_px)
        if regions:
            # A box in two regions counts once, and keeps its place.
            inside = np.zeros(len(found), bool)
            rows = Detections(found.boxes, found.scores, found.class_ids, np.arange(len(found), dtype=np.int32))
            for polygon in regions:
                within = by_region(rows, polygon * (width, height))
                assert within.track_ids is not None
                inside[within.track_ids] = True
            found = found[inside]
        return found

    return keep
