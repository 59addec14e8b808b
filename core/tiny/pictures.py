"""Synthetic pictures with the statistics of photographs: dead leaves with textures, light, lines and blur.

Overlapping shapes whose sizes follow a power law ("dead leaves": Lee, Mumford and Huang, "Occlusion Models for Natural
Images", 2001) have edges, corners, occlusions and a 1/f spectrum as photographs do. A network that has learnt to keep
them keeps photographs that it has never seen. Nothing is read from disk; everything is drawn on the device.

Shapes: B pictures, H W pixels; pictures are float32 (B, 3, H, W) in 0..1, display-referred.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor

SMALLEST_PX = 3.0
MOST_SHAPES = 48


class _Dice:
    """Random numbers of one generator, a whole batch at a time, shaped (B, 1, 1, 1) or with more channels."""

    def __init__(self, generator: torch.Generator, count: int) -> None:
        self.generator = generator
        self.count = count

    def uniform(self, low: float = 0.0, high: float = 1.0, channels: int = 1) -> Tensor:
        drawn = torch.rand((self.count, channels, 1, 1), generator=self.generator, device=self.generator.device)
        return low + (high - low) * drawn

    def chance(self, share: float) -> Tensor:
        """Zero or one."""
        return (self.uniform() < share).to(torch.float32)

    def log_uniform(self, low: float, high: float) -> Tensor:
        return torch.exp(self.uniform(math.log(low), math.log(high)))

    def noise(self, channels: int, size: int) -> Tensor:
        """Noise (B, channels, size, size) about 0 with deviation 1, its amplitude falling with a random power of the
        frequency, as that of clouds and of rough ground does."""
        white = torch.randn((self.count, channels, size, size), generator=self.generator, device=self.generator.device)
        down = torch.fft.fftfreq(size, device=white.device).view(-1, 1)
        across = torch.fft.rfftfreq(size, device=white.device).view(1, -1)
        radius = (down**2 + across**2).sqrt().clamp(min=1.0 / size)
        power = self.uniform(0.5, 2.0)
        noise = torch.fft.irfft2(torch.fft.rfft2(white) * radius**-power, s=(size, size))
        noise = noise - noise.mean((1, 2, 3), keepdim=True)
        return noise / noise.std((1, 2, 3), keepdim=True).clamp(min=1e-6)


def _palette(dice: _Dice, colours: int = 5) -> Tensor:
    """Colours (B, colours, 3, 1, 1) that go together: around one tone, mostly of low saturation, some of high."""
    grey = dice.uniform(channels=colours)[:, :, None]
    tint = dice.uniform(-0.5, 0.5, 3)[:, None] * dice.uniform(0.0, 1.0)[:, None]
    own = (dice.uniform(channels=3 * colours) - 0.5).view(dice.count, colours, 3, 1, 1)
    strength = dice.uniform(0.0, 1.0, colours)[:, :, None] ** 2
    return (grey + 0.5 * tint + own * strength * 1.6).clamp(0.0, 1.0)


def _pick(dice: _Dice, palette: Tensor) -> Tensor:
    """One colour of the palette each, (B, 3, 1, 1), a little off."""
    index = (dice.uniform() * palette.shape[1]).long().clamp(max=palette.shape[1] - 1).view(-1)
    colour = palette[torch.arange(dice.count, device=palette.device), index]
    return (colour + dice.uniform(-0.06, 0.06, 3)).clamp(0.0, 1.0)


def _fill(dice: _Dice, palette: Tensor, u: Tensor, v: Tensor, radius: Tensor, grain: Tensor) -> Tensor:
    """What a shape is painted with: a colour, a gradient of two, stripes, a grid or rough noise of them. u, v: pixels
    from the shape's centre along its axes; radius: its size."""
    first, second = _pick(dice, palette), _pick(dice, palette)
    kind = dice.uniform()
    gradient = (0.5 + 0.5 * (u * dice.uniform(-1.0, 1.0) + v * dice.uniform(-1.0, 1.0)) / radius).clamp(0.0, 1.0)
    pitch = dice.log_uniform(2.5, 24.0)
    turn = dice.uniform(0.0, math.pi)
    along = (u * torch.cos(turn) + v * torch.sin(turn)) * (2.0 * math.pi / pitch)
    across = (v * torch.cos(turn) - u * torch.sin(turn)) * (2.0 * math.pi / pitch)
    hard = dice.log_uniform(1.0, 8.0)
    stripes = torch.sigmoid(hard * torch.sin(along + dice.uniform(0.0, 6.28)))
    grid = torch.maximum(stripes, torch.sigmoid(hard * torch.sin(across)))
    rough = (0.5 + grain * dice.uniform(0.03, 0.3)).clamp(0.0, 1.0)
    mix = torch.where(kind < 0.3, gradient * dice.uniform(0.0, 0.5), gradient)
    mix = torch.where(kind > 0.55, rough, mix)
    mix = torch.where(kind > 0.75, stripes * dice.uniform(0.2, 1.0), mix)
    mix = torch.where(kind > 0.93, grid * dice.uniform(0.2, 1.0), mix)
    return first + (second - first) * mix


