"""What a network is trained for, and how pictures are made with it: one value each, one table.

All of them noise a picture x with noise n to x_t = a(t) x + b(t) n, t in 0..1, and use n twice: in x_t and in the
target. Which n goes with which x is the business of `core.pairing`.

Shapes: B rows of D numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_BD, t_B, caption_B) to (B, D)."""

SMALLEST_T = 1e-3
HALVINGS = 3
"""How often consistency training halves the way between its two times."""


@dataclass(frozen=True)
class Objective:
    """levels: a(t), b(t). loss: (objective, network, x, noise, captions, t, share of the training that is done) to a
    number. clean: what the network says of x, given x_t, t and its output; target: what that output should be, given x,
    n and t. restart: whether each step of making a picture starts from its clean estimate with fresh noise, instead of
    the noise that the network found."""

    levels: Callable[[Tensor], tuple[Tensor, Tensor]]
    loss: Callable[[Objective, Network, Tensor, Tensor, Tensor, Tensor, float], Tensor]
    clean: Callable[[Tensor, Tensor, Tensor], Tensor]
    target: Callable[[Tensor, Tensor, Tensor], Tensor]
    restart: bool = False

    def noised(self, x_BD: Tensor, noise_BD: Tensor, t_B: Tensor) -> Tensor:
        """x_t."""
        a, b = self.levels(t_B[:, None])
        return a * x_BD + b * noise_BD

    def made(
        self,
        network: Network,
        noised_BD: Tensor,
        caption_B: Tensor,
        evaluations: int,
        generator: torch.Generator,
        start: float = 1.0,
    ) -> Tensor:
        """Pictures (B, D) of `noised_BD` at time `start`, with so many calls of the network, evenly spaced: DDIM
        (arXiv 2010.02502) for diffusion, Euler's method for flow, the sampler of consistency models (arXiv 2303.01469,
        algorithm 1) for those."""
        x = noised_BD
        times = torch.linspace(start, 0.0, evaluations + 1)
        for now, then in zip(times[:-1], times[1:], strict=True):
            t = torch.full((len(x),), float(now), device=x.device)
            clean = self.clean(x, t[:, None], network(x, t, caption_B))
            (a, b), (a_then, b_then) = self.levels(now), self.levels(then)
            if self.restart:
                noise = torch.randn(x.shape, generator=generator, device=x.device)
            else:
                noise = (x - a * clean) / b
            x = a_then * clean + b_then * noise
        return x


def _circle(t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cos(0.5 * math.pi * t), torch.sin(0.5 * math.pi * t)


def _line(t: Tensor) -> tuple[Tensor, Tensor]:
    return 1.0 - t, t


def _squared(
    objective: Objective, network: Network, x: Tensor, noise: Tensor, captions: Tensor, t: Tensor, done: float
) -> Tensor:
    out = network(objective.noised(x, noise, t), t, captions)
    return (out - objective.target(x, noise, t[:, None])).square().mean()


def _consistent(
    objective: Objective, network: Network, x: Tensor, noise: Tensor, captions: Tensor, t: Tensor, done: float
) -> Tensor:
    """Consistency training in the manner of "Consistency Models Made Easy" (arXiv 2406.14548): the clean estimate at t
    has to be that at an earlier time of the same noise. The earlier time is 0, where the truth is known, at first, and
    comes nearer in halves; pseudo-Huber distance, weighted by one over the way."""
    t = t.clamp(min=SMALLEST_T)
    way = t * 0.5 ** min(HALVINGS, int(done * (HALVINGS + 1)))

    def estimate(at: Tensor) -> Tensor:
        noised = objective.noised(x, noise, at)
        return objective.clean(noised, at[:, None], network(noised, at, captions))

    with torch.no_grad():
        wanted = x if done * (HALVINGS + 1) < 1.0 else estimate(t - way)
    near = 0.00054 * x.shape[1] ** 0.5
    apart = ((estimate(t) - wanted).square().sum(1) + near**2).sqrt() - near
    return (apart / way).mean() / x.shape[1] ** 0.5


def _clean_of_v(x: Tensor, t: Tensor, v: Tensor) -> Tensor:
    a, b = _circle(t)
    return a * x - b * v


def _v(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    a, b = _circle(t)
    return a * noise - b * x


def _clean_of_u(x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    return x - t * u


def _u(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    return noise - x


OBJECTIVES: Mapping[str, Objective] = {
    "diffusion": Objective(_circle, _squared, _clean_of_v, _v),
    "flow": Objective(_line, _squared, _clean_of_u, _u),
    "few-step": Objective(_line, _consistent, _clean_of_u, _u, restart=True),
}
"""diffusion: v-prediction on a circle of noise levels (arXiv 2202.00512). flow: rectified flow (arXiv 2209.03003).
few-step: consistency, starting as its own diffusion model."""
