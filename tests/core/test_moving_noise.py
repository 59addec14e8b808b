"""Noise that moves with the world: it goes where the motion says, and stays independent and normal on the way."""

from __future__ import annotations

import math

import pytest
import torch

from core.model import Model
from core.motion import Guide, Warp, identity_grid, moved
from core.moving_noise import FINE, MovingNoise
from core.params import Params
from core.stream import StreamConfig
from tests.random_model import SIZE_PX, random_model

CELLS, CHANNELS, SEED = 16, 64, 5
PX = 8 * CELLS
CPU = torch.device("cpu")
BASE = Params(prompt="red ball", strength=0.64, steps=2, temporal="engine", motion_share=0.0, motion_latent=0.0)


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model()


def seeds_own() -> torch.Tensor:
    return torch.randn((1, 1, CHANNELS, CELLS, CELLS), generator=torch.Generator().manual_seed(1))


def guide(serial: int, grid: torch.Tensor | None, weight: float | torch.Tensor = 1.0) -> Guide:
    if grid is None:
        return Guide(serial, 1, None, None, Params())
    trusted = torch.as_tensor(weight).expand(1, 1, PX, PX).float()
    return Guide(serial, 1, None, Warp(grid, trusted), Params())


def along(grid: torch.Tensor, frames: int) -> list[torch.Tensor]:
    """The noise (c, h, w) of frames that each read what was before them at the places of the grid."""
    noise, own = MovingNoise((CELLS, CELLS), CPU), seeds_own()
    return [noise.of(own, SEED, guide(n, grid if n else None))[0, 0] for n in range(frames)]


def pan(px: float) -> torch.Tensor:
    return identity_grid(PX, PX, CPU) + torch.tensor([px, 0.0]) * (2.0 / PX)


def turned(scale: float, angle_rad: float) -> torch.Tensor:
    cos, sin = scale * math.cos(angle_rad), scale * math.sin(angle_rad)
    return identity_grid(PX, PX, CPU) @ torch.tensor([[cos, sin], [-sin, cos]])


def waves() -> torch.Tensor:
    here = identity_grid(PX, PX, CPU)
    return here + 0.03 * torch.sin(5.0 * here.flip(-1))


def departures(noise_chw: torch.Tensor) -> dict[str, float]:
    """How far from independent standard normal values: all near 0 for those."""
    x = noise_chw.double()
    return {
        "mean": float(x.mean().abs()),
        "variance": float((x.var() - 1.0).abs()),
        "right": float((x[..., 1:] * x[..., :-1]).mean().abs()),
        "below": float((x[..., 1:, :] * x[..., :-1, :]).mean().abs()),
        "aslant": float((x[..., 1:, 1:] * x[..., :-1, :-1]).mean().abs()),
        "fourth": float((x.pow(4).mean() / 3.0 - 1.0).abs()),
    }


# 64 channels of 16 x 16 cells: the deviation of a mean of products is 1/128, of the fourth moment over three 0.026.
BOUND = {"mean": 0.035, "variance": 0.05, "right": 0.035, "below": 0.035, "aslant": 0.035, "fourth": 0.12}


@pytest.mark.parametrize(
    "grid",
    [turned(0.96, 0.0), turned(1.04, 0.0), turned(1.0, 0.05), waves(), pan(0.7)],
    ids=["nearer", "farther", "turning", "waves", "pan"],
)
def test_noise_stays_independent_and_normal_however_it_is_moved(grid):
    noise = along(grid, 40)
    for frame in (noise[1], noise[10], noise[39]):
        for name, value in departures(frame).items():
            assert value < BOUND[name], name


def test_interpolated_noise_would_not():
    """The bounds can be missed: what is moved as a picture is."""
    noise = seeds_own()[0]
    cells = torch.nn.functional.adaptive_avg_pool2d(turned(0.96, 0.0).permute(0, 3, 1, 2), (CELLS, CELLS))
    for _ in range(10):
        noise = moved(noise, cells.permute(0, 2, 3, 1))
    found = departures(noise[0])
    assert found["variance"] > 4 * BOUND["variance"] and found["right"] > 2 * BOUND["right"]