def _shape(dice: _Dice, u: Tensor, v: Tensor, radius: Tensor) -> Tensor:
    """Signed distance in pixels, about, to an ellipse, a box, a diamond, a triangle or a thin line."""
    slim = dice.log_uniform(0.25, 1.0)
    kind = dice.uniform()
    x, y = u / radius, v / (radius * slim)
    ellipse = (x**2 + y**2).clamp(min=1e-9).sqrt() - 1.0
    box = torch.maximum(x.abs(), y.abs()) - 1.0
    diamond = (x.abs() + y.abs()) - 1.0
    triangle = torch.maximum(x.abs() * 0.87 + y * 0.5, -y) - 0.5
    far = torch.where(kind < 0.35, ellipse, box)
    far = torch.where(kind > 0.65, diamond, far)
    far = torch.where(kind > 0.75, triangle, far) * radius * slim
    width = dice.log_uniform(0.5, 2.5)
    line = torch.maximum(v.abs() - width, u.abs() - radius * 2.0)
    return torch.where(kind > 0.85, line, far)


def dead_leaves(count: int, side_px: int, generator: torch.Generator) -> Tensor:
    """Pictures (count, 3, side, side) in 0..1 on the generator's device; the same for the same state of it."""
    device = generator.device
    dice = _Dice(generator, count)
    palette = _palette(dice)
    axis = torch.arange(side_px, device=device, dtype=torch.float32) + 0.5
    row, column = axis.view(1, 1, -1, 1), axis.view(1, 1, 1, -1)
    grain = dice.noise(1, side_px)
    ground_u, ground_v = column - side_px / 2 + 0 * row, row - side_px / 2 + 0 * column
    picture = _fill(dice, palette, ground_u, ground_v, torch.full_like(grain[:, :, :1, :1], side_px / 2.0), grain)
    picture = picture.expand(count, 3, side_px, side_px).clone()
    shapes = dice.log_uniform(6.0, float(MOST_SHAPES) * 1.5)
    softness = dice.log_uniform(0.5, 1.2)
    for number in range(MOST_SHAPES):
        # Sizes with density r^-3 between the limits, some much larger.
        largest = side_px * 0.7
        low, high = SMALLEST_PX**-2, largest**-2
        radius = (low + (high - low) * dice.uniform()).rsqrt() * (1.0 + 5.0 * dice.uniform() * dice.chance(0.4))
        turn = dice.uniform(0.0, 2.0 * math.pi)
        du, dv = column - dice.uniform(0.0, side_px), row - dice.uniform(0.0, side_px)
        u, v = du * torch.cos(turn) + dv * torch.sin(turn), dv * torch.cos(turn) - du * torch.sin(turn)
        distance = _shape(dice, u, v, radius)
        blur = softness * torch.where(dice.uniform() < 0.15, dice.log_uniform(1.0, 6.0), torch.ones_like(softness))
        cover = (0.5 - distance / (2.0 * blur)).clamp(0.0, 1.0) * dice.uniform(0.6, 1.6).clamp(max=1.0)
        paint = _fill(dice, palette, u, v, radius, grain.roll(17 * number + 5, -1))
        # Light from one side, and an outline on some.
        paint = paint * (1.0 + (u * dice.uniform(-0.4, 0.4) / radius).clamp(-0.6, 0.6))
        edge = (1.0 - (distance.abs() / dice.uniform(0.6, 2.0)) ** 2).clamp(0.0, 1.0) * dice.chance(0.15)
        paint = paint + (dice.uniform(0.0, 0.3) - paint) * edge
        # A shadow beside it on what lies below.
        shade = (0.5 - (distance - 3.0) / 8.0).clamp(0.0, 1.0) * dice.uniform(0.0, 0.5) * dice.chance(0.3)
        present = (shapes > number).to(torch.float32)
        picture = picture * (1.0 - shade * present)
        picture = picture + (paint - picture) * (cover * present)
    return _developed(dice, picture)


