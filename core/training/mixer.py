"""A diffusion network small enough to train many times on a processor: an MLP-Mixer (arXiv 2105.01601) over patches,
scaled and shifted by time and caption as in DiT (arXiv 2212.09748).

Shapes: B rows, D = 3 side side numbers of a picture, T patches, w channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class _Block(nn.Module):
    """Mixing over patches, then over channels, each with scale, shift and gate from the condition."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.patch_in, self.patch_out = nn.Linear(patches, 2 * patches), nn.Linear(2 * patches, patches)
        self.channel_in, self.channel_out = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.condition = nn.Linear(width, 6 * width)

    def forward(self, x_BTw: Tensor, condition_Bw: Tensor) -> Tensor:
        scale, shift, gate, scale2, shift2, gate2 = self.condition(condition_Bw)[:, None].chunk(6, -1)
        y = (self.norm(x_BTw) * (1.0 + scale) + shift).transpose(1, 2)
        x_BTw = x_BTw + gate * self.patch_out(nnf.silu(self.patch_in(y))).transpose(1, 2)
        y = self.norm(x_BTw) * (1.0 + scale2) + shift2
        return x_BTw + gate2 * self.channel_out(nnf.silu(self.channel_in(y)))


class Mixer(nn.Module):
    """See the module. side: of the pictures, in pixels, a multiple of `patch`. captions: how many there are; number
    `captions` itself stands for none."""

    def __init__(self, side: int, captions: int, patch: int = 4, width: int = 64, blocks: int = 3) -> None:
        super().__init__()
        self.side, self.patch, self.width = side, patch, width
        pixels, patches = 3 * patch**2, (side // patch) ** 2
        self.enter = nn.Linear(pixels, width)
        self.place = nn.Parameter(0.02 * torch.randn(1, patches, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.caption = nn.Embedding(captions + 1, width)
        self.blocks = nn.ModuleList(_Block(patches, width) for _ in range(blocks))
        self.leave = nn.Linear(width, pixels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x_BD: Tensor, t_B: Tensor, caption_B: Tensor) -> Tensor:
        """(B, D). t: 0..1. caption: (B,) whole numbers."""
        half = self.width // 2
        angle = 1000.0 * t_B[:, None] * torch.exp(-math.log(10_000.0) * torch.arange(half, device=t_B.device) / half)
        condition = nnf.silu(self.time(torch.cat((angle.cos(), angle.sin()), 1)) + self.caption(caption_B))
        picture = x_BD.view(-1, 3, self.side, self.side)
        x = self.enter(nnf.pixel_unshuffle(picture, self.patch).flatten(2).transpose(1, 2)) + self.place
        for block in self.blocks:
            x = block(x, condition)
        cells = self.leave(x).transpose(1, 2).unflatten(2, (self.side // self.patch, -1))
        return nnf.pixel_shuffle(cells, self.patch).flatten(1)
