"""Ray casting: which surface each ray meets first, how far, and with which normal.

Rays come as separate component tensors of shape (B,N): at these sizes every pass costs about the same, so the code
keeps the number of passes small. Knows nothing of colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.world.scene import SLOT_SHAPES, Poses, Scenes

SKY, GROUND, FIRST_OBJECT = 0, 1, 2
"""Instance ids; slot k of a scene has id FIRST_OBJECT + k."""

FAR_M = 1.0e6
_NEAR_M = 1.0e-3
_TINY = 1.0e-9


@dataclass(frozen=True)
class Rays:
    """Origin (B,1) and direction (B,N) components in the world frame. Directions need not be unit length."""

    ox: Tensor
    oy: Tensor
    oz: Tensor
    dx: Tensor
    dy: Tensor
    dz: Tensor


@dataclass(frozen=True)
class Hits:
    """Per ray (B,N): `t` in direction lengths (FAR_M for sky), `instance` int64, world `normal` components (the
    direction against the ray for sky), and `face`, an int64 that differs wherever a crease or silhouette lies."""

    t: Tensor
    instance: Tensor
    nx: Tensor
    ny: Tensor
    nz: Tensor
    face: Tensor


def camera_rays(
    poses: Poses,
    focal: Tensor,
    width: int,
    height: int,
    window: tuple[Tensor, Tensor, int, int] | None = None,
) -> Rays:
    """Rays through pixel centres, row by row, with directions of camera depth 1, so that `t` is depth in metres.

    `focal` (B,) is in picture widths. `window` = (x0 (B,), y0 (B,), w, h) casts only that part of the picture.
    """
    device = focal.device
    x0, y0, w, h = window if window is not None else (focal.new_zeros(1), focal.new_zeros(1), width, height)
    per_px = 1.0 / (focal * width)
    u = (torch.arange(w, device=device) + (0.5 - 0.5 * width) + x0[:, None]) * per_px[:, None]
    v = (torch.arange(h, device=device) + (0.5 - 0.5 * height) + y0[:, None]) * per_px[:, None]
    R = poses.T_world_cam[:, :3, :3]
    eye = poses.T_world_cam[:, :3, 3]

    def component(axis: int) -> Tensor:
        across = u * R[:, axis, 0, None]
        along = v * R[:, axis, 1, None] + R[:, axis, 2, None]
        return (across[:, None, :] + along[:, :, None]).flatten(1)

    return Rays(eye[:, 0:1], eye[:, 1:2], eye[:, 2:3], component(0), component(1), component(2))


def _slab(o: Tensor, inverse: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    a, b = (-half - o) * inverse, (half - o) * inverse
    return torch.minimum(a, b), torch.maximum(a, b)


def _safe(d: Tensor) -> Tensor:
    return torch.where(d.abs() < _TINY, _TINY, d)


def _enter(t_near: Tensor, hit: Tensor) -> Tensor:
    return torch.where(hit & (t_near > _NEAR_M), t_near, FAR_M)


def trace(scenes: Scenes, poses: Poses, rays: Rays) -> Hits:
    """The first surface along every ray. Rays must start outside all objects and above the ground."""
    dx, dy, dz = rays.dx, rays.dy, rays.dz
    flat = dx * dx + dy * dy
    square = flat + dz * dz
    inverse_z = 1.0 / _safe(dz)
    t = torch.where(dz < -_TINY, -rays.oz * inverse_z, FAR_M)
    t = torch.where(t < 4.0e3, t, FAR_M)
    instance = torch.where(t < FAR_M, GROUND, SKY)
    present_somewhere = scenes.present.any(0).tolist()
    for slot, kind in enumerate(SLOT_SHAPES):
        if not present_somewhere[slot]:
            continue
        centre = poses.centre[:, slot]
        ox, oy, oz = rays.ox - centre[:, 0:1], rays.oy - centre[:, 1:2], rays.oz - centre[:, 2:3]
        half = scenes.size[:, slot]
        if kind == 0:
            b = ox * dx + oy * dy + oz * dz
            c = ox * ox + oy * oy + oz * oz - half[:, 0:1] ** 2
            disc = b * b - square * c
            near = _enter((-b - disc.clamp_min(0).sqrt()) / square, disc > 0)
        elif kind == 1:
            cos, sin = torch.cos(poses.yaw[:, slot, None]), torch.sin(poses.yaw[:, slot, None])
            x_in, x_out = _slab(cos * ox + sin * oy, 1.0 / _safe(cos * dx + sin * dy), half[:, 0:1])
            y_in, y_out = _slab(cos * oy - sin * ox, 1.0 / _safe(cos * dy - sin * dx), half[:, 1:2])
            z_in, z_out = _slab(oz, inverse_z, half[:, 2:3])
            first = torch.maximum(torch.maximum(x_in, y_in), z_in)
            near = _enter(first, first < torch.minimum(torch.minimum(x_out, y_out), z_out))
        elif kind == 2:
            a = flat.clamp_min(_TINY)
            b = ox * dx + oy * dy
            disc = b * b - a * (ox * ox + oy * oy - half[:, 0:1] ** 2)
            root = disc.clamp_min(0).sqrt()
            z_in, z_out = _slab(oz, inverse_z, half[:, 2:3])
            first = torch.maximum((-b - root) / a, z_in)
            near = _enter(first, (disc > 0) & (first < torch.minimum((-b + root) / a, z_out)))
        else:
            # x^2 + y^2 = s^2 (apex - z)^2 between the base and the apex; the base disc faces the ground
            s2 = (half[:, 0:1] / (2.0 * half[:, 2:3])) ** 2
            rise = oz - half[:, 2:3]
            a = _safe(flat - s2 * dz * dz)
            b = ox * dx + oy * dy - s2 * rise * dz
            disc = b * b - a * (ox * ox + oy * oy - s2 * rise * rise)
            root = disc.clamp_min(0).sqrt()
            near = torch.full_like(dx, FAR_M)
            for solution in ((-b - root) / a, (-b + root) / a):
                z = oz + solution * dz
                within = (disc > 0) & (z.abs() <= half[:, 2:3])
                near = torch.minimum(near, _enter(solution, within))
        near = torch.where(scenes.present[:, slot, None], near, FAR_M)
        instance = torch.where(near < t, FIRST_OBJECT + slot, instance)
        t = torch.minimum(near, t)
    return _with_normals(scenes, poses, rays, t, instance, square)


def _with_normals(scenes: Scenes, poses: Poses, rays: Rays, t: Tensor, instance: Tensor, square: Tensor) -> Hits:
    slot = (instance - FIRST_OBJECT).clamp_min(0)
    kinds = torch.tensor(SLOT_SHAPES, device=t.device)
    kind = torch.where(instance >= FIRST_OBJECT, kinds[slot], -1)

    def of_slot(values_BK: Tensor) -> Tensor:
        return values_BK.gather(1, slot)

    x = rays.ox + t * rays.dx - of_slot(poses.centre[..., 0])
    y = rays.oy + t * rays.dy - of_slot(poses.centre[..., 1])
    z = rays.oz + t * rays.dz - of_slot(poses.centre[..., 2])
    hx, hz = of_slot(scenes.size[..., 0]), of_slot(scenes.size[..., 2])

    # box: the face whose slab is reached; in the box frame the axes are turned by yaw
    cos, sin = of_slot(torch.cos(poses.yaw)), of_slot(torch.sin(poses.yaw))
    bx, by = cos * x + sin * y, cos * y - sin * x
    hy = of_slot(scenes.size[..., 1])
    fx, fy, fz = (bx / hx).abs(), (by / hy).abs(), (z / hz).abs()
    on_z = (fz >= fx) & (fz >= fy)
    on_x = ~on_z & (fx >= fy)
    sx = torch.where(on_x, torch.sign(bx), 0.0)
    sy = torch.where(on_z | on_x, 0.0, torch.sign(by))

    is_sphere, is_box, is_cylinder, is_cone = kind == 0, kind == 1, kind == 2, kind == 3
    capped = is_cylinder & (fz > 1.0 - 1e-4)
    axis = torch.rsqrt((x * x + y * y).clamp_min(_TINY))
    slope = hx / (2.0 * hz)
    lean = torch.rsqrt(1.0 + slope * slope)

    away = torch.rsqrt(square)
    nx, ny, nz = -rays.dx * away, -rays.dy * away, -rays.dz * away
    ground = instance == GROUND
    nx, ny, nz = torch.where(ground, 0.0, nx), torch.where(ground, 0.0, ny), torch.where(ground, 1.0, nz)
    nx = torch.where(is_sphere, x / hx, torch.where(is_box, cos * sx - sin * sy, nx))
    ny = torch.where(is_sphere, y / hx, torch.where(is_box, sin * sx + cos * sy, ny))
    nz = torch.where(is_sphere, z / hx, torch.where(is_box, torch.where(on_z, torch.sign(z), 0.0), nz))
    radial = torch.where(is_cone, axis * lean, torch.where(capped, 0.0, axis))
    rounded = is_cylinder | is_cone
    nx = torch.where(rounded, x * radial, nx)
    ny = torch.where(rounded, y * radial, ny)
    nz = torch.where(rounded, torch.where(is_cone, slope * lean, torch.where(capped, torch.sign(z), 0.0)), nz)

    side = torch.where(is_box, 1 + 2 * on_x.long() + 4 * on_z.long() + (sx + sy > 0).long() * 8, capped.long())
    return Hits(t, instance, nx, ny, nz, instance * 16 + side)
