"""The styles as filters on any picture: the second form of every style of `core.world.shade`.

The world is shaded from what its rays hit; a photograph has only its pixels. A filter makes the same look from those by
classical image operations: line work from gradients, tones through a ramp of colours, texture on a fixed lattice.
A pair (picture, filtered picture) is what a model learns a style from that it can lay over anything.

Filters are deterministic, look no further than some pixels, and every lattice repeats after 8 or 16 pixels, the cells
of the two levels of a latent model: a convolutional network knows where in a cell it is, and nothing about where in the
picture.

Pictures are float32 (B, 3, H, W) in 0..1, display-referred; H and W at least 16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

LATTICE_PX = 8
"""Textures repeat after so many pixels, or after `WIDE_LATTICE_PX`."""
WIDE_LATTICE_PX = 16
PIXEL_PALETTE = (
    *((0.06, 0.05, 0.11), (0.16, 0.14, 0.32), (0.33, 0.16, 0.42), (0.20, 0.28, 0.60), (0.22, 0.48, 0.86)),
    *((0.36, 0.78, 0.94), (0.10, 0.38, 0.30), (0.22, 0.64, 0.28), (0.62, 0.86, 0.32), (0.46, 0.26, 0.18)),
    *((0.78, 0.18, 0.24), (0.94, 0.46, 0.18), (0.98, 0.80, 0.26), (0.92, 0.56, 0.64), (0.56, 0.58, 0.68)),
    *((0.98, 0.95, 0.88), (0.62, 0.24, 0.78), (0.90, 0.72, 0.54)),
)
"""The colours of the style "pixel"."""
SHEETS = ((0.12, 0.15, 0.30), (0.13, 0.42, 0.47), (0.84, 0.36, 0.30), (0.96, 0.70, 0.36), (0.98, 0.94, 0.85))
"""The sheets of the style "paper", from dark to light."""

Colour = tuple[float, float, float]
Stops = Sequence[tuple[float, Colour]]


def luma(x: Tensor) -> Tensor:
    """(B, 1, H, W), Rec. 601."""
    return 0.299 * x[:, 0:1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]


def blurred(x: Tensor, sigma_px: float) -> Tensor:
    """Gaussian blur; the margin is reflected."""
    reach = max(1, math.ceil(2.5 * sigma_px))
    at = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (at / sigma_px) ** 2)
    kernel = kernel / kernel.sum()
    batch, channels = x.shape[:2]
    flat = nnf.pad(x.flatten(0, 1)[:, None], (reach,) * 4, mode="reflect")
    flat = nnf.conv2d(nnf.conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return flat[:, 0].unflatten(0, (batch, channels))


def ramp(value: Tensor, low: float, high: float) -> Tensor:
    """0 below low, 1 above high, smooth between."""
    x = ((value - low) / (high - low)).clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def painted(x: Tensor, radius_px: int) -> Tensor:
    """Smooth areas between sharp edges, as a brush leaves them: of the four squares beside a pixel the means, weighted
    towards those of least variance (Kuwahara's filter with soft choice)."""
    side = radius_px + 1
    padded = nnf.pad(x, (radius_px,) * 4, mode="reflect")
    mean = nnf.avg_pool2d(padded, side, 1)
    variance = (nnf.avg_pool2d(padded**2, side, 1) - mean**2).clamp(min=0.0).sum(1, keepdim=True)
    height, width = x.shape[-2:]
    total, weights = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for top in (0, radius_px):
        for left in (0, radius_px):
            cut = (..., slice(top, top + height), slice(left, left + width))
            weight = (variance[cut] + 1e-4) ** -4.0
            total, weights = total + weight * mean[cut], weights + weight
    return total / weights


def edges(x: Tensor, sigma_px: float = 0.8) -> Tensor:
    """(B, 1, H, W): strength of edges of any colour; 1 is that of black on white."""
    soft = nnf.pad(blurred(x, sigma_px), (1, 1, 1, 1), mode="replicate")
    across = soft[..., 1:-1, 2:] - soft[..., 1:-1, :-2]
    down = soft[..., 2:, 1:-1] - soft[..., :-2, 1:-1]
    return (across**2 + down**2).amax(1, keepdim=True).add(1e-12).sqrt()


def lines(x: Tensor, low: float = 0.10, high: float = 0.26, sigma_px: float = 0.8) -> Tensor:
    """(B, 1, H, W): 1 on clear edges, 0 on none."""
    return ramp(edges(x, sigma_px), low, high)


def toned(tone: Tensor, stops: Stops) -> Tensor:
    """Colours (B, 3, H, W) of a tone (B, 1, H, W): linear between stops (tone, colour) of rising tone."""
    out = tone.new_tensor(stops[0][1]).view(1, 3, 1, 1).expand(-1, -1, *tone.shape[-2:])
    for (low, first), (high, second) in zip(stops, stops[1:], strict=False):
        share = ((tone - low) / (high - low)).clamp(0.0, 1.0)
        a, b = (tone.new_tensor(c).view(1, 3, 1, 1) for c in (first, second))
        out = torch.where(tone >= low, a + (b - a) * share, out)
    return out


def vivid(x: Tensor, saturation: float) -> Tensor:
    """More, or less, colourful around the same luma."""
    tone = luma(x)
    return (tone + (x - tone) * saturation).clamp(0.0, 1.0)


def _saturation(x: Tensor) -> Tensor:
    """(B, 1, H, W): difference of the largest and the smallest channel."""
    return x.amax(1, keepdim=True) - x.amin(1, keepdim=True)


def stepped(value: Tensor, levels: int, softness: float = 0.15) -> Tensor:
    """Few tones with steep ramps between them: 0, 1/(levels-1), ..., 1."""
    scaled = value.clamp(0.0, 1.0) * (levels - 1)
    whole = scaled.floor()
    return (whole + ramp(scaled - whole, 0.5 - softness, 0.5 + softness)) / (levels - 1)


def over(x: Tensor, colour: Colour | Tensor, share: Tensor) -> Tensor:
    """A colour laid over a picture."""
    if not isinstance(colour, Tensor):
        colour = x.new_tensor(colour).view(1, 3, 1, 1)
    return x + (colour - x) * share


def _lattice(x: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every pixel as (1, 1, H, 1) and (1, 1, 1, W)."""
    height, width = x.shape[-2:]
    row = torch.arange(height, device=x.device, dtype=x.dtype).view(1, 1, -1, 1)
    column = torch.arange(width, device=x.device, dtype=x.dtype).view(1, 1, 1, -1)
    return row, column


def _blocks(x: Tensor, side_px: int) -> Tensor:
    """Means of blocks, as large as before."""
    height, width = x.shape[-2:]
    means = nnf.avg_pool2d(x, side_px, ceil_mode=True, count_include_pad=False)
    return means.repeat_interleave(side_px, -2).repeat_interleave(side_px, -1)[..., :height, :width]


def _grey(x: Tensor) -> Tensor:
    return (0.18 + 0.70 * luma(painted(x, 2))).expand(-1, 3, -1, -1)


def _toy(x: Tensor) -> Tensor:
    smooth = vivid(painted(x, 2), 2.0)
    tone = luma(smooth)
    stops = ((0.0, (0.10, 0.16, 0.62)), (0.45, (0.30, 0.58, 0.95)), (0.8, (1.0, 0.93, 0.55)), (1.0, (1.0, 1.0, 0.95)))
    own = 0.15 + 0.85 * ramp(_saturation(smooth), 0.10, 0.5)
    return over(toned(tone, stops), smooth * 0.9 + 0.1, own) + 0.2 * ramp(tone, 0.75, 0.95)


def _neon(x: Tensor) -> Tensor:
    line = lines(x, 0.08, 0.24)
    hue = vivid(blurred(x, 1.5), 3.0)
    hue = hue / hue.amax(1, keepdim=True).clamp(min=0.2)
    glow = over(hue, (0.95, 0.25, 0.90), torch.full_like(line, 0.35))
    ground = toned(luma(x), ((0.0, (0.02, 0.01, 0.08)), (0.6, (0.14, 0.03, 0.30)), (1.0, (0.34, 0.06, 0.46))))
    ground = ground + 0.16 * (hue - 0.4).clamp(min=0.0) * luma(x)
    return over(ground + glow * blurred(line, 2.0) * 0.55, glow, line * 0.9)


def _blueprint(x: Tensor) -> Tensor:
    paper = toned(luma(painted(x, 2)), ((0.0, (0.02, 0.09, 0.36)), (1.0, (0.08, 0.28, 0.72))))
    row, column = _lattice(x)
    grid = torch.maximum((row % LATTICE_PX == 0).to(x), (column % LATTICE_PX == 0).to(x))
    return over(over(paper, (0.45, 0.62, 0.95), grid * 0.18), (0.88, 0.94, 1.0), lines(x) * 0.9)


def _sunset(x: Tensor) -> Tensor:
    stops = ((0.0, (0.13, 0.04, 0.22)), (0.4, (0.58, 0.14, 0.36)), (0.72, (1.0, 0.48, 0.22)), (1.0, (1.0, 0.86, 0.55)))
    return over(toned(luma(x), stops), vivid(x, 0.8) * x.new_tensor([1.0, 0.7, 0.5]).view(1, 3, 1, 1), 0.25 * _one(x))


def _one(x: Tensor) -> Tensor:
    return torch.ones_like(x[:, :1])


def _noir(x: Tensor) -> Tensor:
    tone = luma(x)
    return ((1.1 * ramp(tone, 0.18, 0.92)) ** 1.3 * 0.97).clamp(0.0, 1.0).expand(-1, 3, -1, -1)


def _thermal(x: Tensor) -> Tensor:
    heat = luma(blurred(x, 1.0))
    stops = (
        (0.0, (0.01, 0.0, 0.35)),
        (0.25, (0.30, 0.0, 0.72)),
        (0.5, (0.90, 0.10, 0.35)),
        (0.75, (1.0, 0.62, 0.05)),
        (1.0, (1.0, 1.0, 0.80)),
    )
    return toned(heat, stops)


def _pastel(x: Tensor) -> Tensor:
    soft = vivid(painted(x, 2), 0.9)
    return 0.56 + 0.42 * soft + x.new_tensor([0.02, 0.0, 0.02]).view(1, 3, 1, 1)


def _gold(x: Tensor) -> Tensor:
    tone = luma(x)
    stops = (
        (0.0, (0.06, 0.03, 0.01)),
        (0.35, (0.36, 0.20, 0.04)),
        (0.68, (0.95, 0.68, 0.18)),
        (1.0, (1.0, 0.96, 0.74)),
    )
    shine = (tone - blurred(tone, 2.5)) * 0.8
    return toned((tone + shine).clamp(0.0, 1.0), stops)


def _comic(x: Tensor) -> Tensor:
    smooth = painted(x, 2)
    tone = luma(smooth)
    flat = vivid(smooth * (stepped(tone, 4) + 0.10) / (tone + 0.10), 2.0) * 0.92 + 0.08
    flat = over(flat, (1.0, 0.95, 0.62), 0.75 * ramp(tone, 0.55, 0.85) * (1.0 - ramp(_saturation(smooth), 0.1, 0.4)))
    row, column = _lattice(x)
    turn = 2.0 * math.pi / (LATTICE_PX / 2)
    dots = ramp(torch.cos(row * turn) + torch.cos(column * turn), 0.0, 0.8)
    flat = over(flat, (0.16, 0.55, 0.92), 0.8 * dots * ramp(tone, 0.12, 0.25) * (1.0 - ramp(tone, 0.42, 0.58)))
    return over(flat, (0.02, 0.02, 0.03), lines(smooth, 0.10, 0.24) * 0.95)


def _ice(x: Tensor) -> Tensor:
    stops = ((0.0, (0.10, 0.26, 0.45)), (0.5, (0.42, 0.68, 0.88)), (1.0, (0.93, 0.98, 1.0)))
    frozen = over(toned(luma(x), stops), x, 0.18 * _one(x))
    return over(frozen, (0.97, 1.0, 1.0), lines(x, 0.10, 0.35) * 0.55)


def _toxic(x: Tensor) -> Tensor:
    stops = ((0.0, (0.0, 0.05, 0.02)), (0.45, (0.08, 0.34, 0.04)), (0.8, (0.52, 0.95, 0.10)), (1.0, (0.92, 1.0, 0.55)))
    return over(toned(luma(x), stops), x, 0.10 * _one(x))


def _pencil(x: Tensor) -> Tensor:
    tone = luma(blurred(x, 0.6))
    row, column = _lattice(x)
    hatch = 0.5 + 0.5 * torch.cos((row + column) * (2.0 * math.pi / (LATTICE_PX / 2)))
    cross = 0.5 + 0.5 * torch.cos((row - column) * (2.0 * math.pi / (LATTICE_PX / 2)))
    shade = ramp(0.62 - tone, 0.0, 0.5) * hatch * 0.55 + ramp(0.30 - tone, 0.0, 0.3) * cross * 0.35
    paper = over(x.new_tensor([0.97, 0.96, 0.93]).view(1, 3, 1, 1).expand_as(x), (0.25, 0.25, 0.28), shade)
    return over(paper, (0.12, 0.12, 0.15), lines(x, 0.05, 0.30, 0.7) * 0.9)


def _watercolour(x: Tensor) -> Tensor:
    wash = painted(painted(x, 3), 2)
    tone = luma(wash)
    stops = (
        (0.0, (0.24, 0.24, 0.48)),
        (0.4, (0.55, 0.60, 0.74)),
        (0.75, (0.93, 0.91, 0.88)),
        (1.0, (0.99, 0.98, 0.94)),
    )
    tint = over(
        toned(tone, stops), 1.0 - (1.0 - vivid(wash, 1.5)) * 0.72, 0.2 + 0.7 * ramp(_saturation(wash), 0.05, 0.35)
    )
    rim = (blurred(tint, 2.0) - tint).mean(1, keepdim=True).clamp(min=0.0)
    return tint - 1.3 * rim - 0.22 * lines(wash, 0.06, 0.24, 1.0)


def _glass(x: Tensor) -> Tensor:
    pane = painted(painted(x, 4), 3)
    tone = luma(pane)
    jewel = toned(
        stepped(tone, 6, 0.3),
        ((0.0, (0.05, 0.07, 0.42)), (0.4, (0.10, 0.45, 0.62)), (0.7, (0.95, 0.62, 0.12)), (1.0, (1.0, 0.92, 0.55))),
    )
    lit = over(jewel, vivid(pane, 2.6) * 0.95 + 0.04, 0.15 + 0.8 * ramp(_saturation(pane), 0.08, 0.4))
    row, column = _lattice(x)
    lattice = torch.minimum((row + column) % WIDE_LATTICE_PX, (row - column) % WIDE_LATTICE_PX)
    lead = torch.maximum(lines(nnf.max_pool2d(pane, 3, 1, 1), 0.07, 0.16), 0.85 * (lattice < 1.5).to(x))
    return over(lit, (0.03, 0.03, 0.05), lead)


def _pixel(x: Tensor) -> Tensor:
    block = vivid(_blocks(x, LATTICE_PX // 2), 1.4)
    palette = x.new_tensor(PIXEL_PALETTE)
    weights = x.new_tensor([0.55, 0.75, 0.40]).view(1, 1, 3, 1, 1)
    far = ((block[:, None] - palette.view(1, -1, 3, 1, 1)).square() * weights).sum(2)
    return palette[far.argmin(1)].permute(0, 3, 1, 2)


def _mosaic(x: Tensor) -> Tensor:
    row, column = _lattice(x)
    tile = vivid(_blocks(x, LATTICE_PX), 1.5)
    u, v = (column % LATTICE_PX - 3.5) / 3.5, (row % LATTICE_PX - 3.5) / 3.5
    glaze = 1.04 - 0.10 * u - 0.14 * v
    grout = ((u.abs() > 0.9) | (v.abs() > 0.9)).to(x)
    return over(tile * glaze, (0.86, 0.84, 0.79), grout * 0.85)


def _woodcut(x: Tensor) -> Tensor:
    tone = luma(blurred(x, 0.8))
    row, _ = _lattice(x)
    groove = 0.5 + 0.5 * torch.cos((row + 0.5) * (2.0 * math.pi / (LATTICE_PX / 2)))
    ink = ramp(groove * 0.72 + 0.14 - tone, -0.12, 0.12)
    ink = torch.maximum(ink, lines(x, 0.14, 0.32))
    return over(x.new_tensor([0.95, 0.90, 0.78]).view(1, 3, 1, 1).expand_as(x), (0.10, 0.06, 0.04), ink)


def _halftone(x: Tensor) -> Tensor:
    row, column = _lattice(x)
    turn = 2.0 * math.pi / LATTICE_PX
    screen = 0.5 + 0.25 * (torch.cos((row + column) * turn) + torch.cos((row - column) * turn))
    tone = luma(blurred(x, 1.2))
    dot = ramp(1.02 - tone - screen, -0.12, 0.12)
    ink = vivid(blurred(x, 1.2), 2.2) * 0.75
    return over(x.new_tensor([0.99, 0.97, 0.92]).view(1, 3, 1, 1).expand_as(x), ink, dot)


def _paper(x: Tensor) -> Tensor:
    sheet = painted(painted(x, 3), 2)
    level = stepped(luma(sheet), len(SHEETS), 0.06)
    flat = toned(level, [(i / (len(SHEETS) - 1), colour) for i, colour in enumerate(SHEETS)])
    moved = nnf.pad(level, (2, 0, 2, 0), mode="replicate")[..., :-2, :-2]
    shade = ramp(blurred(moved, 1.0) - level, 0.03, 0.22)
    return flat * (1.0 - 0.5 * shade)


FILTERS: Mapping[str, Callable[[Tensor], Tensor]] = {
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
    "pencil": _pencil,
    "watercolour": _watercolour,
    "glass": _glass,
    "pixel": _pixel,
    "mosaic": _mosaic,
    "woodcut": _woodcut,
    "halftone": _halftone,
    "paper": _paper,
}


def filtered(picture: Tensor, style: str) -> Tensor:
    """A picture in a style, of the same shape. Raises `ValueError` for an unknown style."""
    if style not in FILTERS:
        raise ValueError(f"no style {style!r}; use one of {', '.join(FILTERS)}")
    return FILTERS[style](picture).clamp(0.0, 1.0)
