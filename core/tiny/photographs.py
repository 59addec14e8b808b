"""How well the embedded model repaints photographs, none of which it was trained on.

The truth of an output is the style's filter (`core.world.filters`) on the same photograph: the judge's share of right
answers on these is the ceiling, and their edges and features are what an output is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.tiny.evaluate import edge_f1
from core.tiny.judge import StyleJudge, as_bytes
from core.world import STYLES
from core.world.filters import filtered


def decibels(first: Tensor, second: Tensor) -> Tensor:
    """PSNR of each of two batches of pictures in 0..1."""
    return -10.0 * (first - second).square().mean((1, 2, 3)).clamp(min=1e-10).log10()


@dataclass(frozen=True)
class PhotographScore:
    """autoencoder_db: mean PSNR of photographs there and back. style: share of outputs in the prompted style, style_by
    of each; style_truth: of the filters' own pictures. edges: mean F1 with the filter's picture. feature_ratio: mean
    distance in the judge's features to the filter's picture of the same photograph, over that between the filter's
    pictures of different ones."""

    autoencoder_db: float
    style: float
    style_by: dict[str, float]
    style_truth: float
    style_truth_by: dict[str, float]
    edges: float
    edges_by: dict[str, float]
    feature_ratio: float


Painting = Callable[[Tensor, str], Tensor]
"""(picture (H, W, 3) uint8, prompt) to the same shape."""


def there_and_back(vae: Any, photographs_N3HW: Tensor) -> Tensor:
    """Photographs through the autoencoder, one by one."""
    like = next(vae.parameters())
    with torch.inference_mode():
        back = [vae.decode(vae.encode(p * 2.0 - 1.0)[0])[0] for p in photographs_N3HW.to(like).split(1)]
    return (torch.cat(back).float().cpu().clamp(-1.0, 1.0) + 1.0) / 2.0


def evaluate_photographs(
    pictures: Tensor, back: Tensor, paint: Painting, judge: StyleJudge, styles: Sequence[str] = STYLES
) -> tuple[PhotographScore, dict[str, Tensor]]:
    """The score, and the outputs (N, H, W, 3) by style. back: the photographs through the autoencoder."""
    inputs = as_bytes(pictures)
    outputs, right, truly, edges, near, apart = {}, {}, {}, {}, [], []
    for style in styles:
        truth = as_bytes(filtered(pictures, style))
        out = torch.stack([paint(picture, f"{style} style") for picture in inputs])
        outputs[style] = out
        number = STYLES.index(style)
        right[style] = float((judge.styles(out) == number).float().mean())
        truly[style] = float((judge.styles(truth) == number).float().mean())
        edges[style] = sum(edge_f1(t, o) for t, o in zip(truth, out, strict=True)) / len(out)
        near.append(float(judge.distance(out, truth).mean()))
        apart.append(float(judge.distance(truth, truth.roll(1, 0)).mean()))
    count = len(styles)
    score = PhotographScore(
        autoencoder_db=float(decibels(pictures, back).mean()),
        style=sum(right.values()) / count,
        style_by=right,
        style_truth=sum(truly.values()) / count,
        style_truth_by=truly,
        edges=sum(edges.values()) / count,
        edges_by=edges,
        feature_ratio=sum(near) / sum(apart),
    )
    return score, outputs
