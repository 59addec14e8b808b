"""What a scene consists of and where everything is at a given time: objects, light, camera.

World frame: z up, ground at z = 0, metres, seconds, radians. Camera frame: x right, y down, z forward.
A batch of B scenes has K object slots each; the shape of a slot is fixed, a slot may be empty. All objects of one
shape in a scene share a colour, so that a caption names every colour without ambiguity. Knows nothing of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

SHAPES = ("sphere", "box", "cylinder", "cone")
SLOT_SHAPES = (0, 0, 1, 1, 2, 3)
"""Index into SHAPES of each object slot."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.50, 0.05),
    "yellow": (0.95, 0.88, 0.10),
    "green": (0.10, 0.68, 0.18),
    "cyan": (0.10, 0.80, 0.85),
    "blue": (0.12, 0.25, 0.95),
    "purple": (0.60, 0.15, 0.85),
    "white": (0.95, 0.95, 0.95),
}
COLOUR_NAMES = tuple(COLOURS)

_PLACING_TRIES = 200


@dataclass(frozen=True)
class Scenes:
    """B scenes. `present` is bool (B,K), `colour` int64 (B,K) into COLOUR_NAMES, the rest float32.

    `size` (B,K,3): half extents in metres. `home` (B,K,2): centre of an actor's circle. `orbit` (B,K,3): radius m,
    phase rad, rate rad/s. `bob` (B,K): jump height m. `turn` (B,K,2): yaw rad and rate rad/s.
    `camera` (B,8): azimuth rad, sway rad, sway rate rad/s, distance m, height m, rise m, aim height m, focal length
    over picture width. `light` (B,3): unit vector towards the light.
    """

    present: Tensor
    colour: Tensor
    size: Tensor
    home: Tensor
    orbit: Tensor
    bob: Tensor
    turn: Tensor
    camera: Tensor
    light: Tensor

    def __len__(self) -> int:
        return self.present.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Scenes:
        return Scenes(*(getattr(self, f.name)[rows] for f in fields(self)))

    def to(self, device: torch.device | str) -> Scenes:
        return Scenes(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True)
class Poses:
    """The scenes at one time each: `centre` (B,K,3) m, `yaw` (B,K) rad, `T_world_cam` (B,4,4)."""

    centre: Tensor
    yaw: Tensor
    T_world_cam: Tensor


