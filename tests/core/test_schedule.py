"""The noise schedule is the one of the model folder, or it is refused."""

from __future__ import annotations

import pytest
import torch
from diffusers import LCMScheduler

from core.params import STAGE_GRID
from core.schedule import NoiseSchedule, ScheduleError


@pytest.mark.parametrize("count", [1000, 1024, 150])
@pytest.mark.parametrize("kind", ["scaled_linear", "linear"])
def test_grid_and_noise_levels_equal_those_of_the_lcm_scheduler(count, kind):
    config = {"num_train_timesteps": count, "beta_schedule": kind, "beta_start": 0.00085, "beta_end": 0.012}
    theirs = LCMScheduler(**config)
    theirs.set_timesteps(STAGE_GRID)
    ours = NoiseSchedule.from_config(config)
    assert torch.equal(ours.alphas_cumprod_T, theirs.alphas_cumprod)
    assert [ours.timestep(i) for i in range(STAGE_GRID)] == theirs.timesteps.tolist()


@pytest.mark.parametrize(
    "config",
    [
        {"beta_schedule": "squaredcos_cap_v2"},
        {"rescale_betas_zero_snr": True},
        {"trained_betas": [0.1, 0.2]},
        {"num_train_timesteps": 20},
    ],
)
def test_schedules_that_would_be_taken_for_others_are_refused(config):
    with pytest.raises(ScheduleError, match=f"{next(iter(config))}.* use"):
        NoiseSchedule.from_config(config)


def test_options_that_are_off_do_not_matter():
    plain = NoiseSchedule.from_config({})
    off = NoiseSchedule.from_config({"rescale_betas_zero_snr": False, "trained_betas": None})
    assert torch.equal(plain.alphas_cumprod_T, off.alphas_cumprod_T)
