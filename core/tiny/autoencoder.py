"""A small autoencoder that does nothing at full resolution, where an ordinary processor spends most of its time.

Patches of 4x4 pixels become 48 channels of one cell (pixel unshuffle), so that the first convolution already works at
a quarter of the resolution; one more halving leads to latents of 16 channels at an eighth. The decoder is the mirror,
somewhat deeper, and ends with a pixel shuffle. About 0.83 GFLOP for a picture of 128x128 there and back.

Shapes: F pictures, H W pixels (multiples of 8), c = 16 latent channels of H/8 x W/8.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from core.libraries import ConfigMixin, ModelMixin, register_to_config

PATCH = 4
PIXELS = 2 * PATCH
"""Pixels per latent cell."""


class _Block(nn.Module):
    """Three convolutions with a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        inner = x
        for convolution in self.convolutions:
            inner = convolution(nnf.relu(inner))
        return x + inner


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width) for _ in range(count)))


class PatchAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """See the module. widths: channels at a quarter and at an eighth; encoder_blocks, decoder_blocks: blocks there.
    scaling_factor, shift_factor: as in every autoencoder of the diffusers layout; latents are normalised already."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        widths: tuple[int, int] = (48, 96),
        encoder_blocks: tuple[int, int] = (1, 1),
        decoder_blocks: tuple[int, int] = (1, 2),
        scaling_factor: float = 1.0,
        shift_factor: float | None = None,
    ) -> None:
        super().__init__()
        del scaling_factor, shift_factor  # read from the configuration by `core.codec.Codec`
        fine, coarse = widths
        pixels = 3 * PATCH**2
        self.encoder = nn.Sequential(
            nn.Conv2d(pixels, fine, 3, padding=1),
            _blocks(fine, encoder_blocks[0]),
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
            _blocks(coarse, encoder_blocks[1]),
            nn.Conv2d(coarse, latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, coarse, 3, padding=1),
            _blocks(coarse, decoder_blocks[1]),
            nn.Upsample(scale_factor=2.0, mode="nearest"),
            nn.Conv2d(coarse, fine, 3, padding=1),
            _blocks(fine, decoder_blocks[0]),
            nn.Conv2d(fine, pixels, 3, padding=1),
        )

    def encode(self, x: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """(latents (F, c, H/8, W/8),) of pictures (F, 3, H, W) in -1..1."""
        return (self.encoder(nnf.pixel_unshuffle(x, PATCH)),)

    def decode(self, z: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """(pictures (F, 3, H, W),), about -1..1, of latents."""
        return (nnf.pixel_shuffle(self.decoder(z), PATCH),)

    def forward(self, x: Tensor) -> Tensor:
        """There and back."""
        return self.decode(self.encode(x)[0])[0]

    @torch.no_grad()
    def normalise(self, mean_c: Tensor, deviation_c: Tensor) -> None:
        """Fold a shift and a scale of each latent channel into the convolutions beside it, so that latents with these
        statistics have mean 0 and deviation 1. What comes back stays the same, but for the margin of the picture."""
        last: Any = self.encoder[-1]
        first: Any = self.decoder[0]
        last.weight.div_(deviation_c.view(-1, 1, 1, 1))
        last.bias.sub_(mean_c).div_(deviation_c)
        first.bias.add_((first.weight * mean_c.view(1, -1, 1, 1)).sum((1, 2, 3)))
        first.weight.mul_(deviation_c.view(1, -1, 1, 1))
