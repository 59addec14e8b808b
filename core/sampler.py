"""Samplers: what a stage makes of its noise prediction, one function each, one table.

A stage starts from x = a z + b n: z the estimate that the stage before left, n noise. A sampler says what estimate
goes on, and with which noise the next stage starts: with noise of its own (LCM), or with what was predicted here
(DDIM, Euler and their like), which then travels with the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from core.flight import Carried
from core.guidance import ByRole
from core.schedule import Coefficients


@dataclass(frozen=True)
class Denoised:
    """What a stage knows after its U-Net call. x, eps: noisy latents and the noise in them, as guidance estimates it,
    (S, F, c, h, w). by_role: the predictions before guidance. before: what the stage read."""

    x: Tensor
    eps: Tensor
    by_role: ByRole
    before: Carried


@dataclass(frozen=True)
class Sampler:
    """step: (estimate of the clean latent, noise that the next stage starts with, or None for the stage's own).
    remembers: whether it gives the second."""

    step: Callable[[Denoised, Coefficients], tuple[Tensor, Tensor | None]]
    remembers: bool = False


def _lcm(now: Denoised, k: Coefficients) -> tuple[Tensor, None]:
    """Latent Consistency Models (arXiv 2310.04378) section 4: the boundary function of the predicted clean latent."""
    return k.c_out * (now.x - k.b * now.eps) / k.a + k.c_skip * now.x, None


SAMPLERS: Mapping[str, Sampler] = {"lcm": Sampler(_lcm)}
