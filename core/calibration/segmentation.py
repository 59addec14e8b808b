"""Which pixels and points are of the class that calibrates: from masks and labels, or from what moves, in picture and
cloud each on its own.

What moves is found by what stands still: colours that a pixel mostly has, places that are mostly taken. That needs a
rig that stands still itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.calibration.footage import Cloud, Footage, FootageError, read_picture
from core.calibration.geometry import NEAR_M, Floats, moved, pixels
from core.opencv import opencv

Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]

BACKGROUND_PICTURES = 25
BACKGROUND_CLOUDS = 40
LEAST_CHANGE = 18.0
"""Levels (0..255) that a pixel must differ by from its background."""
SMALLEST_PART = 4e-4
"""Share of the picture below which a changed patch is noise."""
VOXEL_M = 0.12
TAKEN = 0.35
"""A place that is taken in more than this share of the clouds stands still."""
GROUND_M = 0.06
"""How far points of the ground lie from their plane at most."""
LEAST_HEIGHT_M = 0.02
"""Cut above this, an object stands too high in the cloud by pixels when it is near."""
HIGHEST_M = 3.0
PART_DEPTH = 0.15
"""Points of one object are within this share of its depth, at least `PART_DEPTH_M`."""
PART_DEPTH_M = 0.6
SEMANTIC_KITTI = {
    "car": (10, 252),
    "person": (30, 254),
    "bicyclist": (31, 253),
    "bus": (13, 257),
    "truck": (18, 258),
}
"""Labels of SemanticKITTI that make one class: standing and moving."""


def values_in(labels: NDArray[np.integer] | Floats, values: Sequence[int]) -> Mask:
    """Where the labels are one of `values`; without values, where they are not 0."""
    return np.isin(labels, values) if values else np.asarray(labels) != 0


# ---- pictures ------------------------------------------------------------------------------------------------------


def from_mask_plane(footage: Footage, values: Sequence[int] = ()) -> Callable[[int], Mask]:
    """The mask plane that came with the pictures."""

    def mask(number: int) -> Mask:
        plane = footage.classes(number)
        if plane is None:
            raise FootageError("the pictures came without a mask plane: send one, or use --mask moving")
        width, height = footage.size
        if plane.shape != (height, width):
            plane = opencv().resize(plane, footage.size, interpolation=opencv().INTER_NEAREST)
        return values_in(plane, values)

    return mask


def from_pictures(folder: Path, values: Sequence[int] = ()) -> Callable[[int], Mask]:
    """Label pictures of a folder, in the order of their names; one for each picture of the camera."""
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in (".png", ".bmp", ".tif", ".tiff"))
    if not files:
        raise FootageError(f"{folder} holds no label pictures (png, bmp, tif)")

    def mask(number: int) -> Mask:
        if number >= len(files):
            raise FootageError(
                f"{folder} holds {len(files)} label pictures and the camera took more: give one for each"
            )
        return values_in(read_picture(files[number], colour=False), values)

    return mask


def by_segmenter(footage: Footage, segmenter: Callable[[Picture], Mask]) -> Callable[[int], Mask]:
    """Any function from a picture uint8 (H,W,3) to bool (H,W)."""

    def mask(number: int) -> Mask:
        found = np.asarray(segmenter(footage.picture(number)))
        width, height = footage.size
        if found.shape != (height, width):
            raise FootageError(f"the segmenter gave an array of shape {found.shape}; it must give ({height}, {width})")
        return found.astype(bool)

    return mask


def changed(footage: Footage) -> Callable[[int], Mask]:
    """What differs from the colour that each pixel mostly has."""
    numbers = np.unique(np.linspace(0, len(footage.camera_ns) - 1, BACKGROUND_PICTURES).round().astype(int))
    stack = np.stack([footage.picture(int(k)) for k in numbers])
    background = np.median(stack, axis=0).astype(np.int16)
    # Where nothing moves pictures differ by noise; where something does, by more: the median over pixels is noise.
    noise = float(np.median(np.abs(stack[:: max(1, len(stack) // 6)].astype(np.int16) - background)))
    least = max(LEAST_CHANGE, 8.0 * noise)
    cv2 = opencv()
    small = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))

    def mask(number: int) -> Mask:
        off = np.abs(footage.picture(number).astype(np.int16) - background).max(axis=2)
        solid = (off > least).astype(np.uint8)
        solid = cv2.morphologyEx(cv2.morphologyEx(solid, cv2.MORPH_OPEN, small), cv2.MORPH_CLOSE, wide)
        outlines, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        whole = np.zeros_like(solid)
        large = [c for c in outlines if cv2.contourArea(c) >= SMALLEST_PART * solid.size]
        # Without holes: a shirt of the wall's colour is part of the person.
        cv2.drawContours(whole, large, -1, 1, cv2.FILLED)
        return whole.astype(bool)

    return mask


# ---- clouds --------------------------------------------------------------------------------------------------------


def by_label(values: Sequence[int]) -> Callable[[int, Cloud], Mask]:
    """By the label or intensity that came with the points."""

    def chosen(number: int, cloud: Cloud) -> Mask:
        del number
        if cloud.extra is None:
            raise FootageError("the clouds came without labels: use --class-of-points moving, ground or mask")
        return values_in(np.nan_to_num(cloud.extra), values)

    return chosen


def _voxels(points: Floats) -> NDArray[np.int64]:
    """(n,3) to one number for each place; what is not finite or very far goes to a place of its own."""
    with np.errstate(invalid="ignore"):
        good = np.asarray((np.abs(points) < 1e4).all(axis=1))
    cell = np.floor(np.where(good[:, None], points, 0.0) / VOXEL_M).astype(np.int64) + (1 << 20)
    key: NDArray[np.int64] = np.where(good, (cell[:, 0] << 42) | (cell[:, 1] << 21) | cell[:, 2], 0)
    return key


def away_from_background(footage: Footage) -> Callable[[int, Cloud], Mask]:
    """Points in places that are mostly empty."""
    numbers = np.unique(np.linspace(0, len(footage.lidar_ns) - 1, BACKGROUND_CLOUDS).round().astype(int))
    places, counts = np.unique(
        np.concatenate([np.unique(_voxels(footage.cloud(int(k)).points)) for k in numbers]), return_counts=True
    )
    still = places[counts > max(TAKEN * len(numbers), 1)]
    # Beams jitter between neighbouring places, so what is beside a place that is mostly taken stands still, too.
    steps = [(x << 42) + (y << 21) + z for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    still = np.unique((still[:, None] + np.array(steps, np.int64)).ravel())

    def chosen(number: int, cloud: Cloud) -> Mask:
        del number
        keys = _voxels(cloud.points)
        if not len(still):
            return keys != 0
        at = np.minimum(np.searchsorted(still, keys), len(still) - 1)
        return (still[at] != keys) & (keys != 0)

    return chosen


@dataclass(frozen=True)
class Plane:
    """Points x with `normal` x = `height_m` lie in it, to `noise_m` (standard deviation); the normal points up."""

    normal: Floats
    height_m: float
    noise_m: float


def ground_of(points: Floats, up: Floats, rng: np.random.Generator) -> Plane | None:
    """The largest plane within 25 degrees of level, by random samples (Fischler and Bolles 1981); None if there is
    hardly any."""
    some = points[np.isfinite(points).all(axis=1)]
    if len(some) < 100:
        return None
    some = some[rng.choice(len(some), min(len(some), 3000), replace=False)].astype(float)
    best, most = None, 0
    for _ in range(200):
        a, b, c = some[rng.choice(len(some), 3, replace=False)]
        n = np.cross(b - a, c - a)
        length = np.linalg.norm(n)
        if length < 1e-6:
            continue
        n = n / length * np.sign(n @ up or 1.0)
        if n @ up < 0.9:
            continue
        near = np.abs(some @ n - a @ n) < GROUND_M
        if near.sum() > most:
            best, most = (n, some[near]), int(near.sum())
    if best is None or most < 0.05 * len(some):
        return None
    # Fitted to all of them: three noisy points alone tilt it by more than the lowest part of an object.
    inliers = best[1]
    n = np.linalg.svd(inliers - inliers.mean(0), full_matrices=False)[2][2]
    n = n * np.sign(n @ up or 1.0)
    heights = inliers @ n
    middle = float(np.median(heights))
    return Plane(n, middle, 1.48 * float(np.median(np.abs(heights - middle))))


def above_ground(up: Floats) -> Callable[[int, Cloud], Mask]:
    """Points above the ground and not higher than `HIGHEST_M`. up (3,): roughly, in the sensor's frame."""

    def chosen(number: int, cloud: Cloud) -> Mask:
        plane = ground_of(cloud.points, up, np.random.default_rng(number))
        if plane is None:
            raise FootageError("the clouds show no ground: use --class-of-points moving or mask")
        with np.errstate(invalid="ignore"):
            height = cloud.points @ plane.normal - plane.height_m
            return (height > max(LEAST_HEIGHT_M, 3.0 * plane.noise_m)) & (height < HIGHEST_M)

    return chosen


