"""Pieces of a picture found again in the one before, held to their plain words; and what the bank makes of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

from core.matching import PLACES, REACH, Matching, by_torch, differences, small_grey
from core.model import Model
from core.motion import Carrying, Follower
from core.params import Params
from core.stream import StreamConfig
from tests.random_model import SIZE_PX, random_frames, random_model

CPU = torch.device("cpu")
PX = 64
BANK = Params(prompt="red ball", strength=0.64, steps=2, temporal="bank")


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model()


def texture(seed: int = 0, size: int = 40) -> torch.Tensor:
    """Smooth grey levels (size, size)."""
    noise = torch.rand((1, 1, size // 5, size // 5), generator=torch.Generator().manual_seed(seed))
    return nnf.interpolate(noise, (size, size), mode="bicubic").clamp(0, 1)[0, 0] * 255.0


def test_each_piece_takes_the_place_of_least_difference_the_nearest_of_equal_ones():
    now, before = (
        torch.randint(0, 256, (2, 9, 11), generator=torch.Generator().manual_seed(s)).float() for s in (0, 1)
    )
    cost = differences(now, before)
    assert torch.equal(cost, by_torch(now, before))
    wide = nnf.pad(before[:, None], (REACH,) * 4, mode="replicate")[:, 0]
    for number, (y, x) in enumerate(PLACES):
        apart = (wide[:, REACH + y : REACH + y + 9, REACH + x : REACH + x + 11] - now).abs()
        plain = 25.0 * nnf.avg_pool2d(nnf.pad(apart[:, None], (2,) * 4, mode="replicate"), 5, 1)[:, 0]
        torch.testing.assert_close(cost[:, number], plain, atol=0.5, rtol=0.0)
    found = Matching(CPU).back(now, before)
    chosen = torch.tensor([(float(x), float(y)) for y, x in PLACES])[cost.argmin(1)]
    assert (found - chosen).abs().max() <= 0.5
    flat = torch.full((1, 9, 11), 90.0)
    assert Matching(CPU).back(flat, flat).abs().max() == 0.0


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (-2, 1)])
def test_a_picture_that_was_shifted_is_found_where_it_was(shift):
    x, y = shift
    whole = texture()
    before, now = whole[4:36, 4:36], whole[4 + y : 36 + y, 4 + x : 36 + x]
    found = Matching(CPU).back(now[None].round(), before[None].round())[0, 6:-6, 6:-6].reshape(-1, 2)
    assert (found.median(0).values - torch.tensor([float(x), float(y)])).abs().max() < 0.1


def test_half_a_pixel_is_told_from_a_whole_one():
    whole = texture(size=80)
    before, now = (small_grey(whole[None, None, 8:72, 8 + px : 72 + px].repeat(1, 3, 1, 1), (32, 32)) for px in (0, 1))
    found = Matching(CPU).back(now, before)[0, 6:-6, 6:-6].reshape(-1, 2)
    assert (found.median(0).values - torch.tensor([0.5, 0.0])).abs().max() < 0.2


@pytest.mark.parametrize("size", [(32, 32), (16, 32), (64, 64)])
def test_small_grey_pictures_are_those_of_areas(size):
    levels = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    plain = nnf.interpolate(levels.sum(1, keepdim=True), size, mode="area")[:, 0].div(3.0)
    found = small_grey(levels, size)
    assert torch.equal(found, found.round()) and (found - plain).abs().max() <= 0.501


def guides(frames: torch.Tensor, params: Params = BANK) -> list:
    follower = Follower((PX, PX), (PX // 8, PX // 8), CPU)
    return [follower.guide(frame[None], {}, (n + 1,), params) for n, frame in enumerate(frames)]


def test_the_bank_reads_whole_pixels_where_the_source_agrees_and_nothing_after_a_cut():
    wide = texture(3, 80).to(torch.uint8)[..., None].expand(-1, -1, 3)
    frames = torch.stack([wide[8:72, 8 + 2 * n : 72 + 2 * n] for n in range(2)])
    second = guides(frames)[1]
    px = (second.picture.grid - guides(frames[:1].repeat(2, 1, 1, 1))[1].picture.grid) * PX / 2
    middle = px[0, 8:-8, 8:-8]
    assert (middle - middle.round()).abs().max() < 1e-3
    assert (middle.reshape(-1, 2).median(0).values - torch.tensor([2.0, 0.0])).abs().max() < 0.1
    assert second.picture.weight[0, 0, 8:-8, 8:-8].mean() > 0.8 and second.latent is None
    # In another picture pieces that are alike are found, too.
    other = texture(9, 64).to(torch.uint8)[..., None].expand(-1, -1, 3)
    assert guides(torch.stack((frames[0], other)))[1].picture.weight.max() == 0.0


def test_another_way_of_looking_begins_anew():
    """What flow and pieces keep of a frame is not the same."""
    pytest.importorskip("cv2")
    frames = random_frames(1, size=PX).repeat(3, 1, 1, 1)
    follower = Follower((PX, PX), (PX // 8, PX // 8), CPU)
    made = [
        follower.guide(frame[None], {}, (n + 1,), BANK.with_values(temporal=temporal))
        for n, (frame, temporal) in enumerate(zip(frames, ("flow", "bank", "flow"), strict=True))
    ]
    assert all(guide.picture is None for guide in made)


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_still_pictures_under_changing_noise_flicker_less_and_more_share_less(model, mode):
    frames = random_frames(1).repeat(8, 1, 1, 1)
    flicker = []
    for share in (0.0, 0.45, 0.9):
        stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
        plan = stream.plan(BANK.with_values(seed=-1, mode=mode, bank_match=share))
        assert (Carrying.of(plan.params) is None) == (share == 0.0)
        torch.manual_seed(0)
        shown = [stream.step(frame[None], n, plan, {}, (n + 1,)) for n, frame in enumerate(frames)]
        pictures = [picture.frame_FHWC.float() for picture in shown if picture is not None]
        steps = [float((b - a).abs().mean()) for a, b in zip(pictures[2:], pictures[3:], strict=False)]
        flicker.append(sum(steps) / len(steps))
    assert flicker[1] < 0.75 * flicker[0] and flicker[2] < 0.6 * flicker[1]
