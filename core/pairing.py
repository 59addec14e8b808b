"""Which noise a training picture is mixed with: Immiscible Diffusion (arXiv 2406.12303, 2505.18521) and its kin.

Plain diffusion training pairs pictures and noise blindly, so every picture is spread over all of the noise. Pairing
each picture with noise that lies near it keeps them apart. One signature: rows of a training set go in; rows and their
noise come out. The noise that comes out is used twice, in the noised picture and in the target; nothing is permuted
again, and captions stay with their pictures.

Shapes: N training pictures of D numbers each (x_ND, float32, mean about 0), B rows; captions are whole numbers (N,)
that are equal where the prompts are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

BLOCK = 256
"""Rows that are matched with each other at once: the assignment's cost grows with more than their square."""
NEAREST_OF = 4
"""Draws per picture of the nearest-of-k rules (k of arXiv 2505.18521; 4 and 8 were best at 3,072 numbers)."""


@dataclass(frozen=True)
class TrainingSet:
    """x_ND: pictures or latents. caption_N: which prompt each has. potential_N, caption_potential_N: of the
    semi-discrete rules, over all pictures and among those of one caption; empty until `fitted`."""

    x_ND: Tensor
    caption_N: Tensor
    potential_N: Tensor = field(default_factory=lambda: torch.empty(0))
    caption_potential_N: Tensor = field(default_factory=lambda: torch.empty(0))


class Paired(NamedTuple):
    """rows_B: into the training set. noise_BD: float32, of each."""

    rows_B: Tensor
    noise_BD: Tensor


Pairing = Callable[[TrainingSet, Tensor, torch.Generator], Paired]
"""(training set, rows_B that were drawn, generator) to rows and their noise."""


def _noise(rows: int, width: int, generator: torch.Generator, copies: int = 0) -> Tensor:
    shape = (rows, copies, width) if copies else (rows, width)
    return torch.randn(shape, generator=generator, device=generator.device)


def independent(data: TrainingSet, rows_B: Tensor, generator: torch.Generator) -> Paired:
    """Blindly, as everywhere else."""
    return Paired(rows_B, _noise(len(rows_B), data.x_ND.shape[1], generator))


def _assigned(cost: Tensor, noise_BD: Tensor) -> Tensor:
    """The noise in the order of least total cost (B, B), pictures by noise."""
    _, order = linear_sum_assignment(cost.cpu().numpy())
    return noise_BD[torch.as_tensor(order, device=noise_BD.device)]


def assignment(data: TrainingSet, rows_B: Tensor, generator: torch.Generator) -> Paired:
    """Linear assignment of a batch's noise to its pictures (arXiv 2406.12303, algorithm 1), in blocks of `BLOCK`.

    The cost is -x n: permuting changes neither |x| nor |n|, so this is the assignment of least squared distance, for
    one matrix product. The noise as a set stays exactly Gaussian."""
    noise = _noise(len(rows_B), data.x_ND.shape[1], generator)
    blocks = zip(data.x_ND[rows_B].split(BLOCK), noise.split(BLOCK), strict=True)
    return Paired(rows_B, torch.cat([_assigned(-(x @ n.T), n) for x, n in blocks]))


def assignment_as_published(data: TrainingSet, rows_B: Tensor, generator: torch.Generator) -> Paired:
    """Linear assignment with the authors' own cost: plain, not squared, distances of a tenth of the values, rounded to
    half precision, over the whole batch."""
    noise = _noise(len(rows_B), data.x_ND.shape[1], generator)
    x, n = (0.1 * data.x_ND[rows_B].half()).float(), (0.1 * noise.half()).float()
    return Paired(rows_B, _assigned(torch.cdist(x, n).half().float(), noise))


def nearest(data: TrainingSet, rows_B: Tensor, generator: torch.Generator) -> Paired:
    """The nearest of `NEAREST_OF` draws for each picture, by distance (arXiv 2505.18521, as published).

    It prefers quiet noise and leans towards the mean of the pictures: neither is there when a picture is made from
    noise. `nearest_centred` is without both."""
    drawn = _noise(len(rows_B), data.x_ND.shape[1], generator, NEAREST_OF)
    far = (drawn.half() - data.x_ND[rows_B, None].half()).float().square().sum(2)
    return Paired(rows_B, drawn[torch.arange(len(far), device=far.device), far.argmin(1)])


def nearest_centred(data: TrainingSet, rows_B: Tensor, generator: torch.Generator) -> Paired:
    """The best of `NEAREST_OF` draws by the product with the picture less the mean picture: noise of full strength and
    without a common direction."""
    drawn = _noise(len(rows_B), data.x_ND.shape[1], generator, NEAREST_OF)
    centred = data.x_ND[rows_B] - data.x_ND.mean(0)
    best = best_draw(drawn.transpose(0, 1)[:, None], centred)[0]
    return Paired(rows_B, drawn[torch.arange(len(best), device=best.device), best])


