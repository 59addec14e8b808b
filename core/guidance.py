"""Guidance kinds: how many rows the U-Net gets and how its predictions become one noise estimate per stage.

Source: StreamDiffusion (arXiv 2312.12491) section 3.3, residual classifier-free guidance. The paper carries the
virtual residual noise from stage to stage; it equals (x - a z) / b for an anchor latent z that stays with the frame:
the clean input latent for self-negative, the clean latent that the negative prompt implies at the first stage for
onetime-negative. So the frame carries its anchor and nothing drifts or breaks when the schedule changes.

Shapes: S stages, F frames, c h w latent. Rows of the U-Net batch are stage-major, negative rows first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.schedule import Coefficients

POSITIVE, NEGATIVE = 0, 1


@dataclass(frozen=True)
class Scales:
    """Live strengths. scale: guidance scale g; delta: weight d of the virtual residual noise."""

    scale: float
    delta: float


@dataclass(frozen=True)
class Guidance:
    """One guidance kind.

    texts(S, F, first): text index (POSITIVE or NEGATIVE) of every row; `first` says that stage 0 is among the S.
    expand(x_SFchw, first): the rows' latents, (R, c, h, w).
    times(t_S, F, first): the rows' timesteps, (R,).
    combine(eps_Rchw, x_SFchw, anchor_SFchw, coefficients, scales, first): (eps_SFchw, anchor_SFchw).
    """

    texts: Callable[[int, int, bool], tuple[int, ...]]
    expand: Callable[[Tensor, bool], Tensor]
    times: Callable[[Tensor, int, bool], Tensor]
    combine: Callable[[Tensor, Tensor, Tensor, Coefficients, Scales, bool], tuple[Tensor, Tensor]]


def _flat(x_SFchw: Tensor) -> Tensor:
    return x_SFchw.flatten(0, 1)


def _times(t_S: Tensor, frames: int) -> Tensor:
    return t_S.repeat_interleave(frames)


def _residual(eps: Tensor, x: Tensor, anchor: Tensor, k: Coefficients, s: Scales) -> Tensor:
    """eps' = d r + g (eps - d r) with the virtual residual noise r = (x - a z) / b (paper equations 3 to 7)."""
    virtual = (x - k.a * anchor) / k.b
    return s.scale * eps + ((1.0 - s.scale) * s.delta) * virtual


def _combine_none(
    eps_R: Tensor, x: Tensor, anchor: Tensor, k: Coefficients, s: Scales, first: bool
) -> tuple[Tensor, Tensor]:
    return eps_R.view_as(x), anchor


def _combine_full(
    eps_R: Tensor, x: Tensor, anchor: Tensor, k: Coefficients, s: Scales, first: bool
) -> tuple[Tensor, Tensor]:
    negative, positive = (half.view_as(x) for half in eps_R.chunk(2))
    return negative + s.scale * (positive - negative), anchor


def _combine_self(
    eps_R: Tensor, x: Tensor, anchor: Tensor, k: Coefficients, s: Scales, first: bool
) -> tuple[Tensor, Tensor]:
    return _residual(eps_R.view_as(x), x, anchor, k, s), anchor


def _combine_onetime(
    eps_R: Tensor, x: Tensor, anchor: Tensor, k: Coefficients, s: Scales, first: bool
) -> tuple[Tensor, Tensor]:
    frames = x.shape[1]
    eps = (eps_R[frames:] if first else eps_R).view_as(x)
    if first:
        implied = (x[:1] - k.b[:1] * eps_R[:frames].view_as(x[:1])) / k.a[:1]
        anchor = torch.cat((implied, anchor[1:]))
    return _residual(eps, x, anchor, k, s), anchor


def _one_row_each(stages: int, frames: int, first: bool) -> tuple[int, ...]:
    return (POSITIVE,) * (stages * frames)


def _expand_onetime(x: Tensor, first: bool) -> Tensor:
    return torch.cat((x[0], _flat(x))) if first else _flat(x)


def _times_onetime(t_S: Tensor, frames: int, first: bool) -> Tensor:
    each = _times(t_S, frames)
    return torch.cat((each[:frames], each)) if first else each


GUIDANCE: Mapping[str, Guidance] = {
    "none": Guidance(
        texts=_one_row_each,
        expand=lambda x, first: _flat(x),
        times=lambda t_S, frames, first: _times(t_S, frames),
        combine=_combine_none,
    ),
    "full": Guidance(
        texts=lambda stages, frames, first: (NEGATIVE,) * (stages * frames) + (POSITIVE,) * (stages * frames),
        expand=lambda x, first: _flat(x).repeat(2, 1, 1, 1),
        times=lambda t_S, frames, first: _times(t_S, frames).repeat(2),
        combine=_combine_full,
    ),
    "self-negative": Guidance(
        texts=_one_row_each,
        expand=lambda x, first: _flat(x),
        times=lambda t_S, frames, first: _times(t_S, frames),
        combine=_combine_self,
    ),
    "onetime-negative": Guidance(
        texts=lambda stages, frames, first: (NEGATIVE,) * (frames if first else 0) + (POSITIVE,) * (stages * frames),
        expand=_expand_onetime,
        times=_times_onetime,
        combine=_combine_onetime,
    ),
}


def active_guidance(kind: str, scale: float) -> Guidance:
    """The guidance to run: a scale of 1 or below means none, whatever the kind (and costs no row)."""
    return GUIDANCE[kind if scale > 1.0 else "none"]
