"""The styles: from what the rays hit to colours. One trace can be shaded in every style, which gives exact pairs.

Each style is one function and one line of `_SHADERS`. Every silhouette, crease and horizon that shows in "grey" shows in
every style. Values are linear in display space, 0..1. Legend: B batch, H rows, W columns; scalars are (B,1,H,W).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.world.scene import COLOURS, SLOT_SHAPES, Poses, Scenes
from core.world.trace import FAR_M, FIRST_OBJECT, GROUND, SKY, Hits, Rays

_TILE_M = 1.6


@dataclass(frozen=True)
class Surface:
    """What a style may look at, per pixel: masks `sky`, `ground`, `body`; `albedo` (B,3,H,W) of the objects;
    `light` Lambert term; `facing` cosine to the viewer; `shadow` 0 (dark) to 1; `far` 0 (near) to 1 along the ground;
    `tile` -1 or 1 fading with distance; `up` sine of the ray's elevation; `edge` 1 on silhouettes and creases."""

    sky: Tensor
    ground: Tensor
    body: Tensor
    albedo: Tensor
    light: Tensor
    facing: Tensor
    shadow: Tensor
    far: Tensor
    tile: Tensor
    up: Tensor
    edge: Tensor


def surface(scenes: Scenes, poses: Poses, rays: Rays, hits: Hits, height: int, width: int) -> Surface:
    """Everything the styles share, computed once per trace."""

    def picture(values_BN: Tensor) -> Tensor:
        return values_BN.unflatten(1, (1, height, width))

    instance = hits.instance
    sky, ground = instance == SKY, instance == GROUND
    body = ~(sky | ground)
    length = torch.rsqrt(rays.dx**2 + rays.dy**2 + rays.dz**2)
    light_dir = scenes.light
    light = (hits.nx * light_dir[:, 0:1] + hits.ny * light_dir[:, 1:2] + hits.nz * light_dir[:, 2:3]).clamp_min(0)
    facing = -(hits.nx * rays.dx + hits.ny * rays.dy + hits.nz * rays.dz) * length
    t = torch.where(ground, hits.t, 1.0)
    x, y = rays.ox + t * rays.dx, rays.oy + t * rays.dy

    # a soft round shadow under each object, pushed away from the light as the object rises
    lit = torch.ones_like(t)
    for slot in range(len(SLOT_SHAPES)):
        if not bool(scenes.present[:, slot].any()):
            continue
        centre, size = poses.centre[:, slot], scenes.size[:, slot]
        push = centre[:, 2:3] * 0.5
        sx, sy = x - centre[:, 0:1] + push * light_dir[:, 0:1], y - centre[:, 1:2] + push * light_dir[:, 1:2]
        reach = 1.45 * size[:, 0:1]
        near = (1.0 - (sx * sx + sy * sy) / (reach * reach)).clamp_min(0)
        strength = scenes.present[:, slot, None] * (1.4 - 0.6 * (centre[:, 2:3] - size[:, 2:3]))
        lit = torch.minimum(lit, 1.0 - (near * strength).clamp(0.0, 1.0))

    distance = ((x - rays.ox) ** 2 + (y - rays.oy) ** 2).sqrt()
    far = torch.where(ground, (distance * (1.0 / 26.0)).clamp(0.0, 1.0), 0.0)
    odd = (torch.floor(x / _TILE_M) + torch.floor(y / _TILE_M)).remainder(2.0)
    tile = torch.where(ground, (odd * 2.0 - 1.0) * (1.0 - distance * (1.0 / 14.0)).clamp_min(0), 0.0)

    names = torch.tensor(list(COLOURS.values()), device=t.device)
    colour = scenes.colour.gather(1, (instance - FIRST_OBJECT).clamp_min(0))
    albedo = names[colour].unflatten(1, (height, width)).permute(0, 3, 1, 2)

    face = hits.face.unflatten(1, (height, width))
    edge = torch.zeros_like(face, dtype=torch.bool)
    across, down = face[:, :, 1:] != face[:, :, :-1], face[:, 1:] != face[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    return Surface(
        sky=picture(sky.float()),
        ground=picture(ground.float()),
        body=picture(body.float()),
        albedo=albedo,
        light=picture(light),
        facing=picture(facing.clamp(0, 1)),
        shadow=picture(torch.where(ground, lit, 1.0)),
        far=picture(far),
        tile=picture(tile),
        up=picture((rays.dz * length).clamp(0, 1)),
        edge=edge.unsqueeze(1).float(),
    )


def _rgb(like: Tensor, red: float, green: float, blue: float) -> Tensor:
    return like.new_tensor([red, green, blue]).view(1, 3, 1, 1)


def _compose(s: Surface, sky: Tensor, ground: Tensor, body: Tensor) -> Tensor:
    return torch.where(s.body > 0, body, torch.where(s.ground > 0, ground, sky))


def _mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    return a + (b - a) * share


def _over(picture: Tensor, line: Tensor, share: Tensor) -> Tensor:
    return picture + (line - picture) * share


def _grey(s: Surface) -> Tensor:
    ground = (0.46 + 0.03 * s.tile + 0.06 * s.far) * (0.55 + 0.45 * s.shadow)
    grey = _compose(s, 0.80 - 0.10 * s.up, ground, 0.22 + 0.68 * s.light)
    return grey.expand(-1, 3, -1, -1)


def _toy(s: Surface) -> Tensor:
    sky = _mix(_rgb(s.up, 0.75, 0.90, 1.00), _rgb(s.up, 0.25, 0.55, 0.95), (s.up * 2.5).clamp(0, 1))
    ground = _rgb(s.up, 0.35, 0.62, 0.25) * (0.95 + 0.10 * s.tile + 0.15 * s.far) * (0.45 + 0.55 * s.shadow)
    shine = (s.light * s.facing) ** 12
    return _compose(s, sky, ground, s.albedo * (0.35 + 0.75 * s.light) + 0.35 * shine)


def _neon(s: Surface) -> Tensor:
    sky = _mix(_rgb(s.up, 0.32, 0.03, 0.38), _rgb(s.up, 0.02, 0.01, 0.08), (s.up * 4.0).clamp(0, 1))
    ground = _rgb(s.up, 0.05, 0.02, 0.12) + _rgb(s.up, 0.20, 0.02, 0.30) * (s.far + 0.10 * s.tile)
    rim = (1.0 - s.facing) ** 2
    picture = _compose(s, sky, ground * (0.4 + 0.6 * s.shadow), s.albedo * (0.12 + 0.25 * s.light + 0.9 * rim))
    glow = torch.where(s.body > 0, s.albedo * 0.8 + 0.25, _rgb(s.up, 0.9, 0.2, 0.8))
    return _over(picture, glow, s.edge * 0.85)


def _blueprint(s: Surface) -> Tensor:
    paper = _rgb(s.up, 0.04, 0.16, 0.52)
    sky = paper * (1.0 - 0.25 * s.up)
    ground = paper * (0.78 + 0.08 * s.tile) * (0.7 + 0.3 * s.shadow)
    body = _mix(paper * (0.9 + 0.9 * s.light), s.albedo, 0.28 * torch.ones_like(s.up))
    return _over(_compose(s, sky, ground, body), _rgb(s.up, 0.88, 0.94, 1.00), s.edge * 0.8)


def _sunset(s: Surface) -> Tensor:
    sky = _mix(_rgb(s.up, 1.00, 0.62, 0.20), _rgb(s.up, 0.45, 0.12, 0.42), (s.up * 3.0).clamp(0, 1))
    ground = _rgb(s.up, 0.38, 0.17, 0.16) * (0.85 + 0.10 * s.tile + 0.7 * s.far) * (0.4 + 0.6 * s.shadow)
    warm = _rgb(s.up, 0.26, 0.12, 0.24) + _rgb(s.up, 1.00, 0.62, 0.30) * s.light
    return _compose(s, sky, ground, (0.25 + 0.75 * s.albedo) * warm)


def _noir(s: Surface) -> Tensor:
    tone = (s.albedo * _rgb(s.up, 0.30, 0.59, 0.11)).sum(1, keepdim=True)
    ground = (0.10 + 0.02 * s.tile + 0.10 * s.far) * s.shadow
    body = ((s.light - 0.25) * 3.0).clamp(0, 1) * (0.62 + 0.38 * tone) + 0.02
    picture = _compose(s, 0.36 - 0.7 * s.up, ground, body)
    return _over(picture, torch.zeros_like(picture), s.edge * (1.0 - s.body) * 0.6).expand(-1, 3, -1, -1)


def _thermal(s: Surface) -> Tensor:
    heat = _compose(s, 0.05 + 0.1 * (1 - s.up), 0.22 + 0.10 * (1 - s.shadow) + 0.02 * s.tile, 0.55 + 0.45 * s.light)
    red = (heat * 2.2 - 0.25).clamp(0, 1)
    green = (heat * 2.0 - 1.0).clamp(0, 1)
    blue = (0.45 + 0.9 * heat - 2.4 * (heat - 0.35).clamp_min(0)).clamp(0, 1) + (heat * 5.0 - 4.2).clamp(0, 0.6)
    return torch.cat([red, green, blue], 1)


def _pastel(s: Surface) -> Tensor:
    sky = _mix(_rgb(s.up, 1.00, 0.90, 0.92), _rgb(s.up, 0.78, 0.86, 1.00), (s.up * 2.5).clamp(0, 1))
    ground = _rgb(s.up, 0.90, 0.84, 0.72) * (0.97 + 0.03 * s.tile) * (0.80 + 0.20 * s.shadow)
    return _compose(s, sky, ground, (0.50 + 0.42 * s.albedo) * (0.80 + 0.25 * s.light))


def _gold(s: Surface) -> Tensor:
    sky = _rgb(s.up, 0.20, 0.13, 0.07) * (1.0 - 0.8 * s.up)
    ground = _rgb(s.up, 0.13, 0.08, 0.04) * (1.0 + 0.15 * s.tile + 0.5 * s.far) * (0.4 + 0.6 * s.shadow)
    metal = _mix(_rgb(s.up, 1.00, 0.74, 0.22), s.albedo, 0.22 * torch.ones_like(s.up))
    glint = (s.light**4) * 0.55 + 0.35 * (1.0 - s.facing) ** 3
    return _compose(s, sky, ground, metal * (0.30 + 0.55 * s.light) + _rgb(s.up, 1.0, 0.85, 0.5) * glint)


def _comic(s: Surface) -> Tensor:
    steps = torch.floor(s.light * 2.99).clamp(0, 2) * 0.5
    sky = _rgb(s.up, 0.45, 0.85, 1.00).expand_as(s.albedo)
    ground = _rgb(s.up, 1.00, 0.86, 0.45) * torch.where(s.shadow < 0.5, 0.6, 1.0) * (1.0 + 0.03 * s.tile)
    picture = _compose(s, sky, ground, s.albedo * (0.55 + 0.50 * steps))
    return _over(picture, torch.zeros_like(picture), s.edge * 0.9)


def _ice(s: Surface) -> Tensor:
    sky = _mix(_rgb(s.up, 0.86, 0.95, 1.00), _rgb(s.up, 0.50, 0.72, 0.90), (s.up * 3.0).clamp(0, 1))
    ground = _rgb(s.up, 0.62, 0.78, 0.88) * (0.97 + 0.05 * s.tile) * (0.55 + 0.45 * s.shadow)
    core = _mix(_rgb(s.up, 0.25, 0.55, 0.80), s.albedo, 0.38 * torch.ones_like(s.up))
    frost = (1.0 - s.facing) ** 2
    return _compose(s, sky, ground, core * (0.45 + 0.50 * s.light) + _rgb(s.up, 0.75, 0.9, 1.0) * frost * 0.6)


def _toxic(s: Surface) -> Tensor:
    sky = _mix(_rgb(s.up, 0.16, 0.42, 0.05), _rgb(s.up, 0.01, 0.07, 0.02), (s.up * 3.0).clamp(0, 1))
    ground = _rgb(s.up, 0.04, 0.14, 0.04) * (1.0 + 0.15 * s.tile + 1.2 * s.far) * (0.3 + 0.7 * s.shadow)
    slime = _mix(_rgb(s.up, 0.55, 1.00, 0.10), s.albedo, 0.32 * torch.ones_like(s.up))
    return _compose(s, sky, ground, slime * (0.18 + 0.85 * s.light) + 0.25 * (1.0 - s.facing) ** 3)


_SHADERS: dict[str, Callable[[Surface], Tensor]] = {
    "grey": _grey,
    "toy": _toy,
    "neon": _neon,
    "blueprint": _blueprint,
    "sunset": _sunset,
    "noir": _noir,
    "thermal": _thermal,
    "pastel": _pastel,
    "gold": _gold,
    "comic": _comic,
    "ice": _ice,
    "toxic": _toxic,
}

STYLES: tuple[str, ...] = tuple(_SHADERS)
"""Names of the styles; the first, "grey", is the flat grey look that a game sends."""

COLOURED_STYLES: tuple[str, ...] = ("toy", "neon", "sunset", "pastel", "comic")
"""The styles in which an object's colour is its named colour, and not a tint or nothing at all."""


def shade(s: Surface, style: str) -> Tensor:
    """Colour (B,3,H,W), float32 0..1, of one style. Raises `ValueError` for an unknown style."""
    shader = _SHADERS.get(style)
    if shader is None:
        raise ValueError(f"no style {style!r}; known are {', '.join(STYLES)}")
    return shader(s).clamp(0.0, 1.0)


__all__ = ["COLOURED_STYLES", "FAR_M", "STYLES", "Surface", "shade", "surface"]