class InMasks:
    """Points that fall into the masks by the estimate so far, without what lies well behind the object there.

    Tell `estimate` of every better one.
    """

    def __init__(self, footage: Footage, masks: Callable[[int], Mask], T_cam_lidar: Floats, offset_s: float) -> None:
        self._footage, self._masks = footage, masks
        self._camera = np.asarray(footage.camera_ns, np.int64)
        self._T, self._offset_ns = np.eye(4), 0
        self.estimate(T_cam_lidar, offset_s)

    def estimate(self, T_cam_lidar: Floats, offset_s: float) -> None:
        self._T, self._offset_ns = np.asarray(T_cam_lidar, float), round(offset_s * 1e9)

    def __call__(self, number: int, cloud: Cloud) -> Mask:
        wanted = int(self._footage.lidar_ns[number]) - self._offset_ns
        mask = self._masks(int(np.argmin(np.abs(self._camera - wanted))))
        c = moved(self._T, np.nan_to_num(cloud.points.astype(float), nan=0.0, posinf=0.0, neginf=0.0))
        chosen = np.zeros(len(c), bool)
        ahead = np.flatnonzero(c[:, 2] > NEAR_M)
        uv = pixels(self._footage.K, c[ahead])
        width, height = self._footage.size
        inside = (uv >= 0).all(1) & (uv[:, 0] < width) & (uv[:, 1] < height)
        ahead, uv = ahead[inside], uv[inside].astype(int)
        count, parts = opencv().connectedComponents(mask.astype(np.uint8))
        part, depth = parts[uv[:, 1], uv[:, 0]], c[ahead, 2]
        for k in range(1, count):
            here = part == k
            if here.sum() < 5:
                continue
            near = float(np.quantile(depth[here], 0.1))
            chosen[ahead[here & (depth < near + max(PART_DEPTH_M, PART_DEPTH * near))]] = True
        return chosen
