"""What hue, saturation and brightness do to a latent, without decoding it.

Latents are nearly linear in the colours of flat surfaces. How, is fitted once to smooth pictures that the autoencoder
encodes. A change of colour then moves a latent along those three directions alone: whatever else is in it, edges and
texture, stays as it is. How near that comes to changing the picture itself is in `tests/core/test_latent_colours.py`.

Shapes: F frames, c h w latent, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

SAMPLES = 1024
"""Latent cells that are fitted to, at least."""
MAX_CALLS = 8
BLOBS = (3, 4)
"""Colours in a picture that is fitted to, down and across; between them it is smooth."""
LEAST_SHARE = 0.02
"""A direction of colour that moves the latent by less than this share of the strongest one is left alone."""


class LatentColours(NamedTuple):
    """Where colours r, 0..1, lie in latents: black_c + r @ from_rgb_3c, and back by to_rgb_c3."""

    black_c: Tensor
    from_rgb_3c: Tensor
    to_rgb_c3: Tensor

    def changed(self, latent_Fchw: Tensor, matrix_33: Tensor) -> Tensor:
        """With the colours r of a latent made matrix @ r. None leaves 0..1 further than it has already."""
        rgb_Fhw3 = (latent_Fchw.movedim(1, -1) - self.black_c) @ self.to_rgb_c3
        wanted = (rgb_Fhw3 @ matrix_33.T).clamp(rgb_Fhw3.clamp(max=0.0), rgb_Fhw3.clamp(min=1.0))
        return latent_Fchw + ((wanted - rgb_Fhw3) @ self.from_rgb_3c).movedim(-1, 1)


def fitted(
    encode: Callable[[Tensor], Tensor], frames: int, size: tuple[int, int], device: torch.device
) -> LatentColours:
    """Of an autoencoder. encode: pictures (F, 3, H, W), levels 0..255, to latents, for so many at once as `frames`.
    size: (H, W)."""
    generator = torch.Generator().manual_seed(0)
    colours: list[Tensor] = []
    latents: list[Tensor] = []
    cells = 0
    while cells < SAMPLES and len(colours) < MAX_CALLS:
        # As many at the ends of the range as between.
        blobs = (1.6 * torch.rand((frames, 3, *BLOBS), generator=generator) - 0.3).clamp(0.0, 1.0)
        picture = nnf.interpolate(blobs, size, mode="bilinear", align_corners=True)
        latent = encode((picture * 255.0).to(device)).to("cpu", torch.float64)
        colour = nnf.adaptive_avg_pool2d(picture, (latent.shape[-2], latent.shape[-1])).to(torch.float64)
        colours.append(colour.movedim(1, -1).flatten(0, -2))
        latents.append(latent.movedim(1, -1).flatten(0, -2))
        cells += len(colours[-1])
    rgb_N3, latent_Nc = torch.cat(colours), torch.cat(latents)
    given = torch.cat((torch.ones(len(rgb_N3), 1, dtype=torch.float64), rgb_N3), 1)
    black_c, *rows = torch.linalg.lstsq(given, latent_Nc).solution
    from_rgb_3c = torch.stack(rows)
    to_rgb_c3 = torch.linalg.pinv(from_rgb_3c, rtol=LEAST_SHARE)
    return LatentColours(*(x.to(device, torch.float32) for x in (black_c, from_rgb_3c, to_rgb_c3)))


def colour_matrix(hue_degrees: float, saturation: float, brightness: float) -> Tensor:
    """(3, 3), of colours r as matrix @ r: turned about grey (red towards green where positive), its distance from grey
    and then all of it made so many times as large."""
    angle = math.radians(hue_degrees)
    grey = torch.full((3, 3), 1.0 / 3.0)
    # Rodrigues: what is across the axis (1, 1, 1) / sqrt(3), and the cross product with it.
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3.0)
    turned = math.cos(angle) * (torch.eye(3) - grey) + math.sin(angle) * across
    return brightness * (grey + saturation * turned)