def test_the_first_frame_has_the_seeds_own_noise_and_without_motion_it_stays():
    for frame in along(pan(0.0), 5):
        torch.testing.assert_close(frame, seeds_own()[0, 0], atol=1e-4, rtol=0.0)


def test_a_pan_takes_the_noise_along():
    first, second = along(pan(8.0), 2)
    torch.testing.assert_close(second[..., :-1], first[..., 1:])
    assert (second[..., -1] - first[..., -1]).abs().mean() > 0.5, "fresh where the picture came in from outside"


def test_slow_motion_adds_up():
    """An eighth of a sample a frame."""
    step_px = 8.0 / FINE / 8.0
    frames = 1 + round(16.0 / step_px)
    noise = along(pan(step_px), frames)
    alike = float((noise[-1][..., :-3] * noise[0][..., 2:-1]).mean())
    stuck = float((noise[-1] * noise[0]).mean())
    assert alike > 0.7 and abs(stuck) < 0.1


def test_what_is_not_trusted_gets_fresh_noise_and_the_rest_keeps_its_own():
    noise, own = MovingNoise((CELLS, CELLS), CPU), seeds_own()
    first = noise.of(own, SEED, guide(0, None))[0, 0]
    weight = torch.ones(PX, PX)
    weight[:, : PX // 2] = 0.0
    second = noise.of(own, SEED, guide(1, pan(0.0), weight))[0, 0]
    torch.testing.assert_close(second[..., CELLS // 2 :], first[..., CELLS // 2 :])
    assert (second - first)[..., : CELLS // 2].abs().mean() > 0.5
    assert departures(second)["variance"] < BOUND["variance"]


def test_a_frame_that_comes_again_has_its_noise_and_a_gap_begins_with_the_seeds():
    noise, own = MovingNoise((CELLS, CELLS), CPU), seeds_own()
    noise.of(own, SEED, guide(0, None))
    once = noise.of(own, SEED, guide(1, pan(3.0)))
    assert torch.equal(once, noise.of(own, SEED, guide(1, pan(3.0))))
    torch.testing.assert_close(noise.of(own, SEED, guide(5, pan(3.0))), own, atol=1e-4, rtol=0.0)
    assert torch.equal(along(waves(), 9)[-1], along(waves(), 9)[-1]), "the seed says it all"


def test_the_stream_paints_with_it_alike_in_both_modes_and_as_before_where_nothing_moves(model):
    # Of one colour: nothing in them speaks against any motion.
    frames = torch.full((6, SIZE_PX, SIZE_PX, 3), 120, dtype=torch.uint8)

    def painted(motion_px: float, **values: object) -> dict[int, torch.Tensor]:
        stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
        plan = stream.plan(BASE.with_values(**values))
        planes = {"motion": torch.tensor([motion_px, 0.0]).expand(1, SIZE_PX, SIZE_PX, 2)}
        out = {}
        for number, frame in enumerate(frames):
            picture = stream.step(frame[None], number, plan, planes, (number + 1,))
            if picture is not None:
                out[picture.tag] = picture.frame_FHWC[0, ..., :3].float()
        return out

    fixed, moving = painted(8.0), painted(8.0, motion_noise=True)
    alone = painted(8.0, motion_noise=True, mode="latency")
    still, still_fixed = painted(0.0, motion_noise=True), painted(0.0)
    assert (fixed[0] - moving[0]).abs().max() <= 1.0
    assert (fixed[3] - moving[3]).abs().mean() > 1.0
    for number, picture in moving.items():
        assert (picture - alone[number]).abs().max() <= 1.0
        assert (still[number] - still_fixed[number]).abs().max() <= 1.0
