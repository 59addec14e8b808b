"""The styles: from what the rays hit to colours. One trace can be shaded in every style, which gives exact pairs.

Each style is one function and one line of `_SHADERS`. Every silhouette, crease and horizon of "grey" is an edge in
every style. Values are linear in display space, 0..1. Legend: B batch, H rows, W columns; scalars are (B,1,H,W).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from core.world.filters import FILTERS
from core.world.scene import COLOURS, SLOT_SHAPES, Poses, Scenes
from core.world.trace import FIRST_OBJECT, GROUND, SKY, Hits, Rays

_TILE_M = 1.6
DRAWN_STYLES = ("pencil", "watercolour", "glass", "pixel", "mosaic", "woodcut", "halftone", "paper")


@dataclass(frozen=True)
class Surface:
    """What a style may look at, per pixel: masks `sky`, `ground`, `body`; `albedo` (B,3,H,W) of the objects;
    `light` Lambert term; `facing` cosine to the viewer; `shadow` 0 (dark) to 1; `far` 0 (near) to 1 along the ground;
    `tile` -1 or 1 fading with distance; `up` sine of the ray's elevation; `edge` 1 on silhouettes and creases.

    Each is computed when a style first asks for it, once per trace.
    """

    scenes: Scenes
    poses: Poses
    rays: Rays
    hits: Hits
    height: int
    width: int

    def _picture(self, values_BN: Tensor) -> Tensor:
        return values_BN.unflatten(1, (1, self.height, self.width))

    @cached_property
    def sky(self) -> Tensor:
        return self._picture(self.hits.instance == SKY)

    @cached_property
    def ground(self) -> Tensor:
        return self._picture(self.hits.instance == GROUND)

    @cached_property
    def body(self) -> Tensor:
        return self._picture(self.hits.instance >= FIRST_OBJECT)

    @cached_property
    def _per_length(self) -> Tensor:
        rays = self.rays
        return torch.rsqrt(rays.dx * rays.dx + rays.dy * rays.dy + rays.dz * rays.dz)

    @cached_property
    def light(self) -> Tensor:
        hits, to_light = self.hits, self.scenes.light
        lambert = hits.nx * to_light[:, 0:1] + hits.ny * to_light[:, 1:2] + hits.nz * to_light[:, 2:3]
        return self._picture(lambert.clamp_min(0))

    @cached_property
    def facing(self) -> Tensor:
        hits, rays = self.hits, self.rays
        cosine = -(hits.nx * rays.dx + hits.ny * rays.dy + hits.nz * rays.dz) * self._per_length
        return self._picture(cosine.clamp(0, 1))

    @cached_property
    def up(self) -> Tensor:
        return self._picture((self.rays.dz * self._per_length).clamp(0, 1))

    @cached_property
    def _on_ground(self) -> tuple[Tensor, Tensor]:
        """World x and y (B,N) in metres; somewhere harmless where the ground is not what is seen."""
        t = torch.where(self.ground.flatten(1), self.hits.t, 1.0)
        return self.rays.ox + t * self.rays.dx, self.rays.oy + t * self.rays.dy

    @cached_property
    def _distance(self) -> Tensor:
        x, y = self._on_ground
        x, y = x - self.rays.ox, y - self.rays.oy
        return (x * x + y * y).sqrt()

    @cached_property
    def shadow(self) -> Tensor:
        """A soft round shadow under each object, pushed away from the light as the object rises."""
        x, y = self._on_ground
        lit = torch.ones_like(x)
        to_light = self.scenes.light
        present_somewhere = self.scenes.present.any(0).tolist()
        for slot in range(len(SLOT_SHAPES)):
            if not present_somewhere[slot]:
                continue
            centre, size = self.poses.centre[:, slot], self.scenes.size[:, slot]
            push = centre[:, 2:3] * 0.5
            per_reach = 1.0 / (1.45 * size[:, 0:1].clamp_min(1e-3))
            sx = (x - (centre[:, 0:1] - push * to_light[:, 0:1])) * per_reach
            sy = (y - (centre[:, 1:2] - push * to_light[:, 1:2])) * per_reach
            strength = self.scenes.present[:, slot, None] * (1.4 - 0.6 * (centre[:, 2:3] - size[:, 2:3]))
            dark = ((1.0 - (sx * sx + sy * sy)) * strength).clamp(0.0, 1.0)
            lit = torch.minimum(lit, 1.0 - dark)
        return self._picture(torch.where(self.ground.flatten(1), lit, 1.0))

    @cached_property
    def far(self) -> Tensor:
        return self._picture((self._distance * (1.0 / 26.0)).clamp(0.0, 1.0)) * self.ground

    @cached_property
    def tile(self) -> Tensor:
        x, y = self._on_ground
        odd = (torch.floor(x * (1.0 / _TILE_M)) + torch.floor(y * (1.0 / _TILE_M))).remainder(2.0)
        fade = (1.0 - self._distance * (1.0 / 14.0)).clamp_min(0)
        return self._picture((odd * 2.0 - 1.0) * fade) * self.ground

    @cached_property
    def albedo(self) -> Tensor:
        palette = torch.tensor(list(COLOURS.values()), device=self.hits.t.device)[self.scenes.colour]
        slot = (self.hits.instance - FIRST_OBJECT).clamp_min(0)
        return torch.stack([self._picture(palette[..., i].gather(1, slot))[:, 0] for i in range(3)], 1)

    @cached_property
    def edge(self) -> Tensor:
        face = self._picture(self.hits.face)
        edge = torch.zeros_like(face, dtype=torch.bool)
        across, down = face[..., 1:] != face[..., :-1], face[..., 1:, :] != face[..., :-1, :]
        edge[..., 1:] |= across
        edge[..., :-1] |= across
        edge[..., 1:, :] |= down
        edge[..., :-1, :] |= down
        return edge.float()


def _rgb(like: Tensor, red: float, green: float, blue: float) -> Tensor:
    return like.new_tensor([red, green, blue]).view(1, 3, 1, 1)


def _compose(s: Surface, sky: Tensor, ground: Tensor, body: Tensor) -> Tensor:
    return torch.where(s.body, body, torch.where(s.ground, ground, sky))


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
    glow = torch.where(s.body, s.albedo * 0.8 + 0.25, _rgb(s.up, 0.9, 0.2, 0.8))
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
    return _over(picture, torch.zeros_like(picture), s.edge * (0.6 * ~s.body)).expand(-1, 3, -1, -1)


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


def _drawn(style: str) -> Callable[[Surface], Tensor]:
    """A style of line work or texture: its filter over the toy look, so that objects keep their named colours."""
    return lambda s: FILTERS[style](_toy(s).clamp(0.0, 1.0))


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
    **{style: _drawn(style) for style in DRAWN_STYLES},
}

STYLES: tuple[str, ...] = tuple(_SHADERS)
"""Names of the styles; the first, "grey", is the flat grey look that a game sends."""

COLOURED_STYLES: tuple[str, ...] = (
    *("toy", "neon", "sunset", "pastel", "comic"),
    *("watercolour", "glass", "pixel", "mosaic", "halftone"),
)
"""The styles in which an object's colour is its named colour, and not a tint or nothing at all."""


def shade(s: Surface, style: str) -> Tensor:
    """Colour (B,3,H,W), float32 0..1, of one style. Raises `ValueError` for an unknown style."""
    shader = _SHADERS.get(style)
    if shader is None:
        raise ValueError(f"no style {style!r}; use one of {', '.join(STYLES)}")
    return shader(s).clamp(0.0, 1.0)
