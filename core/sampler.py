"""Samplers: what a stage makes of its noise prediction, one function each, one table.

A stage starts from x = a z + b n: z the estimate that the stage before left, n noise. A sampler says what estimate
goes on, and with which noise the next stage starts: with noise of its own (LCM), or with what was predicted here
(DDIM, Euler and their like), which then travels with the frame. What a sampler of higher order has to know of the
stages before travels with the frame, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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


class Step(NamedTuple):
    """What a stage leaves; fields of `Carried`. estimate: of the clean latent. noise: what the next stage starts with,
    or None for the stage's own. history: a tree like that of `Sampler.history`; the next stage finds it in
    `Denoised.before`."""

    estimate: Tensor
    noise: Tensor | None = None
    history: Any = ()


def _nothing(latent_SFchw: Tensor) -> Any:
    return ()


@dataclass(frozen=True)
class Sampler:
    """step: one stage. remembers: whether it gives the next one noise. history: what the first stage finds of stages
    before it, for latents (1, F, c, h, w): a tree of tensors (1, F, ...)."""

    step: Callable[[Denoised, Coefficients], Step]
    remembers: bool = False
    history: Callable[[Tensor], Any] = _nothing


def _lcm(now: Denoised, k: Coefficients) -> Step:
    """Latent Consistency Models (arXiv 2310.04378) section 4: the boundary function of the predicted clean latent."""
    return Step(k.c_out * (now.x - k.b * now.eps) / k.a + k.c_skip * now.x)


SAMPLERS: Mapping[str, Sampler] = {"lcm": Sampler(_lcm)}
