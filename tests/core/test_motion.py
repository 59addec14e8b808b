"""Pictures carried along motion: where it acts, where it must not, and that nothing changes without it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

from core.around import around, by_steps
from core.model import Model
from core.motion import LONGEST_GAP, Follower, Guide, Pictures, Warp, between, identity_grid
from core.params import Params
from core.pixels import PixelError
from core.stream import Stream, StreamConfig
from tests.random_model import SIZE_PX, random_frames, random_model

BASE = Params(prompt="red ball", strength=0.64, steps=2, temporal="engine")
CPU = torch.device("cpu")
PX = 64


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model()


def make(model: Model, frame_buffer: int = 1) -> Stream:
    return model.stream(StreamConfig(SIZE_PX, SIZE_PX, frame_buffer=frame_buffer))


def texture(seed: int = 0, size: int = PX) -> torch.Tensor:
    """uint8 (1, size, 2 size, 3), smooth."""
    noise = torch.rand((1, 3, size // 8, size // 4), generator=torch.Generator().manual_seed(seed))
    smooth = nnf.interpolate(noise, (size, 2 * size), mode="bicubic").clamp(0, 1)
    return (smooth * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def pan(frames: int, px: int = 2, size: int = PX) -> torch.Tensor:
    """(N, size, size, 3): the picture moves to the left, so a pixel was `px` to the right before."""
    return torch.cat([texture(size=size)[:, :, n * px : n * px + size] for n in range(frames)])


def still(size: int = SIZE_PX) -> dict[str, torch.Tensor]:
    return {"motion": torch.zeros(1, size, size, 2)}


def painted(stream, params, frames, planes, numbers=None):
    """Pictures by number; planes: of every frame."""
    plan, out = stream.plan(params), {}
    for i, frame in enumerate(frames):
        picture = stream.step(frame[None], i, plan, planes(i), (numbers[i] if numbers else i + 1,))
        if picture is not None:
            out[picture.tag] = picture.frame_FHWC[0, ..., :3].float()
    return out


def flicker(out: dict[int, torch.Tensor]) -> float:
    return sum(float((out[n] - out[n - 1]).abs().mean()) for n in list(out)[2:]) / len(list(out)[2:])


def follow(follower: Follower, frames, motion, numbers=None, params=BASE, depth=None, mask=None):
    for i, frame in enumerate(frames):
        planes = {} if motion is None else {"motion": motion}
        planes |= {} if depth is None else {"depth": depth[i][None]}
        planes |= {} if mask is None or mask[i] is None else {"mask": mask[i][None]}
        guide = follower.guide(frame[None], planes, (numbers[i] if numbers else i + 1,), params)
    return guide


def right(px: float) -> torch.Tensor:
    return torch.tensor([px, 0.0]).expand(1, PX, PX, 2)


def fresh() -> Follower:
    return Follower((PX, PX), (PX // 8, PX // 8), CPU)


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_still_pictures_under_changing_noise_flicker_less(model, mode):
    frames = random_frames(1).repeat(10, 1, 1, 1)
    params = BASE.with_values(seed=-1, mode=mode)
    torch.manual_seed(0)
    off = painted(make(model), params.with_values(temporal="off"), frames, lambda i: {})
    on = painted(make(model), params, frames, lambda i: still())
    assert sorted(on) == sorted(off)
    assert flicker(on) < 0.5 * flicker(off)


def test_off_and_without_motion_the_pictures_are_those_of_a_stream_that_knows_nothing_of_it(model):
    frames = random_frames(5)
    stream = make(model)
    plan = stream.plan(BASE.with_values(temporal="off"))
    plain = [stream.step(frame[None], i, plan) for i, frame in enumerate(frames)]
    off = painted(make(model), BASE.with_values(temporal="off"), frames, lambda i: still())
    absent = painted(make(model), BASE, frames, lambda i: {})
    gone = painted(make(model), BASE.with_values(task="txt2img"), frames, lambda i: still())
    gone_off = painted(make(model), BASE.with_values(task="txt2img", temporal="off"), frames, lambda i: {})
    for picture in plain:
        if picture is not None:
            assert torch.equal(picture.frame_FHWC[0, ..., :3].float(), off[picture.tag])
            assert torch.equal(off[picture.tag], absent[picture.tag])
            assert torch.equal(gone[picture.tag], gone_off[picture.tag])


def test_both_modes_and_frame_buffers_give_the_same_picture(model):
    frames = pan(6, size=SIZE_PX)
    motion = {"motion": torch.tensor([2.0, 0.0]).expand(1, SIZE_PX, SIZE_PX, 2)}
    batch = painted(make(model), BASE, frames, lambda i: motion)
    alone = painted(make(model), BASE.with_values(mode="latency"), frames, lambda i: motion)
    off = painted(make(model), BASE.with_values(temporal="off"), frames, lambda i: motion)
    stream = make(model, 2)
    plan = stream.plan(BASE)
    both = {"motion": motion["motion"].repeat(2, 1, 1, 1)}
    pairs = {}
    for turn in range(3):
        at = 2 * turn
        picture = stream.step(frames[at : at + 2], at, plan, both, (at + 1, at + 2))
        if picture is not None:
            for place in range(2):
                pairs[picture.tag + place] = picture.frame_FHWC[place, ..., :3].float()
    for tag, picture in batch.items():
        assert (picture - alone[tag]).abs().max() <= 1.0
    for tag, picture in pairs.items():
        assert (picture - alone[tag]).abs().max() <= 1.0
    assert (batch[3] - off[3]).abs().max() > 3.0


def test_what_was_there_before_is_read_where_the_motion_says():
    guide = follow(fresh(), pan(2), right(2.0))
    weight = guide.picture.weight[0, 0]
    assert weight[:, : PX - 3].min() > 0.99
    assert weight[:, PX - 2 :].max() == 0.0, "came in from outside"
    wrong = follow(fresh(), pan(2), right(-9.0)).picture.weight
    assert wrong.mean() < 0.5 * weight.mean(), "the source disagrees"


@pytest.mark.parametrize("numbers", [(1, 1), (5, 4), (1, 2 + LONGEST_GAP), (7, 1)])
def test_a_frame_that_does_not_follow_the_last_one_has_nothing_before_it(numbers):
    guide = follow(fresh(), pan(2), right(2.0), numbers)
    assert guide.picture is None and guide.latent is None


def test_motion_stands_for_that_of_the_frames_that_were_dropped():
    frames = pan(4)[[0, 3]]
    guide = follow(fresh(), frames, right(2.0), (1, 4))
    assert guide.picture.weight[0, 0, :, : PX - 7].min() > 0.99


def test_after_a_cut_nothing_is_carried_over_and_the_next_frame_goes_on():
    follower = fresh()
    follow(follower, pan(2), torch.zeros(1, PX, PX, 2))
    other = texture(seed=5)[:, :, :PX].repeat(2, 1, 1, 1)
    zero = torch.zeros(1, PX, PX, 2)
    assert follow(follower, other[:1], zero, (3,)).picture.weight.max() == 0.0
    assert follow(follower, other[1:], zero, (4,)).picture.weight.min() == 1.0


def test_depth_finds_what_colour_does_not_tell_apart():
    grey = torch.full((2, PX, PX, 3), 128, dtype=torch.uint8)
    depth = torch.full((2, PX, PX), 4.0)
    depth[0, :, :32] = 1.0  # something near was there, and is gone
    zero = torch.zeros(1, PX, PX, 2)
    weight = follow(fresh(), grey, zero, depth=depth).picture.weight[0, 0]
    assert weight[:, :32].max() == 0.0 and weight[:, 32:].min() == 1.0, "to the pixel, where nothing lies between"
    between_pixels = follow(fresh(), grey, right(0.5), depth=depth).picture.weight[0, 0]
    assert between_pixels[:, :30].max() == 0.0 and between_pixels[:, 33:63].min() == 1.0
    sky = torch.full((2, PX, PX), float("inf"))
    assert follow(fresh(), grey, zero, depth=sky).picture.weight.min() == 1.0


def test_what_comes_into_view_is_told_by_colour_to_the_pixel_and_its_cells_keep_nothing():
    frames = pan(1).clamp(max=200).repeat(2, 1, 1, 1)
    frames[0, :, 16:33] += 50  # was there, and is gone
    guide = follow(fresh(), frames, torch.zeros(1, PX, PX, 2), params=BASE.with_values(motion_latent=0.15))
    weight = guide.picture.weight[0, 0]
    assert weight[:, 16:33].max() == 0.0 and weight[:, 34:].min() == 1.0
    cells = guide.latent.weight[0, 0]
    assert cells[:, 2:4].max() == 0.0 and cells[:, 5:].min() == 1.0 and cells[:, 4].max() < 0.7


def test_a_mask_keeps_what_belongs_to_another_object_from_being_carried_over():
    grey = torch.full((2, PX, PX, 3), 128, dtype=torch.uint8)
    mask = torch.full((2, PX, PX), 7, dtype=torch.uint8)
    mask[0, :, :32] = 8  # numbers of objects that are neighbours; one was there, and is gone
    zero = torch.zeros(1, PX, PX, 2)
    weight = follow(fresh(), grey, zero, mask=mask).picture.weight[0, 0]
    assert weight[:, :32].max() == 0.0 and weight[:, 32:].min() == 1.0
    half = mask[:, ::2, ::2, None]
    assert torch.equal(follow(fresh(), grey, zero, mask=half).picture.weight[0, 0] > 0.5, weight > 0.5)
    for sometimes in ([None, mask[1]], [mask[0], None]):
        assert follow(fresh(), grey, zero, mask=sometimes).picture.weight.min() == 1.0
    # Between pixels, too, a number is another object's or is not.
    beside = follow(fresh(), grey, right(0.5), mask=mask).picture.weight[0, 0]
    assert beside[:, :31].max() == 0.0 and beside[:, 33:63].min() == 1.0
    # An object that moves with its mask stays trusted, but for what came in from outside.
    soft = (texture(seed=3)[0, :, :, 0].float() // 64 * 64).to(torch.uint8)
    masks = torch.stack([soft[:, n * 2 : n * 2 + PX] for n in range(2)])
    assert follow(fresh(), pan(2), right(2.0), mask=masks).picture.weight[0, 0, :, : PX - 3].min() > 0.99
    # So does one with soft edges that moves by half a pixel.
    ramp = torch.linspace(0.0, 255.0, 2 * PX + 1)
    soft = torch.stack([ramp[n : n + 2 * PX].unfold(0, 2, 2).mean(-1).expand(PX, -1) for n in range(2)])
    assert follow(fresh(), grey, right(0.5), mask=soft).picture.weight[0, 0, 1:-1, 1:-3].min() == 1.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 6e4])
def test_absurd_motion_is_left_out_where_it_is(model, value):
    motion = torch.zeros(1, PX, PX, 2)
    motion[:, :32] = value
    frames = pan(1).repeat(2, 1, 1, 1)
    weight = follow(fresh(), frames, motion).picture.weight[0, 0]
    assert weight[:32].max() == 0.0 and weight[34:].min() == 1.0
    everywhere = {"motion": torch.full((1, SIZE_PX, SIZE_PX, 2), value)}
    frames = random_frames(4)
    absurd = painted(make(model), BASE, frames, lambda i: everywhere)
    off = painted(make(model), BASE.with_values(temporal="off"), frames, lambda i: {})
    for tag, picture in off.items():
        assert torch.equal(absurd[tag], picture)


def test_planes_of_another_size_are_scaled_and_of_another_kind_are_refused():
    half = right(1.0)[:, ::2, ::2]
    guide = follow(fresh(), pan(2), half)
    whole = follow(fresh(), pan(2), right(2.0))
    torch.testing.assert_close(guide.picture.grid, whole.picture.grid)
    for wrong in (torch.zeros(1, PX, PX, 3), torch.zeros(2, PX, PX, 2), torch.zeros(PX, PX, 2)):
        with pytest.raises(PixelError, match="motion of shape"):
            follow(fresh(), pan(1), wrong)
    with pytest.raises(PixelError, match="depth of shape"):
        fresh().guide(pan(1), {"motion": right(0.0), "depth": torch.zeros(1, PX, PX, 2)}, (1,), BASE)
    with pytest.raises(PixelError, match="mask of shape"):
        fresh().guide(pan(1), {"motion": right(0.0), "mask": torch.zeros(2, PX, PX)}, (1,), BASE)


@pytest.mark.parametrize("temporal", ["engine", "bank", "flow"])
def test_a_client_that_changes_its_size_shows_no_flash(model, temporal):
    """Planes change with the pictures, a frame later or not at all; the same scene goes on."""
    wide = random_frames(1, size=2 * SIZE_PX)
    small = nnf.interpolate(wide.permute(0, 3, 1, 2).float(), (SIZE_PX, SIZE_PX), mode="bilinear", antialias=True)
    both = [wide[0], small.round().to(torch.uint8).permute(0, 2, 3, 1)[0]]
    frames = [both[0]] * 4 + [both[1]] * 4 + [both[0]] * 4
    sizes = [2 * SIZE_PX] * 5 + [SIZE_PX] * 7
    params = BASE.with_values(bank_reset="never", bank_interval=1, motion_sharpen=0.0)
    on = painted(make(model), params.with_values(temporal=temporal), frames, lambda i: still(sizes[i]))
    off = painted(make(model), params.with_values(temporal="off"), frames, lambda i: {})
    assert sorted(on) == sorted(off)
    # The bank changes the picture itself; what would flash is what only one frame shows.
    steps = [float((on[n] - on[n - 1]).abs().mean()) for n in sorted(on) if n - 1 in on]
    assert max(steps[4:]) <= max(2.0, max(steps[:4]))


def test_flow_finds_a_pan_by_itself():
    guide = follow(fresh(), pan(2), None, params=BASE.with_values(temporal="flow"))
    middle = guide.picture.weight[0, 0, 8:-8, 8:-12]
    assert middle.mean() > 0.9
    px = (guide.picture.grid - follow(fresh(), pan(2), right(0.0)).picture.grid)[0, 8:-8, 8:-12, 0] * PX / 2
    assert (px.median() - 2.0).abs() < 0.3


def test_a_client_that_sends_motion_only_sometimes_is_served_where_it_does(model):
    frames = random_frames(1).repeat(8, 1, 1, 1)
    params = BASE.with_values(seed=3, motion_sharpen=0.0)
    sometimes = painted(make(model), params, frames, lambda i: still() if i % 2 else {})
    off = painted(make(model), params.with_values(temporal="off"), frames, lambda i: {})
    for tag, picture in off.items():
        assert (sometimes[tag] - picture).abs().max() <= 1.0, "the same still picture, carried or not"


def test_the_same_frame_again_does_not_change_what_is_shown(model):
    """The host runs the last frame again to bring out those in flight."""
    stream = make(model)
    plan = stream.plan(BASE.with_values(seed=-1, motion_share=0.95, motion_latent=0.95))
    torch.manual_seed(0)
    frame = random_frames(1)
    shown = [stream.step(frame, i, plan, still(), (i + 1,)) for i in range(8)]
    entering = stream.encode(frame, still(), plan, (9,))
    for _ in range(4):
        finished = stream.advance(entering, 9, plan)
        shown.append(stream.decode(finished))
    pictures = [p.frame_FHWC.float() for p in shown if p is not None]
    steps = [float((b - a).abs().mean()) for a, b in zip(pictures, pictures[1:], strict=False)]
    assert max(steps[-4:]) < 2.0 * max(steps[2:-4]) + 1.0


def test_no_trail_stays_where_the_picture_has_become_flat():
    """The source may stand still there: what was painted beside an object that moved on."""
    here = identity_grid(PX, PX, CPU)
    params = BASE.with_values(motion_share=0.95)
    pictures = Pictures()
    flat = torch.full((1, 3, PX, PX), 40.0)
    glow = flat.clone()
    glow[..., 20:30, 20:30] = 220.0
    guides = [Guide(n, 1, None, Warp(here, torch.ones(1, 1, PX, PX)), params) for n in range(2)]
    pictures.steadied(glow, guides[0])
    after = pictures.steadied(flat, guides[1])
    assert (after - flat).abs().max() < 0.01
    # What shakes within its surroundings is steadied all the same.
    rough = torch.rand((1, 3, PX, PX), generator=torch.Generator().manual_seed(0)) * 100.0
    pictures = Pictures()
    first = pictures.steadied(rough, guides[0])
    second = pictures.steadied(rough.roll(1, -1), guides[1])
    assert (second - first).abs().mean() < 0.3 * (rough.roll(1, -1) - rough).abs().mean()


@pytest.mark.parametrize("values", [{"prompt": "green box"}, {"seed": 9}])
@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_another_prompt_is_seen_at_once_and_not_through_the_old_picture(model, mode, values):
    frames = random_frames(1).repeat(8, 1, 1, 1)
    pictures = {}
    for temporal in ("off", "engine"):
        stream = make(model)
        params = BASE.with_values(temporal=temporal, mode=mode, motion_share=0.95, motion_sharpen=0.0)
        painted(stream, params, frames, lambda i: still())
        # The same client goes on: numbers follow those of before.
        changed = params.with_values(**values)
        pictures[temporal] = painted(stream, changed, frames, lambda i: still(), [9 + i for i in range(8)])
    for tag, picture in pictures["off"].items():
        # The last frame of before was in flight, and goes on with what it came in with.
        if tag < 7 or mode == "latency":
            assert (pictures["engine"][tag] - picture).abs().max() <= 1.0


def test_steps_and_modes_change_while_frames_are_carried(model):
    stream = make(model)
    frame = random_frames(1)
    number = 0
    for values in ({}, {"steps": 4}, {"steps": 1}, {"mode": "latency"}, {"temporal": "off"}, {"temporal": "flow"}, {}):
        params = BASE.with_values(**values)
        plan = stream.plan(params)
        for _ in range(40):
            number += 1
            picture = stream.step(frame, number, plan, still(), (number,))
        settled = make(model)
        other = settled.plan(params.with_values(temporal="off"))
        for i in range(5):
            expected = settled.step(frame, i, other)
        # A still picture has one answer, carried or not; what came before fades within a second.
        difference = (picture.frame_FHWC.float() - expected.frame_FHWC.float()).abs().mean()
        assert difference < 12.0


@pytest.mark.parametrize("share", [0.6, 0.95])
def test_what_stands_still_stays_as_it_is_for_ever(model, share):
    """However much of it is carried over, and sharpened on the way."""
    stream = make(model)
    plan = stream.plan(BASE.with_values(motion_share=share, motion_sharpen=1.0, seed=3))
    frame = random_frames(1)
    pictures = [stream.step(frame, n, plan, still(), (n,)) for n in range(60)]
    settled, last = pictures[plan.depth + 1], pictures[-1]
    assert (last.frame_FHWC.float() - settled.frame_FHWC.float()).abs().max() <= 1.0


def test_what_is_read_between_pixels_is_told():
    def told(x: float, y: float) -> torch.Tensor:
        return between(torch.tensor([x, y]).expand(1, 8, 8, 2))

    assert float(told(0.0, 0.0).max()) == float(told(1.0, -2.0).max()) == 0.0
    assert float(told(float("nan"), 0.0).max()) == float(told(0.0, -float("inf")).max()) == 0.0
    for x, y in ((0.5, 0.0), (-1.5, 0.25)):
        assert torch.equal(told(x, y), torch.ones(1, 1, 8, 8))
    assert torch.equal(told(-0.25, 3.0), torch.full((1, 1, 8, 8), 0.75))


@pytest.mark.parametrize("size", [(7, 9), (5, 5), (2, 3)])
@pytest.mark.parametrize("reach", [1, 2])
def test_what_lies_around_equals_its_plain_twin(size, reach):
    x = torch.randn(2, 3, *size)
    side = 2 * reach + 1
    mean = nnf.avg_pool2d(nnf.pad(x, (reach,) * 4, mode="replicate"), side, 1)
    for way in (around, by_steps):
        assert torch.equal(way(x, reach, torch.maximum), nnf.max_pool2d(x, side, 1, reach))
        assert torch.equal(way(x, reach, torch.minimum), -nnf.max_pool2d(-x, side, 1, reach))
        torch.testing.assert_close(way(x, reach, torch.add) / side**2, mean)


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_what_comes_into_view_is_as_single_frames_have_it(model, mode):
    """Whatever the rest is carried from; by default no stage reads what was there before."""
    frames = random_frames(1).repeat(8, 1, 1, 1)
    frames[:, :, : SIZE_PX // 2] = frames[:, :, SIZE_PX // 2 :].clone()
    mask = torch.zeros(8, SIZE_PX, SIZE_PX, dtype=torch.uint8)
    for n in range(8):
        mask[n, :, : 8 + 4 * n] = 3
    params = BASE.with_values(seed=-1, mode=mode)
    torch.manual_seed(0)
    on = painted(make(model), params, frames, lambda i: {**still(), "mask": mask[i][None]})
    torch.manual_seed(0)
    off = painted(make(model), params.with_values(temporal="off"), frames, lambda i: {})
    for n in sorted(on)[2:]:
        fresh_columns = slice(8 + 4 * (n - 1), 8 + 4 * n)
        assert torch.equal(on[n][:, fresh_columns], off[n][:, fresh_columns])
        assert not torch.equal(on[n][:, SIZE_PX - 8 :], off[n][:, SIZE_PX - 8 :])
