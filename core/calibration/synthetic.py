"""Sequences with known truth for calibration: a drive past parked cars, and a room with people, made of boxes and
ellipsoids that are ray traced in numpy.

Everything is a function of the seed and of time, so that pictures and scans can be made for any moment. World frame: z
up, metres, seconds. Knows nothing of solvers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from core.calibration.flow import Flow
from core.calibration.geometry import T_CAMERA_AXES, Floats, inverse, moved, rigid, rotation, twist_between
from core.calibration.recording import Scan
from core.opencv import opencv

Ints = NDArray[np.int64]

FAR_M = 1e6

CLASS, OTHER, SKY = 1, 0, -1
"""What a ray can meet."""


@dataclass(frozen=True)
class Solids:
    """n boxes and ellipsoids at one moment. `T` (n,3,3) takes the unit cube or unit ball to the world's axes, `at`
    (n,3) is the middle, `round` bool (n,), `label` int (n,) CLASS or OTHER, `part` int (n,) for the texture."""

    T: Floats
    at: Floats
    round: NDArray[np.bool_]
    label: Ints
    part: Ints

    def __add__(self, other: Solids) -> Solids:
        pairs = [(getattr(self, f), getattr(other, f)) for f in ("T", "at", "round", "label", "part")]
        return Solids(*(np.concatenate(p) for p in pairs))


def _solids(rows: list[tuple[Floats, Floats, bool, int, int]]) -> Solids:
    T, at, is_round, label, part = zip(*rows, strict=True)
    return Solids(np.stack(T), np.stack(at), np.array(is_round), np.array(label), np.array(part))


def _corners(solids: Solids, k: int) -> Floats:
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    return signs @ solids.T[k].T + solids.at[k]


@dataclass(frozen=True)
class Met:
    """Per ray: `t` in lengths of its direction (FAR_M for sky), `label`, and `solid`, -1 for ground and sky."""

    t: Floats
    label: Ints
    solid: Ints


def _meet(solids: Solids, k: int, origin: Floats, directions: Floats) -> Floats:
    """Where rays enter one solid, FAR_M where they miss."""
    M = np.linalg.inv(solids.T[k])
    o = (M @ (origin - solids.at[k])).astype(np.float32)
    d = directions @ M.T.astype(np.float32)
    if solids.round[k]:
        a, b, c = np.einsum("...i,...i->...", d, d), d @ o, float(o @ o) - 1.0
        root = b * b - a * c
        t = (-b - np.sqrt(np.maximum(root, 0))) / a
        good = (root > 0) & (t > 1e-3)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = (-1 - o) / d, (1 - o) / d
        enter, leave = np.fmin(low, high).max(-1), np.fmax(low, high).min(-1)
        t, good = enter, (enter < leave) & (enter > 1e-3)
    return np.where(good, t, np.float32(FAR_M))


def trace(solids: Solids, origin: Floats, directions: Floats, windows: list[tuple[slice, slice] | None]) -> Met:
    """Rays from `origin` (3,) along `directions` float32 (h,w,3); solid k is only looked for in `windows[k]`."""
    dz = directions[..., 2]
    with np.errstate(divide="ignore"):
        ground = np.where(dz < -1e-6, np.float32(-origin[2]) / dz, np.float32(FAR_M))
    t = np.minimum(ground, np.float32(FAR_M))
    label = np.where(t < FAR_M, OTHER, SKY)
    solid = np.full(t.shape, -1)
    for k, window in enumerate(windows):
        if window is None:
            continue
        found = _meet(solids, k, origin, directions[window])
        nearer = found < t[window]
        t[window][nearer] = found[nearer]
        label[window][nearer] = solids.label[k]
        solid[window][nearer] = k
    return Met(t, label, solid)


# ---- sensors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pinhole:
    """A camera, or a depth camera, without distortion; focal length in pixels."""

    width: int
    height: int
    focal: float

    @property
    def K(self) -> Floats:
        return np.array([[self.focal, 0, self.width / 2], [0, self.focal, self.height / 2], [0, 0, 1.0]])

    def rays(self) -> Floats:
        """float32 (H,W,3) in the camera frame, of depth 1."""
        u = (np.arange(self.width) + 0.5 - self.width / 2) / self.focal
        v = (np.arange(self.height) + 0.5 - self.height / 2) / self.focal
        return np.stack(np.broadcast_arrays(u[None], v[:, None], 1.0), -1).astype(np.float32)

    def look(self, solids: Solids, T_world_cam: Floats) -> Met:
        """The picture from one pose; `t` is depth in metres."""
        T_cam_world = inverse(T_world_cam)
        windows: list[tuple[slice, slice] | None] = []
        for k in range(len(solids.at)):
            c = moved(T_cam_world, _corners(solids, k))
            if c[:, 2].max() < 0.1:
                windows.append(None)
                continue
            if c[:, 2].min() < 0.1:
                windows.append((slice(None), slice(None)))
                continue
            u = self.focal * c[:, 0] / c[:, 2] + self.width / 2
            v = self.focal * c[:, 1] / c[:, 2] + self.height / 2
            x = np.clip([u.min() - 1, u.max() + 2], 0, self.width).astype(int)
            y = np.clip([v.min() - 1, v.max() + 2], 0, self.height).astype(int)
            windows.append((slice(*y), slice(*x)) if x[0] < x[1] and y[0] < y[1] else None)
        directions = self.rays() @ T_world_cam[:3, :3].T.astype(np.float32)
        return trace(solids, T_world_cam[:3, 3], directions, windows)


@dataclass(frozen=True)
class Sweeper:
    """A turning LiDAR; its frame is x forward, y left, z up. Only the part that looks ahead is made."""

    lowest_deg: float
    highest_deg: float
    beams: int
    step_deg: float
    half_view_deg: float
    blocks: int
    """Moments that a sweep is made of: between them everything has moved on."""
    period_s: float = 0.1

    def columns(self) -> Floats:
        """Azimuths in radians, counter-clockwise, as they are swept."""
        return np.radians(np.arange(-self.half_view_deg, self.half_view_deg, self.step_deg))

    def rays(self, azimuth: Floats) -> Floats:
        e = np.radians(np.linspace(self.highest_deg, self.lowest_deg, self.beams))[:, None]
        x, y, z = np.cos(e) * np.cos(azimuth), np.cos(e) * np.sin(azimuth), np.sin(e)
        return np.stack(np.broadcast_arrays(x, y, z), -1).astype(np.float32)

    def look(self, solids: Solids, T_world_lidar: Floats, azimuth: Floats) -> tuple[Met, Floats]:
        """Some columns at one moment, with the rays in the LiDAR frame."""
        T_lidar_world = inverse(T_world_lidar)
        windows: list[tuple[slice, slice] | None] = []
        for k in range(len(solids.at)):
            c = moved(T_lidar_world, _corners(solids, k))
            if c[:, 0].min() < 0.1:
                windows.append((slice(None), slice(None)) if c[:, 0].max() > 0.1 else None)
                continue
            a = np.arctan2(c[:, 1], c[:, 0])
            x = np.searchsorted(azimuth, [a.min(), a.max()])
            windows.append((slice(None), slice(max(x[0] - 1, 0), x[1] + 1)) if x[0] < x[1] else None)
        rays = self.rays(azimuth)
        directions = rays @ T_world_lidar[:3, :3].T.astype(np.float32)
        return trace(solids, T_world_lidar[:3, 3], directions, windows), rays


# ---- noise ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise:
    """How far the inputs are from the truth. Pixels, metres, seconds, shares of 1."""

    edge_px: float = 2.0
    """Standard deviation of the mask's edge, which varies along it and from picture to picture."""
    grow_px: int = 1
    """A whole mask is up to this much too large or too small."""
    blobs: float = 0.1
    """Share of pictures with a false blob."""
    missing: float = 0.0
    """Share of objects that the mask misses."""
    range_m: float = 0.02
    dropped: float = 0.05
    bleeding: float = 0.03
    """Share of points wrongly given the class, from within 35 cm of it."""
    false_points: float = 0.005
    speed: float = 0.05
    """Scale error of the velocity; its direction is off by a fifth of that, its turning rate by 0.1 degrees/s."""
    flow: float = 0.05
    flow_px_s: float = 3.0
    clock_s: float = 0.001


