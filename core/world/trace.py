"""Ray casting: which surface each ray meets first, how far, and with which normal.

Rays come as separate component tensors of shape (B,N): at these sizes every pass costs about the same, so the code
keeps the number of passes small. Knows nothing of colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.world.scene import SLOT_SHAPES, Poses, Scenes

SKY, GROUND, FIRST_OBJECT = 0, 1, 2
"""Instance ids; slot k of a scene has id FIRST_OBJECT + k."""

FAR_M = 1.0e6
_NEAR_M = 1.0e-3
_GROUND_ENDS_M = 4.0e3
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


def trace(scenes: Scenes, poses: Poses, rays: Rays, reach: Sequence[Tensor] | None = None) -> Hits:
    """The first surface along every ray. Rays must start outside all objects and above the ground.

    `reach`, for one scene only: per slot the indices (n,) of the rays that may meet it; the others are not tried.
    """
    flat = rays.dx * rays.dx + rays.dy * rays.dy
    square = flat + rays.dz * rays.dz
    inverse_z = 1.0 / _safe(rays.dz)
    t = torch.where(rays.dz < -_TINY, -rays.oz * inverse_z, FAR_M)
    t = torch.where(t < _GROUND_ENDS_M, t, FAR_M)
    instance = torch.where(t < FAR_M, GROUND, SKY)
    present_somewhere = scenes.present.any(0).tolist()
    whole = (rays.dx, rays.dy, rays.dz, flat, square, inverse_z)
    for slot in range(len(SLOT_SHAPES)):
        if not present_somewhere[slot]:
            continue
        if reach is None:
            near = _meet(scenes, poses, rays, slot, *whole)
            near = torch.where(scenes.present[:, slot, None], near, FAR_M)
            instance = torch.where(near < t, FIRST_OBJECT + slot, instance)
            t = torch.minimum(near, t)
        else:
            some = reach[slot]
            near = _meet(scenes, poses, rays, slot, *(v[:, some] for v in whole))
            before = t[:, some]
            instance[:, some] = torch.where(near < before, FIRST_OBJECT + slot, instance[:, some])
            t[:, some] = torch.minimum(near, before)
    return _with_normals(scenes, poses, rays, t, instance, square)


def _meet(
    scenes: Scenes,
    poses: Poses,
    rays: Rays,
    slot: int,
    dx: Tensor,
    dy: Tensor,
    dz: Tensor,
    flat: Tensor,
    square: Tensor,
    inverse_z: Tensor,
) -> Tensor:
    """Where rays enter the object of one slot, FAR_M where they miss it. `flat` is dx^2 + dy^2, `square` adds dz^2."""
    centre, half = poses.centre[:, slot], scenes.size[:, slot]
    ox, oy, oz = rays.ox - centre[:, 0:1], rays.oy - centre[:, 1:2], rays.oz - centre[:, 2:3]
    kind = SLOT_SHAPES[slot]
    if kind == 0:
        b = ox * dx + oy * dy + oz * dz
        c = ox * ox + oy * oy + oz * oz - half[:, 0:1] ** 2
        disc = b * b - square * c
        return _enter((-b - disc.clamp_min(0).sqrt()) / square, disc > 0)
    if kind == 1:
        cos, sin = torch.cos(poses.yaw[:, slot, None]), torch.sin(poses.yaw[:, slot, None])
        x_in, x_out = _slab(cos * ox + sin * oy, 1.0 / _safe(cos * dx + sin * dy), half[:, 0:1])
        y_in, y_out = _slab(cos * oy - sin * ox, 1.0 / _safe(cos * dy - sin * dx), half[:, 1:2])
        z_in, z_out = _slab(oz, inverse_z, half[:, 2:3])
        first = torch.maximum(torch.maximum(x_in, y_in), z_in)
        return _enter(first, first < torch.minimum(torch.minimum(x_out, y_out), z_out))
    if kind == 2:
        a = flat.clamp_min(_TINY)
        b = ox * dx + oy * dy
        disc = b * b - a * (ox * ox + oy * oy - half[:, 0:1] ** 2)
        root = disc.clamp_min(0).sqrt()
        z_in, z_out = _slab(oz, inverse_z, half[:, 2:3])
        first = torch.maximum((-b - root) / a, z_in)
        return _enter(first, (disc > 0) & (first < torch.minimum((-b + root) / a, z_out)))
    # cone: x^2 + y^2 = s^2 (apex - z)^2 between the base and the apex; the base disc faces the ground
    s2 = (half[:, 0:1] / (2.0 * half[:, 2:3])) ** 2
    rise = oz - half[:, 2:3]
    a = _safe(flat - s2 * dz * dz)
    b = ox * dx + oy * dy - s2 * rise * dz
    disc = b * b - a * (ox * ox + oy * oy - s2 * rise * rise)
    root = disc.clamp_min(0).sqrt()
    near = torch.full_like(dx, FAR_M)
    for solution in ((-b - root) / a, (-b + root) / a):
        within = (disc > 0) & ((oz + solution * dz).abs() <= half[:, 2:3])
        near = torch.minimum(near, _enter(solution, within))
    return near


def camera_reach(scenes: Scenes, poses: Poses, width: int, height: int) -> list[Tensor]:
    """For one scene: per slot the pixels, row by row, that the projection of its bounding sphere can touch."""
    centre = (poses.centre[0] - poses.T_world_cam[0, :3, 3]) @ poses.T_world_cam[0, :3, :3]
    radius = scenes.size[0].norm(dim=1, keepdim=True)
    scale = scenes.camera[0, 7] * width
    z_near = centre[:, 2:] - radius
    ends = torch.stack([(centre[:, :2] + sign * radius) / z for sign in (-1, 1) for z in (z_near, z_near + 2 * radius)])
    middle = torch.tensor([0.5 * width, 0.5 * height])
    low = (ends.amin(0) * scale + middle).floor() - 1
    high = (ends.amax(0) * scale + middle).ceil() + 1
    # a sphere that reaches behind the camera can touch any pixel
    ahead = z_near > _NEAR_M
    first = torch.where(ahead, low, 0.0).clamp_min(0).long().tolist()
    last = torch.minimum(torch.where(ahead, high, math.inf), 2.0 * middle).clamp_min(0).long().tolist()
    pixels = torch.arange(width * height).view(height, width)
    return [pixels[y0:y1, x0:x1].flatten() for (x0, y0), (x1, y1) in zip(first, last, strict=True)]


def _with_normals(scenes: Scenes, poses: Poses, rays: Rays, t: Tensor, instance: Tensor, square: Tensor) -> Hits:
    towards = -torch.rsqrt(square)
    ground = instance == GROUND
    nx = torch.where(ground, 0.0, rays.dx * towards)
    ny = torch.where(ground, 0.0, rays.dy * towards)
    nz = torch.where(ground, 1.0, rays.dz * towards)
    face = instance * 16

    # Objects cover few of the pixels: what follows looks at those alone, as (M,).
    row, column = torch.nonzero(instance >= FIRST_OBJECT, as_tuple=True)
    at = row * t.shape[1] + column
    slot = instance.flatten()[at] - FIRST_OBJECT
    kind = torch.tensor(SLOT_SHAPES, device=t.device)[slot]
    entry = row * len(SLOT_SHAPES) + slot

    def of_slot(values_BK: Tensor) -> Tensor:
        return values_BK.flatten()[entry]

    far = t.flatten()[at]
    x = rays.ox.flatten()[row] + far * rays.dx.flatten()[at] - of_slot(poses.centre[..., 0])
    y = rays.oy.flatten()[row] + far * rays.dy.flatten()[at] - of_slot(poses.centre[..., 1])
    z = rays.oz.flatten()[row] + far * rays.dz.flatten()[at] - of_slot(poses.centre[..., 2])
    hx, hy, hz = (of_slot(scenes.size[..., i]) for i in range(3))

    # box: the face whose slab is reached; in the box frame the axes are turned by yaw
    cos, sin = of_slot(torch.cos(poses.yaw)), of_slot(torch.sin(poses.yaw))
    bx, by = cos * x + sin * y, cos * y - sin * x
    fx, fy, fz = (bx / hx).abs(), (by / hy).abs(), (z / hz).abs()
    on_z = (fz >= fx) & (fz >= fy)
    on_x = ~on_z & (fx >= fy)
    sx = torch.where(on_x, torch.sign(bx), 0.0)
    sy = torch.where(on_z | on_x, 0.0, torch.sign(by))

    is_sphere, is_box, is_cone = kind == 0, kind == 1, kind == 3
    capped = (kind == 2) & (fz > 1.0 - 1e-4)
    axis = torch.rsqrt((x * x + y * y).clamp_min(_TINY))
    slope = hx / (2.0 * hz)
    lean = torch.rsqrt(1.0 + slope * slope)
    radial = torch.where(is_cone, axis * lean, torch.where(capped, 0.0, axis))
    out_x = torch.where(is_sphere, x / hx, torch.where(is_box, cos * sx - sin * sy, x * radial))
    out_y = torch.where(is_sphere, y / hx, torch.where(is_box, sin * sx + cos * sy, y * radial))
    up = torch.where(is_cone, slope * lean, torch.where(capped, torch.sign(z), 0.0))
    out_z = torch.where(is_sphere, z / hx, torch.where(is_box, torch.where(on_z, torch.sign(z), 0.0), up))
    side = torch.where(is_box, 1 + 2 * on_x.long() + 4 * on_z.long() + (sx + sy > 0).long() * 8, capped.long())

    nx.view(-1)[at], ny.view(-1)[at], nz.view(-1)[at] = out_x, out_y, out_z
    face.view(-1)[at] += side
    return Hits(t, instance, nx, ny, nz, face)
