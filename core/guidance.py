"""Guidance kinds: how many rows the U-Net gets and how its predictions become one noise estimate per stage.

Source: StreamDiffusion (arXiv 2312.12491) section 3.3, residual classifier-free guidance. The paper carries the
virtual residual noise from stage to stage; it equals (x - a z) / b for an anchor latent z that stays with the frame:
the clean input latent for self-negative, the clean latent that the negative prompt implies at the first stage for
onetime-negative. So the frame carries its anchor and nothing drifts or breaks when the schedule changes.

Shapes: S stages, F frames, c h w latent, R rows. A role's rows are one piece of the batch, stage after stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from core.schedule import Coefficients

POSITIVE, NEGATIVE = "positive", "negative"
ROLES: Mapping[str, str] = {NEGATIVE: "negative_prompt", POSITIVE: "prompt"}
"""What a row is there for, and the parameter whose text it reads; in the order of the rows in a batch."""


class Row(NamedTuple):
    """What one row of a U-Net batch is, whatever else is in the batch: the stage and the place in the frame buffer of
    the frame that it works on, and its role."""

    stage: int
    frame: int
    role: str


@dataclass(frozen=True)
class GuidanceScales:
    """Live strengths. scale: guidance scale g; delta: weight d of the virtual residual noise."""

    scale: float
    delta: float


ByRole = Mapping[str, Tensor]
"""A role's noise predictions, (S, F, c, h, w) of the stages of a call that have rows of it; absent without any."""
Combine = Callable[[ByRole, Tensor, Tensor, Coefficients, GuidanceScales], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Guidance:
    """One guidance kind.

    roles(stage): the rows that a frame needs at a stage. combine(predictions, x_SFchw, anchor_SFchw, coefficients,
    scales): (eps_SFchw, anchor_SFchw).
    """

    roles: Callable[[int], Sequence[str]]
    combine: Combine

    def rows(self, stages: range, frames: int) -> tuple[Row, ...]:
        """The rows of a U-Net call for these stages."""
        return tuple(
            Row(stage, frame, role)
            for role in ROLES
            for stage in stages
            if role in self.roles(stage)
            for frame in range(frames)
        )


def _residual(eps: Tensor, x: Tensor, anchor: Tensor, k: Coefficients, s: GuidanceScales) -> Tensor:
    """eps' = d r + g (eps - d r) with the virtual residual noise r = (x - a z) / b (paper equations 3 to 7)."""
    virtual = (x - k.a * anchor) / k.b
    return s.scale * eps + ((1.0 - s.scale) * s.delta) * virtual


def _none(eps: ByRole, x: Tensor, anchor: Tensor, k: Coefficients, s: GuidanceScales) -> tuple[Tensor, Tensor]:
    return eps[POSITIVE], anchor


def _full(eps: ByRole, x: Tensor, anchor: Tensor, k: Coefficients, s: GuidanceScales) -> tuple[Tensor, Tensor]:
    return eps[NEGATIVE] + s.scale * (eps[POSITIVE] - eps[NEGATIVE]), anchor


def _self(eps: ByRole, x: Tensor, anchor: Tensor, k: Coefficients, s: GuidanceScales) -> tuple[Tensor, Tensor]:
    return _residual(eps[POSITIVE], x, anchor, k, s), anchor


def _onetime(eps: ByRole, x: Tensor, anchor: Tensor, k: Coefficients, s: GuidanceScales) -> tuple[Tensor, Tensor]:
    if NEGATIVE in eps:
        implied = (x[:1] - k.b[:1] * eps[NEGATIVE]) / k.a[:1]
        anchor = torch.cat((implied, anchor[1:]))
    return _residual(eps[POSITIVE], x, anchor, k, s), anchor


GUIDANCE: Mapping[str, Guidance] = {
    "none": Guidance(lambda stage: (POSITIVE,), _none),
    "full": Guidance(lambda stage: (NEGATIVE, POSITIVE), _full),
    "self-negative": Guidance(lambda stage: (POSITIVE,), _self),
    "onetime-negative": Guidance(lambda stage: (POSITIVE,) if stage else (NEGATIVE, POSITIVE), _onetime),
}


def guidance_embedding(scale: float, width: int) -> Tensor:
    """What a distilled U-Net is told of the guidance scale beside its timestep: (width,), float32, sines before cosines
    of 1000 w with w = scale - 1.

    width: `time_cond_proj_dim` of its configuration, at least 4. Source: Latent Consistency Models (arXiv 2310.04378)
    section 4.3, with the sinusoidal embedding of Vaswani et al. (arXiv 1706.03762) section 3.5.
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10_000.0) / (half - 1)))
    angles = 1000.0 * (scale - 1.0) * frequencies
    return torch.nn.functional.pad(torch.cat((angles.sin(), angles.cos())), (0, width % 2))


def active_guidance(kind: str, scale: float) -> Guidance:
    """The guidance to run: a scale of 1 or below means none, whatever the kind (and costs no row)."""
    return GUIDANCE[kind if scale > 1.0 else "none"]
