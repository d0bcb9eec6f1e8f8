"""The protocol that every tracker implements."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from cv_platform.vision.detections import Detections

OutputBoxes = Literal["filtered", "measured"]
"""What boxes a tracker answers with: its filter's estimate of where the object is, as the papers' references do and as
benchmarks score it, or the detector's own box. Ids, scores and rows are the same either way."""


@runtime_checkable
class Tracker(Protocol):
    """Gives detections of consecutive frames of one camera their track ids (1, 2, 3, … in order of confirmation)."""

    def update(self, detections: Detections, *, frame: npt.NDArray[np.uint8] | None = None) -> Detections:
        """Advance by one frame.

        Args:
            detections: what was found in this frame (call it for empty frames too).
            frame: BGR uint8 (H, W, 3); only trackers that look at appearance need it.

        Returns:
            The subset of `detections` that belongs to a confirmed track, in their input order, with `track_ids` set.
            A track without a detection in this frame is not in it: nothing is predicted. Boxes are those of the
            tracker's `boxes` parameter, see `OutputBoxes`.
        """

    @property
    def matched_rows(self) -> npt.NDArray[np.int64]:
        """int64 (K,), ascending: which rows of the last `update`'s detections it answered. Not part of the state."""

    def state_dict(self) -> dict[str, Any]:
        """The whole state as plain numbers, strings, lists and NumPy arrays; exact."""

    def settle(self) -> dict[int, int]:
        """Forget what has no bearing on later frames, between two clips: ids that are gone, how long ago it began.

        Live tracks get the ids 1, 2, 3, … in order of their old ones. Two trackers with the same live tracks then have
        the same state, whatever they saw before.

        Returns:
            The new id of each live track by its old one.
        """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` gave: tracking in two halves equals tracking in one."""
