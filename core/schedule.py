"""Timesteps and coefficients of the stages, selected from the 50-point grid 999, 979, ..., 19.

Source: Latent Consistency Models (arXiv 2310.04378) section 4; StreamDiffusion (arXiv 2312.12491) appendix A.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from core.params import STAGE_GRID

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0
MAX_TIMESTEPS = 10_000


def _lcm_boundary(t: float) -> tuple[float, float]:
    """c_skip, c_out at timestep t: consistency models (arXiv 2303.01469) appendix C with LCM's scaling of t."""
    scaled = t * TIMESTEP_SCALING
    norm = scaled**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / norm, scaled / norm**0.5


_DDPM, _LCM, _HEUN = ("linear", 0.0001, 0.02), ("scaled_linear", 0.00085, 0.012), ("linear", 0.00085, 0.012)
SCHEDULERS: Mapping[str, tuple[str, float, float]] = {
    "DDIMScheduler": _DDPM,
    "DDIMParallelScheduler": _DDPM,
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "DEISMultistepScheduler": _DDPM,
    "DPMSolverMultistepScheduler": _DDPM,
    "DPMSolverSDEScheduler": _HEUN,
    "DPMSolverSinglestepScheduler": _DDPM,
    "EulerAncestralDiscreteScheduler": _DDPM,
    "EulerDiscreteScheduler": _DDPM,
    "HeunDiscreteScheduler": _HEUN,
    "KDPM2AncestralDiscreteScheduler": _HEUN,
    "KDPM2DiscreteScheduler": _HEUN,
    "LCMScheduler": _LCM,
    "LMSDiscreteScheduler": _DDPM,
    "PNDMScheduler": _DDPM,
    "SASolverScheduler": _DDPM,
    "TCDScheduler": _LCM,
    "UniPCMultistepScheduler": _DDPM,
}
"""diffusers' schedulers of models with discrete noise levels; beta_schedule, beta_start, beta_end where the file leaves
them out."""


class ScheduleError(ValueError):
    """A noise schedule that this project cannot follow; the message names the ones that it can."""


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha_bar over the training timesteps: shape (T,), float32, decreasing, in (0, 1)."""

    alphas_cumprod_T: Tensor

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Build from a diffusers scheduler_config.json. Raises `ScheduleError` for what would be another schedule."""
        scheduler = config.get("_class_name", "DDIMScheduler")
        if scheduler not in tuple(SCHEDULERS):
            raise ScheduleError(f"scheduler {scheduler!r} is not supported; use a model with one of Stable Diffusion's")
        defaults = dict(zip(("beta_schedule", "beta_start", "beta_end"), SCHEDULERS[scheduler], strict=True))
        config = {"num_train_timesteps": 1000, **defaults, **config}
        count, low, high = config["num_train_timesteps"], config["beta_start"], config["beta_end"]
        if not isinstance(count, int) or not STAGE_GRID <= count <= MAX_TIMESTEPS:
            raise ScheduleError(f"num_train_timesteps {count!r} is not supported; use {STAGE_GRID} to {MAX_TIMESTEPS}")
        if not isinstance(low, (int, float)) or not isinstance(high, (int, float)) or not 0.0 < low <= high < 1.0:
            raise ScheduleError(f"beta_start {low!r}, beta_end {high!r} are not supported; use rising ones in (0, 1)")
        for name in ("trained_betas", "rescale_betas_zero_snr"):
            if config.get(name):
                raise ScheduleError(f"{name} is not supported; use a model with a plain beta_schedule")
        kind = config["beta_schedule"]
        # float32 as in the checkpoints' own training code: its rounding is part of the published constants.
        if kind == "scaled_linear":
            beta_T = torch.linspace(low**0.5, high**0.5, count, dtype=torch.float32) ** 2
        elif kind == "linear":
            beta_T = torch.linspace(low, high, count, dtype=torch.float32)
        else:
            raise ScheduleError(f"beta_schedule {kind!r} is not supported; use scaled_linear or linear")
        return cls(torch.cumprod(1.0 - beta_T, dim=0))

    def timestep(self, t_index: int) -> int:
        """The training timestep of a point (0 to 49) of the 50-point grid: 999, 979, ..., 19 for T = 1000."""
        stride = len(self.alphas_cumprod_T) // STAGE_GRID
        return stride * (STAGE_GRID - t_index) - 1


@dataclass(frozen=True)
class Coefficients:
    """Per-stage constants, float32 on the stream's device; S stages, tensors of shape (S, 1, 1, 1, 1) but t_S.

    a, b: signal and noise level, x = a x0 + b e.  a_next, b_next: of the stage after; 1 and 0 after the last.
    c_skip, c_out: LCM's boundary function.
    """

    t_S: Tensor
    a: Tensor
    b: Tensor
    a_next: Tensor
    b_next: Tensor
    c_skip: Tensor
    c_out: Tensor

    @classmethod
    def build(cls, noise: NoiseSchedule, stages: tuple[int, ...], device: torch.device) -> Coefficients:
        """Constants for the given t-indices."""
        t_S = [noise.timestep(i) for i in stages]
        alpha_bar = noise.alphas_cumprod_T[torch.tensor(t_S)]
        a, b = alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()
        boundary = [_lcm_boundary(float(t)) for t in t_S]
        c_skip, c_out = (torch.tensor(c, dtype=torch.float32) for c in zip(*boundary, strict=True))

        def shaped(values: Tensor) -> Tensor:
            return values.to(torch.float32).view(-1, 1, 1, 1, 1).to(device)

        return cls(
            torch.tensor(t_S, device=device),
            shaped(a),
            shaped(b),
            shaped(torch.cat((a[1:], torch.ones(1)))),
            shaped(torch.cat((b[1:], torch.zeros(1)))),
            shaped(c_skip),
            shaped(c_out),
        )

    def of(self, stages: range) -> Coefficients:
        """The constants of some neighbouring stages."""
        cut = slice(stages.start, stages.stop)
        return Coefficients(*(getattr(self, field.name)[cut] for field in fields(self)))
