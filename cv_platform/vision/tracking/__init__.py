"""Multi-object tracking: detections of consecutive frames in, the same detections with track ids out.

`make_tracker` is the way in; the protocol is in `base.py`, a file a tracker beside it. Trackers are compiled on first
use, each on its own, and cached; importing this package compiles nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from cv_platform.vision.tracking.base import OutputBoxes, Tracker

if TYPE_CHECKING:
    from cv_platform.vision.tracking.byte import ByteTracker
    from cv_platform.vision.tracking.deepsort import DeepSortTracker
    from cv_platform.vision.tracking.ocsort import OcSortTracker
    from cv_platform.vision.tracking.sort import SortTracker
    from cv_platform.vision.tracking.twostage import TwoStageTracker

__all__ = [
    "DEFAULT_TRACKER",
    "TRACKERS",
    "ByteTracker",
    "DeepSortTracker",
    "OcSortTracker",
    "OutputBoxes",
    "SortTracker",
    "Tracker",
    "TwoStageTracker",
    "make_tracker",
]

DEFAULT_TRACKER: Final = "twostage"

TRACKERS: Final = {
    "twostage": "TwoStageTracker",
    "sort": "SortTracker",
    "bytetrack": "ByteTracker",
    "ocsort": "OcSortTracker",
    "deepsort": "DeepSortTracker",
}
"""Name in settings to class."""

_MODULES: Final = {
    "TwoStageTracker": "twostage",
    "SortTracker": "sort",
    "ByteTracker": "byte",
    "OcSortTracker": "ocsort",
    "DeepSortTracker": "deepsort",
}


def __getattr__(name: str) -> Any:
    """Each tracker's module is loaded when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def make_tracker(name: str = "default", **parameters: Any) -> Tracker:
    """A fresh tracker by name.

    Args:
        name: "default" (which is `DEFAULT_TRACKER`) or a key of `TRACKERS`.
        parameters: the tracker's own; see its class.

    Raises:
        ValueError: for an unknown name, or parameters that the tracker does not have.
    """
    found = DEFAULT_TRACKER if name == "default" else name
    if found not in TRACKERS:
        raise ValueError(f"tracker {name!r} is unknown; allowed are default, {', '.join(sorted(TRACKERS))}")
    try:
        tracker: Tracker = __getattr__(TRACKERS[found])(**parameters)
    except TypeError as error:
        raise ValueError(f"tracker {found!r} does not take these parameters: {error}") from error
    return tracker
