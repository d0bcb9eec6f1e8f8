"""Hiding on the planes of a YUV 4:2:0 picture: solid, mosaic or blur.

Mosaic: a grid tied to the track's box, its cells' values taken once, coarsely quantised, disturbed by a keyed pattern
and held for the track's life. A grid that is laid anew over each frame samples the face at ever other points, and
averaging registered frames gives it back; one that never changes gives nothing more in a hundred frames than in one.
Source of the attack: Cavedon et al., "Getting the Face Behind the Squares", USENIX WOOT 2011.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from cv_platform.vision.anonymise.policy import AnonymisePolicy
from cv_platform.vision.anonymise.regions import Region
from cv_platform.vision.anonymise.source import Geometry

Plane = npt.NDArray[np.uint8]

MOSAIC_CELLS = 6
_LEVELS = 32
_DISTURB = 40
_CONTRAST = 0.2
_BLUR_CELLS = 4


def planes(picture: VideoFrame) -> tuple[Plane, Plane, Plane]:
    """Views of the Y (H, W), U and V (H/2, W/2) planes; writable where the picture is."""
    views: list[Plane] = []
    for plane in picture.planes:
        buffer: Any = plane  # speaks the buffer protocol, which its stub does not say
        lines = np.frombuffer(buffer, np.uint8).reshape(-1, plane.line_size)
        views.append(lines[: plane.height, : plane.width])
    return views[0], views[1], views[2]


class Hider:
    """Hides regions and zones in pictures, frame by frame in order; keeps what must be held for a track's life.

    Args:
        geometry: of the pictures.
        policy: method, zones, and the key of the mosaic's cells.
        clip: what tells this clip from others that are hidden with the same key, such as its digest: the first track
            of two clips must not be disturbed by the same pattern, or their difference is free of it.
    """

    def __init__(self, geometry: Geometry, policy: AnonymisePolicy, *, clip: str) -> None:
        self._method = policy.method
        key = policy.mosaic_key or secrets.token_bytes(32)
        self._key = hmac.new(key, b"mosaic of clip " + clip.encode(), hashlib.sha256).digest()
        self._black = 0 if geometry.colour[3] else 16
        self._tiles: dict[int, tuple[Plane, Plane, Plane]] = {}
        self.zone_mask = zone_pixels(policy.zones, geometry) if policy.zones else None
        self._zone_chroma: npt.NDArray[np.bool_] | None = None
        if self.zone_mask is not None:
            h, w = self.zone_mask.shape
            self._zone_chroma = np.asarray(self.zone_mask.reshape(h // 2, 2, w // 2, 2).any(axis=(1, 3)))

    def hide(self, picture: VideoFrame, regions: Sequence[Region]) -> VideoFrame:
        """The picture with the regions and zones hidden; it is made its own first, so the decoder's is not touched."""
        if not regions and self.zone_mask is None:
            return picture
        picture.make_writable()
        y, u, v = planes(picture)
        for r in regions:
            half = (slice(r.y1 // 2, r.y2 // 2), slice(r.x1 // 2, r.x2 // 2))
            parts = (y[r.y1 : r.y2, r.x1 : r.x2], u[half], v[half])
            if self._method == "solid":
                fills: tuple[int | Plane, ...] = (self._black, 128, 128)
            elif self._method == "mosaic":
                fills = self._mosaic(r, parts)
            else:
                fills = tuple(_blurred(part) for part in parts)
            for part, fill in zip(parts, fills, strict=True):
                part[...] = fill
        if self.zone_mask is not None:
            y[self.zone_mask] = self._black
            u[self._zone_chroma] = 128
            v[self._zone_chroma] = 128
        return picture

    def _mosaic(self, region: Region, parts: tuple[Plane, ...]) -> tuple[Plane, ...]:
        tiles = self._tiles.get(region.track)
        if tiles is None:
            tiles = self._tiles[region.track] = self._make_tiles(region.track, parts)
        return tuple(
            np.asarray(cv2.resize(tile, part.shape[::-1], interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
            for tile, part in zip(tiles, parts, strict=True)
        )

    def _make_tiles(self, track: int, parts: tuple[Plane, ...]) -> tuple[Plane, Plane, Plane]:
        n = MOSAIC_CELLS
        digest = hmac.new(self._key, track.to_bytes(8, "big"), hashlib.sha256).digest()
        noise = np.random.default_rng(np.frombuffer(digest, np.uint64))
        made = []
        for number, part in enumerate(parts):
            cells = cv2.resize(np.ascontiguousarray(part), (n, n), interpolation=cv2.INTER_AREA).astype(np.float64)
            cells = cells.mean() + _CONTRAST * (cells - cells.mean())
            if number == 0:
                cells += noise.uniform(-_DISTURB, _DISTURB, cells.shape)
            levels = np.round(cells / _LEVELS) * _LEVELS
            made.append(np.clip(levels, 16, 235).astype(np.uint8))
        return made[0], made[1], made[2]


def zone_pixels(zones: Sequence[Sequence[tuple[float, float]]], geometry: Geometry) -> npt.NDArray[np.bool_]:
    """Bool (H, W) in coded pixels, whole 2×2 blocks: what polygons given in 0..1 of the upright picture hide."""
    width, height = geometry.upright_size
    mask = np.zeros((height, width), np.uint8)
    for polygon in zones:
        points = np.array([[x * (width - 1), y * (height - 1)] for x, y in polygon])
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
    coded = np.rot90(mask, -(geometry.rotation // 90)).astype(bool)
    blocks = coded.reshape(geometry.height // 2, 2, geometry.width // 2, 2).any(axis=(1, 3))
    return np.asarray(blocks.repeat(2, axis=0).repeat(2, axis=1))


def _blurred(part: Plane) -> Plane:
    n = _BLUR_CELLS
    small = cv2.resize(np.ascontiguousarray(part), (n, n), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
