"""Judges of styles: a small classifier that tells which style a picture is in, and a distance in its features.

Trained here and now on true pictures: renders of the world and filtered synthetic pictures of `core.tiny.shards`, whose
seeds no other training uses. A photograph is only ever judged.

Shapes: B pictures, uint8 (B, H, W, 3), sides of at least 64 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.tiny.pictures import dead_leaves, smooth_pictures
from core.world import STYLES
from core.world.filters import filtered

SIDE_PX = 128
"""Larger pictures are judged by pieces of this side: texture must not be made smaller."""
WIDTHS = ((3, 24), (24, 32), (32, 48), (48, 64))


class StyleJudge(torch.nn.Module):
    """Scores of all styles; convolutions of stride 2, then the mean over the picture. styles: how many there are."""

    def __init__(self, styles: int = len(STYLES)) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.Conv2d(width_in, width, 5 if width_in == 3 else 3, stride=2, padding=1)
            for width_in, width in WIDTHS
        )
        self.head = torch.nn.Linear(2 * WIDTHS[-1][1], styles)

    def features(self, picture_BHWC: Tensor) -> list[Tensor]:
        """Of every layer, (B, c, h, w)."""
        x = picture_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        found = []
        for layer in self.layers:
            x = nnf.relu(layer(x))
            found.append(x)
        return found

    def forward(self, picture_BHWC: Tensor) -> Tensor:
        """Scores (B, styles)."""
        last = self.features(picture_BHWC)[-1]
        return self.head(torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1))

    @torch.no_grad()
    def styles(self, picture_BHWC: Tensor) -> Tensor:
        """(B,) into STYLES: the style of the mean score over pieces of SIDE_PX."""
        height, width = picture_BHWC.shape[1:3]
        tops, lefts = (sorted({0, max(0, side - SIDE_PX)}) for side in (height, width))
        pieces = [picture_BHWC[:, y : y + SIDE_PX, x : x + SIDE_PX] for y in tops for x in lefts]
        return torch.stack([self(piece).log_softmax(1) for piece in pieces]).mean(0).argmax(1)

    @torch.no_grad()
    def distance(self, first_BHWC: Tensor, second_BHWC: Tensor) -> Tensor:
        """(B,): mean squared difference of unit-length features, summed over layers (the form of LPIPS, arXiv
        1801.03924, without learned weights)."""
        total = torch.zeros(len(first_BHWC))
        for a, b in zip(self.features(first_BHWC), self.features(second_BHWC), strict=True):
            a, b = (f / f.norm(dim=1, keepdim=True).clamp(min=1e-6) for f in (a, b))
            total += (a - b).square().sum(1).mean((1, 2))
        return total


def as_bytes(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1 to uint8 (B, H, W, 3)."""
    return (pictures.clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def filtered_pictures(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` synthetic pictures of SIDE_PX through every filter, with their styles."""
    sources = torch.cat(
        [dead_leaves(count - count // 4, SIDE_PX, generator), smooth_pictures(count // 4, SIDE_PX, generator)]
    )
    pictures = torch.cat([as_bytes(filtered(sources, style)) for style in STYLES])
    return pictures, torch.arange(len(STYLES)).repeat_interleave(count)


def trained_judge(examples: Sequence[tuple[Tensor, Tensor]], steps: int = 500, batch: int = 48) -> StyleJudge:
    """A judge of examples (pictures, styles), each kind of example equally often; always in the same way."""
    torch.manual_seed(0)
    judge = StyleJudge(1 + max(int(styles.max()) for _, styles in examples))
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    share = batch // len(examples)
    for _ in range(steps):
        picked = [torch.randint(len(styles), (share,), generator=generator) for _, styles in examples]
        pictures = torch.cat([p[rows] for (p, _), rows in zip(examples, picked, strict=True)])
        wanted = torch.cat([s[rows] for (_, s), rows in zip(examples, picked, strict=True)])
        # Turned over at random: lattices are judged by their look, not by where they start.
        if bool(torch.randint(2, (1,), generator=generator)):
            pictures = pictures.flip(2)
        loss = nnf.cross_entropy(judge(pictures), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval().requires_grad_(False)