def _developed(dice: _Dice, picture: Tensor) -> Tensor:
    """Light over everything, the lens's blur, contrast, grain; some pictures grey."""
    light = dice.noise(1, picture.shape[-1])
    picture = picture * (1.0 + light * dice.uniform(0.0, 0.25) * dice.chance(0.6))
    picture = torch.where(dice.chance(0.3) > 0, _blurred(picture, dice), picture)
    grey = picture.mean(1, keepdim=True)
    picture = grey + (picture - grey) * torch.where(dice.uniform() < 0.12, torch.zeros_like(grey[:, :, :1, :1]), 1.0)
    picture = (0.5 + (picture - 0.5) * dice.uniform(0.6, 1.25) + dice.uniform(-0.15, 0.15)).clamp(0.0, 1.0)
    picture = picture.clamp(min=1e-4) ** dice.log_uniform(0.7, 1.5)
    fine = torch.randn(picture.shape, generator=dice.generator, device=picture.device)
    return (picture + fine * dice.uniform(0.0, 0.03) * dice.chance(0.5)).clamp(0.0, 1.0)


def _blurred(picture: Tensor, dice: _Dice) -> Tensor:
    """Gaussian blur with a width of its own for each picture."""
    sigma = dice.log_uniform(0.4, 2.0)
    reach = torch.arange(-4, 5, device=picture.device, dtype=torch.float32).view(1, 1, 1, -1)
    kernel = torch.exp(-0.5 * (reach / sigma) ** 2)
    kernel = kernel / kernel.sum(-1, keepdim=True)
    batch, channels, height, width = picture.shape
    for weights in (kernel, kernel.transpose(2, 3)):
        weights = weights.expand(batch, channels, -1, -1).reshape(batch * channels, 1, *weights.shape[2:])
        pad = [weights.shape[3] // 2] * 2 + [weights.shape[2] // 2] * 2
        flat = nnf.pad(picture.reshape(1, batch * channels, height, width), pad, mode="reflect")
        picture = nnf.conv2d(flat, weights, groups=batch * channels).view(batch, channels, height, width)
    return picture


def smooth_pictures(count: int, side_px: int, generator: torch.Generator) -> Tensor:
    """Pictures with little in them: skies, walls, soft light, a few large shapes; as `dead_leaves`. Without them a
    model does not learn to leave even ground even."""
    dice = _Dice(generator, count)
    palette = _palette(dice)
    axis = (torch.arange(side_px, device=generator.device, dtype=torch.float32) + 0.5) / side_px
    row, column = axis.view(1, 1, -1, 1), axis.view(1, 1, 1, -1)
    turn = dice.uniform(0.0, 2.0 * math.pi)
    slope = (column - 0.5) * torch.cos(turn) + (row - 0.5) * torch.sin(turn)
    first, second = _pick(dice, palette), _pick(dice, palette)
    picture = first + (second - first) * (0.5 + slope * dice.uniform(0.2, 1.0))
    cloud = dice.noise(1, side_px)
    picture = picture + (_pick(dice, palette) - picture) * (cloud * dice.uniform(0.05, 0.4)).clamp(0.0, 1.0)
    flat = torch.zeros_like(cloud)
    for _ in range(4):
        at_x, at_y = dice.uniform(0.0, 1.0), dice.uniform(0.0, 1.2)
        u, v = (column - at_x) * side_px, (row - at_y) * side_px
        radius = dice.uniform(0.1, 0.5) * side_px
        distance = _shape(dice, u, v, radius)
        softness = dice.log_uniform(0.6, 20.0)
        cover = (0.5 - distance / (2.0 * softness)).clamp(0.0, 1.0) * dice.chance(0.6)
        picture = picture + (_fill(dice, palette, u, v, radius, flat) - picture) * cover * dice.uniform(0.3, 1.0)
    return _developed(dice, picture)