CLEAN = Noise(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
MODERATE = Noise()
HARSH = replace(MODERATE, missing=0.05, blobs=0.3)


def _noisy_mask(mask: NDArray[np.bool_], noise: Noise, rng: np.random.Generator) -> NDArray[np.bool_]:
    cv2 = opencv()
    if noise.missing:
        count, parts = cv2.connectedComponents(mask.astype(np.uint8))
        mask = mask & ~np.isin(parts, 1 + np.flatnonzero(rng.random(count - 1) < noise.missing))
    if noise.edge_px or noise.grow_px:
        solid = mask.astype(np.uint8)
        signed = cv2.distanceTransform(1 - solid, cv2.DIST_L2, 5) - cv2.distanceTransform(solid, cv2.DIST_L2, 5)
        small = rng.standard_normal((mask.shape[0] // 8 + 2, mask.shape[1] // 8 + 2)).astype(np.float32)
        field = cv2.GaussianBlur(cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_CUBIC), (0, 0), 6)
        field *= noise.edge_px / max(float(field.std()), 1e-6)
        mask = signed < field + int(rng.integers(-noise.grow_px, noise.grow_px + 1))
    if rng.random() < noise.blobs:
        h, w = mask.shape
        blob = np.zeros(mask.shape, np.uint8)
        centre = (int(rng.uniform(0, w)), int(rng.uniform(0.3 * h, h)))
        axes = (int(rng.uniform(0.01, 0.04) * w), int(rng.uniform(0.01, 0.04) * w))
        cv2.ellipse(blob, centre, axes, 0, 0, 360, 1, -1)
        mask = mask | (blob > 0)
    return mask


def _noisy_points(
    points: Floats, chosen: NDArray[np.bool_], ages: Floats, noise: Noise, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_], Floats]:
    from scipy.spatial import cKDTree

    far = np.linalg.norm(points, axis=1, keepdims=True)
    points = points * (1.0 + noise.range_m * rng.standard_normal(far.shape) / np.maximum(far, 0.1))
    kept = rng.random(len(points)) >= noise.dropped
    points, chosen, ages = points[kept], chosen[kept].copy(), ages[kept]
    ours, others = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    if len(ours) and len(others) and noise.bleeding:
        near, _ = cKDTree(points[ours]).query(points[others], distance_upper_bound=0.35)
        beside = others[near < 0.35]
        chosen[rng.permutation(beside)[: round(noise.bleeding * len(ours))]] = True
    if len(others) and noise.false_points:
        chosen[rng.choice(others, round(noise.false_points * len(ours)))] = True
    return points, chosen, ages


# ---- sequences -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """What a solver has to find."""

    T_cam_lidar: Floats
    offset_s: float


class Sequence:
    """A `Recording` with known truth. Made by `drive` and `room`."""

    def __init__(
        self,
        seed: int,
        truth: Truth,
        camera: Pinhole,
        lidar: Sweeper | Pinhole,
        solids: Callable[[float], Solids],
        T_world_cam: Callable[[float], Floats],
        camera_s: Floats,
        lidar_s: Floats,
        noise: Noise,
        moving: bool,
        estimated_flow: bool,
    ) -> None:
        self.seed, self.truth, self.noise = seed, truth, noise
        self.camera, self.lidar = camera, lidar
        self.K, self.size = camera.K, (camera.width, camera.height)
        self._solids, self.T_world_cam = solids, T_world_cam
        self._moving, self._estimated_flow = moving, estimated_flow
        rng = np.random.default_rng((seed, 9))
        self._lidar_s = lidar_s
        self._camera_s = camera_s + truth.offset_s
        jitter = noise.clock_s * rng.standard_normal(len(camera_s))
        # A clock may wobble but does not run backwards.
        self.camera_ns = [
            round((s + max(-0.004, min(0.004, j)) + 100.0) * 1e9) for s, j in zip(camera_s, jitter, strict=True)
        ]
        self.lidar_ns = [round((s + 100.0) * 1e9) for s in lidar_s]
        self._dis = Flow()
        self._met: tuple[int, Met] | None = None
        self._pictures: dict[int, NDArray[np.uint8]] = {}

    def _rng(self, what: int, number: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, what, number))

    def met(self, picture: int) -> Met:
        """The exact picture: labels, depth."""
        if self._met is None or self._met[0] != picture:
            now = self._camera_s[picture]
            self._met = (picture, self.camera.look(self._solids(now), self.T_world_cam(now)))
        return self._met[1]

    def true_mask(self, picture: int) -> NDArray[np.bool_]:
        return self.met(picture).label == CLASS

    def mask(self, picture: int) -> NDArray[np.bool_]:
        return _noisy_mask(self.true_mask(picture), self.noise, self._rng(1, picture))

    def depth(self, picture: int) -> Floats:
        """True depth, float32 (H,W), inf for sky."""
        t = self.met(picture).t
        return np.where(t >= FAR_M, np.float32(np.inf), t)

    def scan(self, number: int) -> Scan:
        now = self._lidar_s[number]
        T_cam_lidar = self.truth.T_cam_lidar
        clouds, labels, ages = [], [], []
        if isinstance(self.lidar, Pinhole):
            met = self.lidar.look(self._solids(now), self.T_world_cam(now) @ T_cam_lidar @ _depth_axes())
            hit = met.t < 50.0
            clouds.append((self.lidar.rays()[hit] * met.t[hit][:, None]) @ T_CAMERA_AXES)
            labels.append(met.label[hit] == CLASS)
            ages.append(np.zeros(int(hit.sum())))
        else:
            azimuth = self.lidar.columns()
            share = self.lidar.period_s / (2 * math.pi)
            for block in np.array_split(azimuth, self.lidar.blocks):
                age = -float(block.mean()) * share
                moment = now - age
                met, rays = self.lidar.look(self._solids(moment), self.T_world_cam(moment) @ T_cam_lidar, block)
                hit = met.t < 90.0
                clouds.append(rays[hit] * met.t[hit][:, None])
                labels.append(met.label[hit] == CLASS)
                ages.append(np.full(int(hit.sum()), age))
        points, chosen, of_point = _noisy_points(
            np.concatenate(clouds).astype(float),
            np.concatenate(labels),
            np.concatenate(ages),
            self.noise,
            self._rng(2, number),
        )
        return Scan(points, chosen, of_point)

    def true_twist(self, picture: int) -> Floats:
        """(6,) of static points in the camera frame."""
        now, h = self._camera_s[picture], 1e-3
        return twist_between(self.T_world_cam(now - h), self.T_world_cam(now + h), 2 * h)

    def twist(self, picture: int) -> Floats | None:
        if not self._moving:
            return None
        rng, true = self._rng(3, picture), self.true_twist(picture)
        v, n = true[:3], self.noise
        v = v * (1.0 + n.speed * rng.standard_normal()) + 0.2 * n.speed * np.linalg.norm(v) * rng.standard_normal(3)
        wobble = math.radians(0.1) * (n.speed > 0)
        return np.concatenate([v, true[3:] + wobble * rng.standard_normal(3)])

    def true_flow(self, picture: int) -> Floats:
        """float32 (H,W,2), pixels per second of what is seen at each pixel; zero for sky."""
        now, h = self._camera_s[picture], 1e-3
        met, here = self.met(picture), self._solids(now)
        T_world_cam = self.T_world_cam(now)
        places = moved(
            T_world_cam, (self.camera.rays() * np.minimum(met.t, 1e4)[..., None]).reshape(-1, 3).astype(float)
        )
        solid = met.solid.ravel()
        on = solid >= 0
        ends = []
        for sign in (-1, 1):
            there = self._solids(now + sign * h)
            q = places.copy()
            A = there.T @ np.linalg.inv(here.T)
            k = solid[on]
            q[on] = np.einsum("nij,nj->ni", A[k], places[on] - here.at[k]) + there.at[k]
            c = moved(inverse(self.T_world_cam(now + sign * h)), q)
            ends.append(self.camera.focal * c[:, :2] / np.maximum(c[:, 2:], 0.1))
        flow = ((ends[1] - ends[0]) / (2 * h)).reshape(*met.t.shape, 2)
        return np.where((met.label == SKY)[..., None], 0.0, flow).astype(np.float32)

    def flow(self, picture: int) -> Floats | None:
        if self._moving:
            return None
        if not self._estimated_flow:
            rng, true = self._rng(4, picture), self.true_flow(picture)
            small = rng.standard_normal((true.shape[0] // 16 + 2, true.shape[1] // 16 + 2, 2)).astype(np.float32)
            rough = opencv().resize(small, true.shape[1::-1], interpolation=opencv().INTER_CUBIC)
            return true * np.float32(1.0 + self.noise.flow * rng.standard_normal()) + self.noise.flow_px_s * rough
        last = len(self._camera_s) - 1
        at = min(max(picture, 1), last - 1)
        s = self._camera_s
        return self._dis.rate(
            self.picture(at - 1), self.picture(at), self.picture(at + 1), (s[at] - s[at - 1], s[at + 1] - s[at])
        )

    def picture(self, picture: int) -> NDArray[np.uint8]:
        """uint8 (H,W,3): textured, with a little sensor noise."""
        if picture not in self._pictures:
            self._pictures[picture] = self._paint(picture)
        return self._pictures[picture]

    def _paint(self, picture: int) -> NDArray[np.uint8]:
        now = self._camera_s[picture]
        met, solids = self.met(picture), self._solids(now)
        where = moved(
            self.T_world_cam(now),
            (self.camera.rays() * np.minimum(met.t, 200.0)[..., None]).reshape(-1, 3).astype(float),
        )
        solid = met.solid.ravel()
        local = where.copy()
        scale = np.linalg.norm(solids.T, axis=1)
        turn = np.linalg.inv(solids.T / scale[:, None, :])
        on = solid >= 0
        k = solid[on]
        local[on] = np.einsum("nij,nj->ni", turn[k], where[on] - solids.at[k])
        part = np.where(on, solids.part[np.maximum(solid, 0)], 0)
        waves = np.random.default_rng((self.seed, 5)).normal(0, 1, (64, 6, 4))
        reach = np.array([3.0, 6.0, 12.0, 24.0, 48.0, 80.0])
        shade = np.zeros(len(local))
        of_part = waves[part % 64]
        for i in range(6):
            phase = (of_part[:, i, :3] * local).sum(1) * reach[i] + 6 * of_part[:, i, 3]
            shade += np.sin(phase) * (1.0, 1.0, 0.8, 0.7, 0.5, 0.3)[i]
        base = np.random.default_rng((self.seed, 6)).uniform(60, 190, (64, 3))[part % 64]
        colour = base + 16.0 * shade[:, None]
        colour[(met.label == SKY).ravel()] = (150, 190, 230)
        colour += self._rng(7, picture).normal(0, 2.0, colour.shape)
        return np.clip(colour, 0, 255).astype(np.uint8).reshape(*met.t.shape, 3)

    def start(self, rotation_deg: float = 5.0, translation_m: float = 0.3) -> Floats:
        """A first guess: the truth with each axis off by up to so much."""
        rng = np.random.default_rng((self.seed, 8))
        off = rigid(rotation(np.radians(rng.uniform(-rotation_deg, rotation_deg, 3))), np.zeros(3))
        T = off @ self.truth.T_cam_lidar
        T[:3, 3] = self.truth.T_cam_lidar[:3, 3] + rng.uniform(-translation_m, translation_m, 3)
        return T


def _depth_axes() -> Floats:
    """Takes camera axes to those of a LiDAR."""
    return rigid(T_CAMERA_AXES.T, np.zeros(3))


def _box(middle: tuple[float, float, float], half: tuple[float, float, float], yaw: float, label: int, part: int):  # type: ignore[no-untyped-def]
    return (rotation(np.array([0.0, 0.0, yaw])) * np.array(half), np.array(middle, float), False, label, part)


def _car(x: float, y: float, yaw: float, part: int, scale: float):  # type: ignore[no-untyped-def]
    c, s = math.cos(yaw), math.sin(yaw)
    back = -0.25 * scale
    return [
        _box((x, y, 0.62), (2.1 * scale, 0.88, 0.40), yaw, CLASS, part),
        _box((x + c * back, y + s * back, 1.25), (1.15 * scale, 0.76, 0.25), yaw, CLASS, part + 1),
    ]


PROFILES = ("stop-go", "varying", "constant")


def drive(
    seed: int,
    profile: str = "stop-go",
    noise: Noise = MODERATE,
    frames: int = 15,
    largest_offset_s: float = 0.1,
    camera: Pinhole | None = None,
) -> Sequence:
    """A drive past parked cars: 1242 x 375 pixels, a 64-beam LiDAR at 10 Hz, KITTI's axes.

    profile: `stop-go` stands for a third of its frames and then drives off, `varying` drives at 3 to 11 m/s,
    `constant` at 9 m/s. The clock offset is drawn from plus and minus `largest_offset_s`.
    """
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}; use one of {', '.join(PROFILES)}")
    rng = np.random.default_rng((seed, 0))
    rows = []
    for side in (-1, 1):
        x = rng.uniform(-8, 2)
        while x < 130:
            if rng.random() < 0.75:
                y = side * rng.uniform(3.6, 4.6)
                part = int(rng.integers(1, 60))
                rows += _car(x, y, rng.normal(0, 0.06) + (math.pi if side > 0 else 0), part, rng.uniform(0.85, 1.15))
            x += rng.uniform(6, 14)
        x = rng.uniform(-10, 10)
        while x < 150:
            half = (rng.uniform(4, 9), 4.0, rng.uniform(2, 6))
            rows.append(_box((x, side * rng.uniform(12.5, 15), half[2]), half, 0.0, OTHER, int(rng.integers(1, 60))))
            x += 2 * half[0] + rng.uniform(0, 6)
        for x in np.arange(rng.uniform(0, 20), 130, 18.0):
            rows.append(_box((x, side * 2.9, 2.5), (0.08, 0.08, 2.5), 0.0, OTHER, int(rng.integers(1, 60))))
    still = _solids(rows)
    lanes = [
        (rng.uniform(18, 30), 0.3, rng.uniform(-1, 2), 0.0),
        *((rng.uniform(30, 90), 2.2, -rng.uniform(5, 9), math.pi) for _ in range(2)),
    ]
    phase, rate = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 0.8)

    def travelled(s: float) -> float:
        if profile == "stop-go":
            gone = max(0.0, s - 2.5)
            full = 9.0 / 1.8
            return 0.9 * gone**2 if gone < full else 0.9 * full**2 + 9.0 * (gone - full)
        if profile == "varying":
            return 7.0 * s - 4.0 / rate * (math.cos(rate * s + phase) - math.cos(phase))
        return 9.0 * s

    def solids(s: float) -> Solids:
        ahead = []
        for number, (x, y, speed, yaw) in enumerate(lanes):
            at = x + (travelled(s) + speed * s if number == 0 else speed * s)
            ahead += _car(at, y, yaw, 40 + 2 * number, 1.0)
        near = np.abs(still.at[:, 0] - travelled(s) - 35) < 60
        seen = Solids(still.T[near], still.at[near], still.round[near], still.label[near], still.part[near])
        return seen + _solids(ahead)

    sway = 0.0 if profile == "constant" else 1.0

    def T_world_cam(s: float) -> Floats:
        x = travelled(s)
        yaw = sway * 0.03 * math.sin(0.08 * x + phase)
        R = rotation(np.array([0.0, 0.0, yaw])) @ rotation(np.array([0.0, sway * 0.004 * math.sin(1.9 * s), 0.0]))
        place = np.array([x, -1.5 + sway * 0.35 * math.sin(0.05 * x + phase), 1.65])
        return rigid(R @ T_CAMERA_AXES.T, place)

    times = {
        "stop-go": np.concatenate([np.linspace(0.3, 2.2, frames // 3), np.linspace(3.6, 9.5, frames - frames // 3)]),
        "varying": np.linspace(0.5, 9.5, frames),
        "constant": np.linspace(0.5, 9.5, frames),
    }[profile].round(1)
    truth = Truth(
        rigid(
            rotation(np.radians(rng.uniform(-1, 1, 3))) @ T_CAMERA_AXES,
            np.array([0.0, -0.08, -0.27]) + rng.uniform(-0.1, 0.1, 3),
        ),
        float(rng.uniform(-largest_offset_s, largest_offset_s)),
    )
    sensor = Sweeper(2.0, -24.8, 64, 0.2, 50.0, 5)
    return Sequence(
        seed, truth, camera or Pinhole(1242, 375, 721.5), sensor, solids, T_world_cam, times, times, noise, True, False
    )


LIMBS = (
    # where on the body (x ahead, y left, z up), half sizes, swing in metres at the end of the limb
    ((0.0, 0.0, 1.62), (0.10, 0.09, 0.13), 0.0),
    ((0.0, 0.0, 1.25), (0.13, 0.21, 0.30), 0.0),
    ((0.0, 0.0, 0.95), (0.13, 0.18, 0.16), 0.0),
    ((0.0, 0.27, 1.15), (0.06, 0.06, 0.32), 0.22),
    ((0.0, -0.27, 1.15), (0.06, 0.06, 0.32), -0.22),
    ((0.0, 0.10, 0.66), (0.09, 0.09, 0.26), -0.20),
    ((0.0, -0.10, 0.66), (0.09, 0.09, 0.26), 0.20),
    ((0.0, 0.10, 0.24), (0.07, 0.07, 0.25), -0.42),
    ((0.0, -0.10, 0.24), (0.07, 0.07, 0.25), 0.42),
)

DEPTH_CAMERA = Pinhole(160, 144, 105.0)
ROOM_LIDAR = Sweeper(22.5, -22.5, 129, 0.35, 60.0, 5)


def room(
    seed: int,
    sensor: str = "depth",
    noise: Noise = MODERATE,
    frames: int = 20,
    people: int = 3,
    largest_offset_s: float = 0.1,
    estimated_flow: bool = False,
    seconds: float = 10.0,
    camera: Pinhole | None = None,
    camera_hz: float = 30.0,
) -> Sequence:
    """An installation: a fixed camera, of 640 x 360 pixels by default, a fixed depth camera or LiDAR half a metre away,
    and people who walk about.

    sensor: `depth` (160 x 144 at 30 Hz) or `lidar` (129 beams at 10 Hz). estimated_flow: the flow is DIS between
    rendered pictures instead of the truth with noise. `frames` scans are spread over `seconds`.
    """
    if sensor not in ("depth", "lidar"):
        raise ValueError(f"no sensor {sensor!r}; use depth or lidar")
    rng = np.random.default_rng((seed, 1))
    walls = _solids(
        [
            _box((8.2, 0, 2), (0.2, 9, 2.2), 0.0, OTHER, 1),
            _box((3, 6.2, 2), (9, 0.2, 2.2), 0.0, OTHER, 2),
            _box((3, -6.2, 2), (9, 0.2, 2.2), 0.0, OTHER, 3),
            _box((6.5, rng.uniform(-3, 3), 0.4), (0.4, 0.8, 0.4), 0.3, OTHER, 4),
        ]
    )
    walkers = []
    for _ in range(people):
        walkers.append(
            (
                np.array([rng.uniform(3.6, 5.2), rng.uniform(-1.0, 1.0)]),
                np.array([rng.uniform(0.6, 1.4), rng.uniform(0.7, 1.8)]),
                rng.uniform(0.35, 0.6) * rng.choice([-1.0, 1.0], 2),
                rng.uniform(0, 2 * math.pi, 2),
                rng.uniform(0.92, 1.08),
                rng.uniform(5, 6.5),
            )
        )

    def person(number: int, s: float) -> list:  # type: ignore[type-arg]
        centre, reach, rate, phase, tall, stride = walkers[number]
        place = centre + reach * np.sin(rate * s + phase)
        way = reach * rate * np.cos(rate * s + phase)
        facing = 0.5 * math.sin(0.7 * s + phase[0]) + math.atan2(way[1], 1.2 + abs(way[0]))
        turned = rotation(np.array([0.0, 0.0, facing]))
        pace = math.sin(stride * s + phase[1]) * min(1.0, float(np.hypot(*way)) / 0.6)
        rows = []
        for k, (at, half, swing) in enumerate(LIMBS):
            lean = -math.atan2(swing * pace * 0.5, half[2])
            tilt = rotation(np.array([0.0, lean if swing else 0.0, 0.0]))
            local = np.array([at[0] + 0.5 * swing * pace, at[1], at[2]]) * tall
            T = turned @ tilt * (np.array(half) * tall)
            rows.append((T, np.array([*place, 0.0]) + turned @ local, True, CLASS, 10 + 9 * number + k))
        return rows

    def solids(s: float) -> Solids:
        rows = [row for number in range(people) for row in person(number, s)]
        return walls + _solids(rows) if rows else walls

    tilt = rotation(np.array([0.0, math.radians(8), 0.0]))
    pose = rigid(tilt @ T_CAMERA_AXES.T, np.array([0.0, 0.0, 1.75]))
    away = rng.normal(size=3) * (0.4, 1.0, 0.6)
    truth = Truth(
        rigid(
            rotation(np.radians(rng.uniform(-8, 8, 3))) @ T_CAMERA_AXES,
            T_CAMERA_AXES @ (0.5 * away / np.linalg.norm(away)),
        ),
        float(rng.uniform(-largest_offset_s, largest_offset_s)),
    )
    camera_s = np.arange(round(seconds * camera_hz)) / camera_hz
    rate = 30.0 if sensor == "depth" else 10.0
    lidar_s = np.linspace(0.4, seconds - 0.4, frames)
    # Scans do not fall on the camera's moments, but on those of a clock of their own.
    lidar_s = (lidar_s * rate).round() / rate + rng.uniform(0, 1 / 30.0)
    if not estimated_flow:
        camera_s = lidar_s
    return Sequence(
        seed,
        truth,
        camera or Pinhole(640, 360, 500.0),
        DEPTH_CAMERA if sensor == "depth" else ROOM_LIDAR,
        solids,
        lambda s: pose,
        camera_s,
        lidar_s,
        noise,
        False,
        estimated_flow,
    )
