"""One frame through a detector: at bounded resolution, in full, or close up."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from cv_platform.vision.anonymise.failures import AnonymisationFailed
from cv_platform.vision.anonymise.policy import SWEEP_TILE, AnonymisePolicy
from cv_platform.vision.anonymise.sightings import Boxes, FrameSightings, overlap
from cv_platform.vision.anonymise.source import ClipFrame, Geometry, coded_boxes, upright_boxes, upright_picture
from cv_platform.vision.detections import Detections
from cv_platform.vision.detectors.base import Detector

_TILE_OVERLAP = 0.15
_CROP = 192
_CROP_FACES = 4.0
_LEAST_CROP_PX = 56
_MOST_CROPS = 6


def see(
    detector: Detector, frame: ClipFrame, geometry: Geometry, policy: AnonymisePolicy, long_side: int | None
) -> FrameSightings:
    """One frame through one detector: the policy's classes only, boxes in coded pixels."""
    return see_picture(detector, upright_picture(frame, geometry, long_side), geometry, policy)


def see_picture(
    detector: Detector, picture: npt.NDArray[np.uint8], geometry: Geometry, policy: AnonymisePolicy
) -> FrameSightings:
    """As `see`, for a picture that is upright already."""
    return _sightings(run_detector(detector, [picture])[0], picture.shape, geometry, policy)


def run_detector(detector: Detector, pictures: list[npt.NDArray[np.uint8]]) -> list[Detections]:
    try:
        found = detector.detect(pictures)
        answers = len(found)
    except Exception as error:
        # the type only: the text may hold a path
        raise AnonymisationFailed("detector_failed", f"a detector failed with {type(error).__name__}") from error
    if answers != len(pictures):
        raise AnonymisationFailed("detector_failed", "a detector did not answer for every picture")
    return found


def _sightings(seen: Detections, shape: tuple[int, ...], geometry: Geometry, policy: AnonymisePolicy) -> FrameSightings:
    wanted = np.isin(seen.class_ids, np.asarray(policy.classes, np.int16))
    return FrameSightings(coded_boxes(seen.boxes[wanted], shape, geometry), seen.scores[wanted], seen.class_ids[wanted])


def sweep(detector: Detector, frame: ClipFrame, geometry: Geometry, policy: AnonymisePolicy) -> FrameSightings:
    """One frame through one detector at full resolution, in overlapping tiles where the picture is large."""
    return sweep_picture(detector, upright_picture(frame, geometry, None), geometry, policy)


def sweep_picture(
    detector: Detector, picture: npt.NDArray[np.uint8], geometry: Geometry, policy: AnonymisePolicy
) -> FrameSightings:
    """As `sweep`, for a picture that is upright already."""
    height, width = picture.shape[:2]
    parts = []
    for top, bottom in _spans(height):
        for left, right in _spans(width):
            tile = np.ascontiguousarray(picture[top:bottom, left:right])
            (seen,) = run_detector(detector, [tile])
            moved = Detections(seen.boxes + np.array([left, top, left, top], np.float32), seen.scores, seen.class_ids)
            parts.append(_sightings(moved, picture.shape, geometry, policy))
    joined = FrameSightings.join(parts)
    return joined if len(parts) == 1 else _without_doubles(joined)


def _spans(length: int) -> list[tuple[int, int]]:
    if length <= SWEEP_TILE:
        return [(0, length)]
    count = -(-length // round(SWEEP_TILE * (1 - _TILE_OVERLAP)))
    step = (length - SWEEP_TILE) / max(1, count - 1)
    return [(round(i * step), round(i * step) + SWEEP_TILE) for i in range(count)]


def _without_doubles(seen: FrameSightings) -> FrameSightings:
    order = np.argsort(-seen.scores, kind="stable")
    kept: list[int] = []
    for i in order.tolist():
        if not kept or overlap(seen.boxes[[i]], seen.boxes[kept]).max() < 0.5:
            kept.append(i)
    return FrameSightings(seen.boxes[kept], seen.scores[kept], seen.class_ids[kept])


def close_up(
    detector: Detector,
    frame: ClipFrame,
    boxes: list[Boxes],
    geometry: Geometry,
    policy: AnonymisePolicy,
) -> FrameSightings:
    """Enlarged crops around boxes (coded pixels) through a detector; many of them are one sweep instead."""
    if not boxes:
        return FrameSightings.none()
    if len(boxes) > _MOST_CROPS:
        return sweep(detector, frame, geometry, policy)
    picture = upright_picture(frame, geometry, None)
    height, width = picture.shape[:2]
    crops, places = [], []
    for box in upright_boxes(np.stack(boxes), geometry):
        side = round(max(_LEAST_CROP_PX, _CROP_FACES * float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))))
        side = min(side, width, height)
        left = int(np.clip((box[0] + box[2] - side) / 2, 0, width - side))
        top = int(np.clip((box[1] + box[3] - side) / 2, 0, height - side))
        crop = picture[top : top + side, left : left + side]
        crops.append(np.ascontiguousarray(cv2.resize(crop, (_CROP, _CROP)), dtype=np.uint8))
        places.append((left, top, side / _CROP))
    found = []
    for seen, (left, top, scale) in zip(run_detector(detector, crops), places, strict=True):
        moved = Detections(
            seen.boxes * scale + np.array([left, top, left, top], np.float32), seen.scores, seen.class_ids
        )
        found.append(_sightings(moved, picture.shape, geometry, policy))
    return _without_doubles(FrameSightings.join(found))
