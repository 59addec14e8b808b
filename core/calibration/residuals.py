"""Distances between projected points and masks, both ways, with their exact derivatives.

Point to pixel: how far a projected point lies outside the mask. Pixel to point: how far a pixel of the mask lies from
the nearest projected point. Both are scalar distances whose derivative runs along the direction of that distance:
two-vectors with zeros inside the mask would hold every solver where it is.

The seven unknowns are a step from a pose: rotation (3) in radians and translation (3) in metres, applied in the camera
frame, and the clock offset in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from core.calibration.flow import around_mask
from core.calibration.geometry import NEAR_M, Floats, moved, rigid, rotation, rotation_vector
from core.calibration.recording import Pair
from core.opencv import opencv

APART_PX = 1e5
"""Pictures are laid so far apart that one tree of points serves all."""
CHUNK = 7
"""Unknowns: rotation, translation, offset."""
PRIOR = np.array([np.radians(10.0)] * 3 + [0.5] * 3 + [0.2])
"""How far the first guess may be off, as standard deviations."""


@dataclass(frozen=True)
class State:
    """Where a solver is: `T` (4,4) LiDAR to camera, `offset_s`."""

    T: Floats
    offset_s: float

    def stepped(self, step: Floats) -> State:
        """After a step (7,) of the unknowns."""
        R = rotation(step[:3])
        return State(rigid(R @ self.T[:3, :3], self.T[:3, 3] + step[3:6]), self.offset_s + float(step[6]))


def steps_between(state: State, start: State) -> Floats:
    """(7,) the step that leads from `start` to `state`."""
    return np.concatenate(
        [
            rotation_vector(state.T[:3, :3] @ start.T[:3, :3].T),
            state.T[:3, 3] - start.T[:3, 3],
            [state.offset_s - start.offset_s],
        ]
    )


@dataclass(frozen=True)
class Field:
    """What is looked up in one picture: distance to the mask, its pixels and contour, flow around it."""

    distance: Floats
    area: Floats
    contour: Floats
    flow: Floats | None


def field(pair: Pair) -> Field:
    """Prepared once per picture. Pixel places are (n,2) centres."""
    cv2 = opencv()
    solid = pair.mask.astype(np.uint8)
    if not solid.any():
        empty = np.zeros((0, 2))
        return Field(np.full(solid.shape, 1e3, np.float32), empty, empty, None if pair.flow is None else pair.flow)
    distance = cv2.distanceTransform(1 - solid, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # From the pixels' edges rather than from their centres.
    distance = np.maximum(distance - 0.5, 0.0)
    inner = cv2.erode(solid, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    y, x = np.nonzero(solid)
    cy, cx = np.nonzero(solid & (1 - inner))
    flow = None if pair.flow is None else around_mask(pair.flow, pair.mask)
    return Field(distance, np.stack([x, y], 1) + 0.5, np.stack([cx, cy], 1) + 0.5, flow)


@dataclass(frozen=True)
class Samples:
    """Points and pixels of all pairs, one after another. `frame` says whose they are."""

    points: Floats
    frame: Floats
    lag_s: Floats
    own: Floats
    """(n,3) as in `Pair.own`, zero where unknown."""
    pixels: Floats
    pixel_frame: Floats
    is_area: Floats


@dataclass(frozen=True)
class Residuals:
    """`r` (n,) pixels and its derivative `J` (n,7)."""

    r: Floats
    J: Floats
    frame: Floats


class Problem:
    """All pairs of one calibration, ready for evaluation."""

    def __init__(self, pairs: Sequence[Pair], K: Floats) -> None:
        self.pairs, self.K = list(pairs), np.asarray(K, float)
        self.fields = [field(p) for p in pairs]
        self.height, self.width = self.fields[0].distance.shape
        self._distance = np.stack([f.distance for f in self.fields])
        flows = [f.flow for f in self.fields]
        self._flow = np.stack(flows) if all(f is not None for f in flows) else None  # type: ignore[arg-type]
        twists = [np.zeros(6) if p.twist is None else p.twist for p in pairs]
        self._twist = np.stack(twists).astype(float)
        self.knows_motion = self._flow is not None or any(p.twist is not None for p in pairs)

    def sample(
        self,
        rng: np.random.Generator,
        points: int,
        pixels: int,
        contour: float,
        frames: Sequence[int] | None = None,
        each_moves: bool = True,
    ) -> Samples:
        """At most so many points and pixels of each pair; `contour` is the share of pixels from the mask's edge.
        `each_moves=False` leaves out the points' own moments and velocities."""
        xyz, frame, lag, own, uv, uv_frame, area = [], [], [], [], [], [], []
        for k in range(len(self.pairs)) if frames is None else frames:
            pair, looked = self.pairs[k], self.fields[k]
            usable = np.arange(len(pair.points))
            if each_moves and pair.own is not None:
                usable = np.flatnonzero(np.isfinite(pair.own).all(1))
            some = rng.choice(usable, points, replace=False) if len(usable) > points else usable
            xyz.append(pair.points[some])
            frame.append(np.full(len(some), k))
            ages = pair.ages_s[some] if each_moves and pair.ages_s is not None else np.zeros(len(some))
            lag.append(pair.lag_s + ages)
            own.append(pair.own[some] if each_moves and pair.own is not None else np.zeros((len(some), 3)))
            for places, share, is_area in ((looked.contour, contour, 0), (looked.area, 1.0 - contour, 1)):
                wanted = round(pixels * share)
                if wanted and len(places):
                    taken = places[rng.choice(len(places), min(wanted, len(places)), replace=False)]
                    uv.append(taken)
                    uv_frame.append(np.full(len(taken), k))
                    area.append(np.full(len(taken), is_area))
        return Samples(
            np.concatenate(xyz) if xyz else np.zeros((0, 3)),
            np.concatenate(frame) if frame else np.zeros(0, int),
            np.concatenate(lag) if lag else np.zeros(0),
            np.concatenate(own) if own else np.zeros((0, 3)),
            np.concatenate(uv) if uv else np.zeros((0, 2)),
            np.concatenate(uv_frame) if uv_frame else np.zeros(0, int),
            np.concatenate(area) if area else np.zeros(0, int),
        )

    def project(self, state: State, s: Samples) -> tuple[Floats, Floats, Floats]:
        """Where the points are in the pictures: uv (n,2), derivative (n,2,7), and which are in front of the camera."""
        tau = state.offset_s + s.lag_s
        # The flow already holds what moves by itself.
        carried = s.points if self._flow is not None else s.points + tau[:, None] * s.own
        c = moved(state.T, carried)
        turned = c - state.T[:3, 3]
        by_offset = np.zeros_like(c)
        if self._flow is None:
            twist = self._twist[s.frame]
            own = s.own @ state.T[:3, :3].T
            passing = twist[:, :3] + np.cross(twist[:, 3:], c)
            by_offset = passing + own + tau[:, None] * np.cross(twist[:, 3:], own)
            c = c + tau[:, None] * passing
        ahead = c[:, 2] > NEAR_M
        z = np.where(ahead, c[:, 2], 1.0)
        fx, fy = self.K[0, 0], self.K[1, 1]
        x, y = c[:, 0] / z, c[:, 1] / z
        uv = np.stack([fx * x + self.K[0, 2], fy * y + self.K[1, 2]], 1)
        P = np.zeros((len(c), 2, 3))
        P[:, 0, 0], P[:, 0, 2] = fx / z, -fx * x / z
        P[:, 1, 1], P[:, 1, 2] = fy / z, -fy * y / z
        by_time = P
        if self._flow is None:
            # A turning rig turns what a step of the pose does, too.
            P = P + tau[:, None, None] * np.cross(P, twist[:, None, 3:])
        J = np.empty((len(c), 2, CHUNK))
        J[:, :, 0] = P[:, :, 2] * turned[:, None, 1] - P[:, :, 1] * turned[:, None, 2]
        J[:, :, 1] = P[:, :, 0] * turned[:, None, 2] - P[:, :, 2] * turned[:, None, 0]
        J[:, :, 2] = P[:, :, 1] * turned[:, None, 0] - P[:, :, 0] * turned[:, None, 1]
        J[:, :, 3:6] = P
        if self._flow is not None:
            # The flow belongs to where a point is in the picture, so it is looked up there, by a step of fixed
            # point iteration; places outside the picture take the flow of its nearest pixel. Whether a point is in
            # the picture is asked only after it has moved: the other order would pull the offset to zero.
            rate = self._rate(uv, s.frame)
            rate = self._rate(uv + tau[:, None] * rate, s.frame)
            uv = uv + tau[:, None] * rate
            J[:, :, 6] = rate
        else:
            J[:, :, 6] = np.einsum("nij,nj->ni", by_time, by_offset)
        return uv, J, ahead

    def _rate(self, uv: Floats, frame: Floats) -> Floats:
        assert self._flow is not None
        x = np.clip(uv[:, 0], 0, self.width - 1).astype(int)
        y = np.clip(uv[:, 1], 0, self.height - 1).astype(int)
        return self._flow[frame, y, x]

    def in_picture(self, uv: Floats, ahead: Floats) -> Floats:
        """bool (n,)."""
        return ahead & (uv[:, 0] >= 0) & (uv[:, 1] >= 0) & (uv[:, 0] < self.width) & (uv[:, 1] < self.height)

    def outside(self, uv: Floats, J: Floats, inside: Floats, s: Samples) -> Residuals:
        """Point to pixel, for the points in the picture."""
        uv, J, frame = uv[inside], J[inside], s.frame[inside]
        x = np.clip(uv[:, 0] - 0.5, 0, self.width - 1.001)
        y = np.clip(uv[:, 1] - 0.5, 0, self.height - 1.001)
        i, j = x.astype(int), y.astype(int)
        a, b = x - i, y - j
        D = self._distance
        d00, d10, d01, d11 = D[frame, j, i], D[frame, j, i + 1], D[frame, j + 1, i], D[frame, j + 1, i + 1]
        r = (1 - b) * ((1 - a) * d00 + a * d10) + b * ((1 - a) * d01 + a * d11)
        gx = (1 - b) * (d10 - d00) + b * (d11 - d01)
        gy = (1 - a) * (d01 - d00) + a * (d11 - d10)
        return Residuals(r, gx[:, None] * J[:, 0] + gy[:, None] * J[:, 1], frame)

    def uncovered(self, uv: Floats, J: Floats, ahead: Floats, s: Samples) -> Residuals:
        """Pixel to point, for all sampled pixels whose picture has points in front of the camera."""
        near = ahead & (np.abs(uv) < 0.4 * APART_PX).all(1)
        if not near.any() or not len(s.pixels):
            return Residuals(np.zeros(0), np.zeros((0, CHUNK)), np.zeros(0, int))
        at = np.flatnonzero(near)
        tree = cKDTree(np.column_stack([uv[at], APART_PX * s.frame[at]]), balanced_tree=False, compact_nodes=False)
        r, found = tree.query(np.column_stack([s.pixels, APART_PX * s.pixel_frame]))
        # A picture without any point has none to pull.
        same = r < 0.5 * APART_PX
        k = at[np.where(same, found, 0)]
        n = (uv[k] - s.pixels) / np.maximum(r, 1e-9)[:, None]
        J = n[:, 0, None] * J[k, 0] + n[:, 1, None] * J[k, 1]
        return Residuals(np.where(same, r, 0.0), np.where(same[:, None], J, 0.0), s.pixel_frame)
