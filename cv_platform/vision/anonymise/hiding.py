"""Hiding on the planes of a YUV 4:2:0 picture: solid, mosaic or blur.

Mosaic: a grid tied to the track's box, its cells a keyed pattern about the face's mean, coarsely quantised, made unlike
the face and held for the track's life. A grid that is laid anew over each frame samples the face at ever other points,
and averaging registered frames gives it back; one that stays gives nothing more in a hundred frames than in one.
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
_MEAN_STEP = 32
_STEP = 16
_DISTURB = 40
_MOST_PATTERN = 48
_STRUCTURE_SCALES = (0.015, 0.03, 0.06)
_BLUR_CELLS = 4
_ZONE_CELL_PX = 8


def planes(picture: VideoFrame) -> tuple[Plane, Plane, Plane]:
    """Views of the Y (H, W), U and V (H/2, W/2) planes; writable where the picture is."""
    views: list[Plane] = []
    for plane in picture.planes:
        buffer: Any = plane  # speaks the buffer protocol, which its stub does not say
        lines = np.frombuffer(buffer, np.uint8).reshape(-1, plane.line_size)
        views.append(lines[: plane.height, : plane.width])
    return views[0], views[1], views[2]


class ZoneCheck:
    """Whether fixed zones are black, cell by cell: those cells of 8×8 pixels that lie in them with their neighbours.

    A zone of less than three cells' width is not looked at: the codec carries what lies around it over its edges.
    """

    def __init__(self, mask: npt.NDArray[np.bool_], black: int) -> None:
        height, width = mask.shape
        self._size = max(1, width // _ZONE_CELL_PX), max(1, height // _ZONE_CELL_PX)
        whole = cv2.resize(mask.astype(np.float32), self._size, interpolation=cv2.INTER_AREA) > 1 - 1e-4
        kernel = np.ones((3, 3), np.uint8)
        inner = cv2.erode(whole.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1)
        self._inner = np.asarray(inner, bool)
        self._black = black

    def hidden(self, luma: Plane, tolerance: float) -> bool:
        """Whether no cell's level is further from black than this."""
        levels = cv2.resize(luma, self._size, interpolation=cv2.INTER_AREA)[self._inner]
        return bool((np.abs(levels.astype(np.float32) - self._black) <= tolerance).all())


class Hider:
    """Hides regions and zones in pictures, frame by frame in order; keeps what must be held for a track's life.

    Args:
        geometry: of the pictures.
        policy: method, zones, and the key of the mosaic's cells.
        clip: what tells this clip from others that are hidden with the same key, such as its digest: the first track
            of two clips must not be disturbed by the same pattern, or their difference is free of it.

    Attributes:
        zone_mask: bool (H, W), the pixels of zones, or None.
        black: luma of what is painted.
    """

    def __init__(self, geometry: Geometry, policy: AnonymisePolicy, *, clip: str) -> None:
        self._method = policy.method
        key = policy.mosaic_key or secrets.token_bytes(32)
        self._key = hmac.new(key, b"mosaic of clip " + clip.encode(), hashlib.sha256).digest()
        self.black = 0 if geometry.colour[3] else 16
        self._tiles: dict[int, tuple[Plane, Plane, Plane]] = {}
        self.zone_mask = zone_pixels(policy.zones, geometry) if policy.zones else None
        self._zone_chroma: npt.NDArray[np.bool_] | None = None
        if self.zone_mask is not None:
            h, w = self.zone_mask.shape
            self._zone_chroma = np.asarray(self.zone_mask.reshape(h // 2, 2, w // 2, 2).any(axis=(1, 3)))

    def zones(self) -> ZoneCheck | None:
        """Tells whether zones are hidden in a picture's luma; None where there are none."""
        return None if self.zone_mask is None else ZoneCheck(self.zone_mask, self.black)

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
                fills: tuple[int | Plane, ...] = (self.black, 128, 128)
            elif self._method == "mosaic":
                fills = self._mosaic(r, parts)
            else:
                fills = tuple(_blurred(part) for part in parts)
            for part, fill in zip(parts, fills, strict=True):
                part[...] = fill
        if self.zone_mask is not None:
            y[self.zone_mask] = self.black
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
        digest = hmac.new(self._key, track.to_bytes(8, "big"), hashlib.sha256).digest()
        pattern = _unlike(parts[0], np.random.default_rng(np.frombuffer(digest, np.uint64)))
        fills = [np.round(float(part.mean()) / _MEAN_STEP) * _MEAN_STEP for part in parts]
        luma = np.clip(fills[0], 16 + _MOST_PATTERN, 235 - _MOST_PATTERN) + pattern
        u, v = (np.full(pattern.shape, np.clip(fill, 16, 240)) for fill in fills[1:])
        return luma.astype(np.uint8), u.astype(np.uint8), v.astype(np.uint8)


def _unlike(face: Plane, noise: np.random.Generator) -> npt.NDArray[np.float64]:
    """A keyed pattern of cells, levels of luma about 0, that does not resemble the face by chance either.

    The sharp edges of a random grid correlate with a face's by a few hundredths, more or less, by the key's luck; what
    a hundred frames average out is the codec's noise over that. So what the pattern and the face's fine structure have
    in common, at several scales, is taken from the pattern before it is quantised.
    """
    n = MOSAIC_CELLS
    structure: list[npt.NDArray[np.float64]] = [np.ones(n * n)]
    for scale in _STRUCTURE_SCALES:
        fine = face.astype(np.float64)
        for _ in range(2):  # both sides of a correlation are high-passed
            fine = fine - cv2.GaussianBlur(fine, (0, 0), max(0.5, scale * np.sqrt(face.size)))
        cells = np.asarray(cv2.resize(fine, (n, n), interpolation=cv2.INTER_AREA), np.float64).ravel()
        structure.append(cells / max(float(np.linalg.norm(cells)), 1e-9))
    common, _ = np.linalg.qr(np.stack(structure, axis=1))
    pattern = noise.uniform(-_DISTURB, _DISTURB, n * n)
    pattern -= common @ (common.T @ pattern)
    return np.clip(np.round(pattern.reshape(n, n) / _STEP) * _STEP, -_MOST_PATTERN, _MOST_PATTERN)


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