def _draw(seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    slots = len(SLOT_SHAPES)
    kinds = np.asarray(SLOT_SHAPES)
    shapes = rng.choice(len(SHAPES), size=int(rng.choice([2, 3, 3, 4])), replace=False)
    present = np.isin(kinds, shapes)
    for twin in (1, 3):  # the second sphere and the second box
        present[twin] &= rng.random() < 0.4
    shape_colour = rng.choice(len(COLOURS), size=len(SHAPES), replace=False)
    size = np.zeros((slots, 3))
    home = np.zeros((slots, 2))
    orbit = np.stack([rng.uniform(0, 0.45, slots), rng.uniform(0, 2 * math.pi, slots), rng.uniform(0.4, 1.3, slots)], 1)
    orbit[:, 2] *= rng.choice([-1.0, 1.0], slots)
    bob = np.where(kinds == 0, rng.choice([0.0, 0.0, 0.6], slots), 0.0)
    turn = np.stack([rng.uniform(0, 2 * math.pi, slots), rng.uniform(-0.9, 0.9, slots)], 1)
    radius = rng.uniform(0.55, 0.95, slots)
    height = rng.uniform(0.6, 1.15, slots)
    placed: list[int] = []
    for k in np.flatnonzero(present):
        r = radius[k] * (0.8 if kinds[k] in (1, 2) else 1.0)
        half_height = r if kinds[k] == 0 else height[k]
        size[k] = (r, r * (rng.uniform(0.8, 1.2) if kinds[k] == 1 else 1.0), half_height)
        for _ in range(_PLACING_TRIES):
            angle, distance = rng.uniform(0, 2 * math.pi), 2.4 * math.sqrt(rng.random())
            home[k] = (distance * math.cos(angle), distance * math.sin(angle))
            gaps = [
                np.hypot(*(home[k] - home[j])) - 1.25 * (size[k, 0] + size[j, 0]) - orbit[k, 0] - orbit[j, 0]
                for j in placed
            ]
            if not gaps or min(gaps) > 0:
                break
            orbit[k, 0] *= 0.97  # a crowded scene moves less
        placed.append(int(k))
    azimuth = rng.uniform(0, 2 * math.pi)
    camera = np.array(
        [
            azimuth,
            rng.uniform(0.15, 0.6),
            rng.uniform(0.15, 0.4) * rng.choice([-1.0, 1.0]),
            rng.uniform(5.2, 7.0),
            rng.uniform(1.7, 3.6),
            rng.uniform(0.0, 0.5),
            rng.uniform(0.5, 0.9),
            rng.uniform(0.95, 1.2),
        ]
    )
    light_azimuth = azimuth + rng.uniform(0.5, 1.2) * rng.choice([-1.0, 1.0])
    elevation = rng.uniform(0.6, 1.0)
    light = np.array(
        [
            math.cos(light_azimuth) * math.cos(elevation),
            math.sin(light_azimuth) * math.cos(elevation),
            math.sin(elevation),
        ]
    )
    return present, shape_colour[kinds], size, home, orbit, bob, turn, camera, light


def scenes_from_seeds(seeds: Sequence[int]) -> Scenes:
    """One scene per seed (whole numbers of at least 0); the same seed always gives the same scene."""
    columns = [torch.from_numpy(np.stack(column)) for column in zip(*(_draw(s) for s in seeds), strict=True)]
    present, colour = columns[0], columns[1].long()
    return Scenes(present, colour, *(c.float() for c in columns[2:]))


def _turned(rate: Tensor, time_s: Tensor) -> Tensor:
    """How far something has turned at `rate` rad/s, within one turn: exact however long the world has been running.
    Multiplied on the CPU, since not every device has float64."""
    rows = time_s.double().cpu().reshape(-1, *(1,) * (rate.dim() - 1))
    return torch.remainder(rate.double().cpu() * rows, 2.0 * math.pi).to(rate)


def poses_at(scenes: Scenes, time_s: Tensor) -> Poses:
    """Where everything is; `time_s` is (B,) float64, or float32 for times below some hours."""
    angle = scenes.orbit[..., 1] + _turned(scenes.orbit[..., 2], time_s)
    x = scenes.home[..., 0] + scenes.orbit[..., 0] * torch.cos(angle)
    y = scenes.home[..., 1] + scenes.orbit[..., 0] * torch.sin(angle)
    z = scenes.size[..., 2] + scenes.bob * torch.sin(2.0 * angle).abs()
    yaw = scenes.turn[..., 0] + _turned(scenes.turn[..., 1], time_s)

    azimuth, sway, rate, distance, height, rise, aim, _ = scenes.camera.unbind(1)
    swing = torch.sin(_turned(rate, time_s))
    at = azimuth + sway * swing
    eye = torch.stack([distance * torch.cos(at), distance * torch.sin(at), height + rise * swing], 1)
    target = torch.stack([torch.zeros_like(aim), torch.zeros_like(aim), aim], 1)
    forward = torch.nn.functional.normalize(target - eye, dim=1)
    up = torch.tensor([0.0, 0.0, 1.0]).to(eye).expand_as(eye)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=1)
    down = torch.linalg.cross(forward, right)
    T_world_cam = torch.eye(4).to(eye).repeat(len(scenes), 1, 1)
    T_world_cam[:, :3, 0], T_world_cam[:, :3, 1], T_world_cam[:, :3, 2] = right, down, forward
    T_world_cam[:, :3, 3] = eye
    return Poses(torch.stack([x, y, z], -1), yaw, T_world_cam)


def caption(scenes: Scenes, style: str, row: int = 0, order: Sequence[int] | None = None) -> str:
    """The prompt that describes one scene: style, then colour and shape of each kind of object present.

    `order` permutes the kinds (indices into SHAPES); those not present are left out.
    """
    words = [f"{style} style"]
    for shape in range(len(SHAPES)) if order is None else order:
        for slot, kind in enumerate(SLOT_SHAPES):
            if kind == shape and bool(scenes.present[row, slot]):
                words.append(f"{COLOUR_NAMES[int(scenes.colour[row, slot])]} {SHAPES[shape]}")
                break
    return ", ".join(words)
