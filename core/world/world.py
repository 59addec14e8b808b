"""One scene, or a batch of them, rendered at a time: colour and the planes that a game engine would also know.

Planes: "colour" uint8 (H,W,3); "depth" float32 (H,W), metres along the camera's z axis, inf for sky; "normal" float32
(H,W,3), unit, world frame, zero for sky; "motion" float32 (H,W,2), pixels (x right, y down) that the surface seen here
has moved since `motion_dt_s` ago, so the pixel's place in the previous frame is its place now minus motion; "instance"
uint8 (H,W), 0 sky, 1 ground, 2 and up objects; "class" uint8 (H,W) into `CLASSES`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from core.world.scene import SHAPES, SLOT_SHAPES, Poses, Scenes, caption, poses_at, scenes_from_seeds
from core.world.shade import STYLES, Surface, shade
from core.world.trace import FAR_M, FIRST_OBJECT, GROUND, SKY, Hits, Rays, camera_rays, camera_reach, trace

CLASSES = ("sky", "ground", *SHAPES)
PLANES = ("colour", "depth", "normal", "motion", "instance", "class")

LIDAR_RANGE_M = 40.0
LIDAR_ELEVATION_RAD = (-0.42, 0.10)
"""Lowest and highest beam."""

T_CAM_LIDAR = torch.tensor(
    [[0.0, -1.0, 0.0, 0.05], [0.0, 0.0, -1.0, -0.12], [1.0, 0.0, 0.0, -0.03], [0.0, 0.0, 0.0, 1.0]]
)
"""Where the LiDAR sits on the camera rig; its frame is x forward, y left, z up."""


class View:
    """B scenes traced once at one time each, ready to be shaded in any number of styles.

    `window` = (x0 (B,), y0 (B,), w, h) in pixels renders only that part of each `width` x `height` picture.
    """

    def __init__(
        self,
        scenes: Scenes,
        time_s: Tensor,
        width: int,
        height: int,
        window: tuple[Tensor, Tensor, int, int] | None = None,
    ) -> None:
        self.scenes = scenes
        self.time_s = time_s
        self.picture = (width, height)
        self.window = window
        self.width, self.height = (window[2], window[3]) if window is not None else (width, height)
        self.poses: Poses = poses_at(scenes, time_s)
        self.rays: Rays = camera_rays(self.poses, scenes.camera[:, 7], width, height, window)
        alone = len(scenes) == 1 and window is None and scenes.light.device.type == "cpu"
        reach = camera_reach(scenes, self.poses, width, height) if alone else None
        self.hits: Hits = trace(scenes, self.poses, self.rays, reach)
        self._surface = Surface(scenes, self.poses, self.rays, self.hits, self.height, self.width)

    def in_colours(self, colour_BK: Tensor) -> View:
        """The same view with other object colours (as `Scenes.colour`); nothing is traced again."""
        other = copy.copy(self)
        other.scenes = replace(self.scenes, colour=colour_BK)
        other._surface = Surface(other.scenes, self.poses, self.rays, self.hits, self.height, self.width)
        return other

    def shade(self, style: str) -> Tensor:
        """Colour (B,3,H,W), float32 0..1."""
        return shade(self._surface, style)

    def _grid(self, values_BN: Tensor) -> Tensor:
        return values_BN.unflatten(1, (self.height, self.width))

    def colour(self, style: str) -> Tensor:
        """uint8 (B,H,W,3)."""
        return (self.shade(style) * 255.0 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def depth(self) -> Tensor:
        """float32 (B,H,W)."""
        return self._grid(torch.where(self.hits.instance == SKY, math.inf, self.hits.t))

    def normal(self) -> Tensor:
        """float32 (B,H,W,3)."""
        stacked = torch.stack([self.hits.nx, self.hits.ny, self.hits.nz], -1)
        return self._grid(stacked * (self.hits.instance != SKY).unsqueeze(-1))

    def instance(self) -> Tensor:
        """uint8 (B,H,W)."""
        return self._grid(self.hits.instance.to(torch.uint8))

    def classes(self) -> Tensor:
        """uint8 (B,H,W)."""
        of_instance = torch.tensor([0, 1, *(2 + kind for kind in SLOT_SHAPES)], dtype=torch.uint8)
        return self._grid(of_instance.to(self.hits.instance.device)[self.hits.instance])

    def motion(self, dt_s: float) -> Tensor:
        """float32 (B,H,W,2). Sky counts as infinitely far away."""
        rays, hits = self.rays, self.hits
        before = poses_at(self.scenes, self.time_s - dt_s)
        sky = hits.instance == SKY
        t = torch.where(sky, 1.0, hits.t)
        point = torch.stack([rays.ox + t * rays.dx, rays.oy + t * rays.dy, rays.oz + t * rays.dz], -1)
        slot = (hits.instance - FIRST_OBJECT).clamp_min(0)
        rows = torch.arange(len(self.scenes), device=t.device)[:, None]
        local = point - self.poses.centre[rows, slot]
        turned = (before.yaw - self.poses.yaw)[rows, slot]
        cos, sin = torch.cos(turned), torch.sin(turned)
        x, y, z = local.unbind(-1)
        moved = torch.stack([cos * x - sin * y, sin * x + cos * y, z], -1) + before.centre[rows, slot]
        previous = torch.where((hits.instance > GROUND).unsqueeze(-1), moved, point)
        away = torch.stack([rays.dx, rays.dy, rays.dz], -1)
        here = torch.where(sky.unsqueeze(-1), away, point - self.poses.T_world_cam[:, None, :3, 3])
        there = torch.where(sky.unsqueeze(-1), away, previous - before.T_world_cam[:, None, :3, 3])
        scale = self.scenes.camera[:, 7, None, None] * self.picture[0]

        def project(offset: Tensor, poses: Poses) -> Tensor:
            seen = offset @ poses.T_world_cam[:, :3, :3]
            return seen[..., :2] / seen[..., 2:].clamp_min(1e-6) * scale

        return self._grid(project(here, self.poses) - project(there, before))


def view(
    seeds: Sequence[int],
    time_s: Sequence[float],
    width: int,
    height: int,
    device: torch.device | str = "cpu",
) -> View:
    """Many scenes at once, for training data: one seed and one time per row."""
    times = torch.tensor(time_s, dtype=torch.float64)
    return View(scenes_from_seeds(seeds).to(device), times, width, height)


class World:
    """One scene that moves. The same seed (a whole number of at least 0) gives the same frames everywhere."""

    def __init__(self, seed: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed: got {seed!r}; use a whole number of at least 0")
        self.seed = seed
        self.scenes = scenes_from_seeds([seed])

    def _view(self, time_s: float, width: int, height: int) -> View:
        if not math.isfinite(time_s):
            raise ValueError(f"time_s: got {time_s!r}; use a finite number of seconds")
        if width < 1 or height < 1:
            raise ValueError(f"size: got {width}x{height}; use at least 1x1 pixels")
        return View(self.scenes, torch.tensor([time_s], dtype=torch.float64), width, height)

    def render(
        self,
        time_s: float = 0.0,
        width: int = 128,
        height: int = 128,
        style: str = "grey",
        planes: Sequence[str] = ("colour",),
        motion_dt_s: float = 1.0 / 30.0,
    ) -> dict[str, Tensor]:
        """The named planes of one frame. Raises `ValueError` for an unknown style or plane and for sizes below 1."""
        unknown = set(planes) - set(PLANES)
        if unknown:
            raise ValueError(f"no plane {sorted(unknown)}; use one of {', '.join(PLANES)}")
        seen = self._view(time_s, width, height)
        makers: dict[str, Callable[[], Tensor]] = {
            "colour": lambda: seen.colour(style),
            "depth": seen.depth,
            "normal": seen.normal,
            "motion": lambda: seen.motion(motion_dt_s),
            "instance": seen.instance,
            "class": seen.classes,
        }
        return {plane: makers[plane]()[0] for plane in planes}

    def caption(self, style: str = "grey", time_s: float = 0.0) -> str:
        """The prompt for one style. The objects of a scene never change, so `time_s` has no influence."""
        del time_s
        if style not in STYLES:
            raise ValueError(f"no style {style!r}; use one of {', '.join(STYLES)}")
        return caption(self.scenes, style)

    def T_world_cam(self, time_s: float) -> Tensor:
        """Camera pose, float32 (4,4): takes camera points (x right, y down, z forward) to the world."""
        return poses_at(self.scenes, torch.tensor([time_s], dtype=torch.float64)).T_world_cam[0]

    def T_cam_world(self, time_s: float) -> Tensor:
        """Inverse of `T_world_cam`."""
        return torch.linalg.inv(self.T_world_cam(time_s).double()).float()

    def T_world_lidar(self, time_s: float) -> Tensor:
        """LiDAR pose, float32 (4,4)."""
        return self.T_world_cam(time_s) @ T_CAM_LIDAR

    def intrinsics(self, width: int, height: int) -> Tensor:
        """Pinhole matrix, float32 (3,3), pixels; pixel (0,0) covers 0..1, so its centre is (0.5, 0.5)."""
        focal = float(self.scenes.camera[0, 7]) * width
        return torch.tensor([[focal, 0.0, width / 2.0], [0.0, focal, height / 2.0], [0.0, 0.0, 1.0]])

    def lidar(self, time_s: float = 0.0, beams: int = 32, columns: int = 360) -> Tensor:
        """One sweep, taken at one instant: float32 (N,4), x y z in metres in the LiDAR frame and intensity 0..1.

        `beams` elevations times `columns` azimuths; rays that meet nothing within LIDAR_RANGE_M give no point.
        """
        low, high = LIDAR_ELEVATION_RAD
        elevation = torch.linspace(low, high, beams)
        azimuth = torch.arange(columns) * (2.0 * math.pi / columns) - math.pi
        x = torch.cos(elevation)[:, None] * torch.cos(azimuth)
        y = torch.cos(elevation)[:, None] * torch.sin(azimuth)
        z = torch.sin(elevation)[:, None].expand_as(x)
        direction = torch.stack([x, y, z], -1).flatten(0, 1)
        T_world_lidar = self.T_world_lidar(time_s)
        d = direction @ T_world_lidar[:3, :3].T
        o = T_world_lidar[:3, 3]
        rays = Rays(*(o[i].reshape(1, 1) for i in range(3)), *(d[:, i][None] for i in range(3)))  # type: ignore[arg-type]
        hits = trace(self.scenes, poses_at(self.scenes, torch.tensor([time_s], dtype=torch.float64)), rays)
        t = hits.t[0]
        kept = (t < min(LIDAR_RANGE_M, FAR_M)) & (hits.instance[0] != SKY)
        facing = -(hits.nx[0] * d[:, 0] + hits.ny[0] * d[:, 1] + hits.nz[0] * d[:, 2])
        reflect = torch.where(hits.instance[0] == GROUND, 0.35, 0.9)
        return torch.cat([direction * t[:, None], (facing * reflect).clamp(0, 1)[:, None]], 1)[kept]