def assignment_within_captions(data: TrainingSet, rows_B: Tensor, generator: torch.Generator) -> Paired:
    """Linear assignment among pictures of equal captions only. Across captions it would tie the noise to the prompt,
    and noise is drawn without looking at the prompt when a picture is made (C2OT, ICCV 2025)."""
    noise = _noise(len(rows_B), data.x_ND.shape[1], generator)
    x, captions = data.x_ND[rows_B], data.caption_N[rows_B]
    for caption in captions.unique():
        own = torch.nonzero(captions == caption)[:, 0]
        for rows in own.split(BLOCK):
            noise[rows] = _assigned(-(x[rows] @ noise[rows].T), noise[rows])
    return Paired(rows_B, noise)


def semi_discrete(data: TrainingSet, rows_B: Tensor, generator: torch.Generator) -> Paired:
    """Fresh noise finds its picture: that of the largest product plus potential, over the whole training set (the
    semi-discrete optimal transport of a Gaussian to the set). Each noise is exactly Gaussian and independent of all
    others; `fitted` makes every picture as likely as every other. rows_B is used for its length alone."""
    noise = _noise(len(rows_B), data.x_ND.shape[1], generator)
    return Paired(_score(data, data.potential_N, noise).argmax(1), noise)


def semi_discrete_within_captions(data: TrainingSet, rows_B: Tensor, generator: torch.Generator) -> Paired:
    """The same among the pictures that have the caption of the row that was drawn: noise stays independent of the
    prompt, as it is when a picture is made (see `assignment_within_captions`)."""
    noise = _noise(len(rows_B), data.x_ND.shape[1], generator)
    return Paired(_score(data, data.caption_potential_N, noise, data.caption_N[rows_B]).argmax(1), noise)


def _score(data: TrainingSet, potential_N: Tensor, noise_BD: Tensor, caption_B: Tensor | None = None) -> Tensor:
    if len(potential_N) != len(data.x_ND):
        raise ValueError("the training set has no potentials; give it to `fitted` first")
    score = noise_BD @ data.x_ND.T + potential_N
    return score if caption_B is None else score.masked_fill(caption_B[:, None] != data.caption_N, -torch.inf)


SMOOTHING = (0.6, 0.02)
"""Of the potentials' fit, at its beginning and at its end, in root mean square distances of a picture from the mean."""
RATES = (0.7, 0.05)


def fitted(
    data: TrainingSet,
    generator: torch.Generator,
    steps: int = 400,
    batch: int = 1024,
    *,
    within_captions: bool = False,
) -> TrainingSet:
    """With the potentials of a semi-discrete rule. A picture that is found too often becomes dearer.

    By stochastic ascent of the smoothed dual (Genevay et al., arXiv 1605.08527), with steps of the logarithm as
    Sinkhorn's, the smoothing made smaller on the way, averaged over the last quarter. Without smoothing a batch says
    nothing of most pictures: after as much work a third of 2,048 was never found. Quick for some thousand pictures.
    """
    count, width = data.x_ND.shape
    scale = float((data.x_ND - data.x_ND.mean(0)).square().sum(1).mean().sqrt())
    potential = -data.x_ND.square().sum(1) / 2.0
    potential = potential - potential.mean()
    total, averaged = torch.zeros_like(potential), 0
    caption_B = None
    for step in range(steps):
        smoothing, rate = (first * (last / first) ** (step / steps) for first, last in (SMOOTHING, RATES))
        smoothing *= scale
        noise = _noise(batch, width, generator)
        if within_captions:
            caption_B = data.caption_N[torch.randint(count, (batch,), generator=generator, device=generator.device)]
        share = (_score(data, potential, noise, caption_B) / smoothing).softmax(1).mean(0)
        potential = potential - rate * smoothing * (share * count).clamp_min(1e-2).log()
        if step >= steps - (steps + 3) // 4:
            total, averaged = total + potential, averaged + 1
    found = total / averaged
    return replace(data, caption_potential_N=found) if within_captions else replace(data, potential_N=found)


def best_draw(drawn_kSBD: Tensor, centred_BD: Tensor) -> Tensor:
    """(S, B): which of k draws of noise suits each picture best, at each of S stages: the rule of `nearest_centred` for
    noise that was drawn before. centred: pictures less what is common to all of them."""
    return torch.einsum("ksbd,bd->ksb", drawn_kSBD, centred_BD).argmax(0)


PAIRINGS: Mapping[str, Pairing] = {
    "none": independent,
    "assignment": assignment,
    "assignment-fp16": assignment_as_published,
    "nearest": nearest,
    "nearest-centred": nearest_centred,
    "assignment-by-caption": assignment_within_captions,
    "semi-discrete": semi_discrete,
    "semi-discrete-by-caption": semi_discrete_within_captions,
}
"""By name, one function each."""
