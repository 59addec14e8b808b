"""The last painting mixed into what comes in, and paintings behind masks."""

from __future__ import annotations

import pytest
import torch

from core.feedback import Feedback, PictureFeedback, grid
from core.latent_colours import colour_matrix
from core.masked import behind
from core.motion import moved
from core.params import Params
from core.pixels import PixelError
from core.stream import StreamConfig
from tests.random_model import SIZE_PX, random_frames, random_model

CPU = torch.device("cpu")


def shown(x: torch.Tensor, zoom: float = 1.0, degrees: float = 0.0, right: float = 0.0, up: float = 0.0):
    return moved(x, grid(*x.shape[-2:], zoom, degrees, right, up, CPU))


@pytest.fixture(scope="module")
def model():
    return random_model()


def test_the_last_painting_is_zoomed_turned_and_moved() -> None:
    x = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    square = x[..., :8]
    assert torch.allclose(shown(x), x, atol=1e-5)
    assert torch.allclose(shown(square, degrees=90.0), torch.rot90(square, 1, (-2, -1)), atol=1e-5)
    assert torch.allclose(shown(x, right=0.25)[..., 3:], x[..., :-3], atol=1e-5)
    assert torch.allclose(shown(x, up=0.25)[..., :-2, :], x[..., 2:, :], atol=1e-5)
    # Twice as near: the middle quarter fills the picture.
    block = torch.zeros(1, 1, 8, 12)
    block[..., 2:6, 3:9] = 1.0
    assert shown(block, zoom=2.0)[..., 1:-1, 1:-1].min() == 1.0
    assert shown(torch.ones(1, 1, 8, 12), zoom=0.5).shape == (1, 1, 8, 12)


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_a_stream_mixes_what_left_before_into_what_comes_in(model, mode: str) -> None:
    frames = random_frames(5)
    params = Params(
        prompt="red ball", steps=2, mode=mode, feedback=0.4, feedback_zoom=1.1, feedback_rotate=5.0, feedback_x=0.05
    )
    stream, plain = (model.stream(StreamConfig(SIZE_PX, SIZE_PX)) for _ in range(2))
    plan, without = stream.plan(params), plain.plan(params.with_values(feedback=0.0))
    before, differs = None, 0.0
    for number, frame in enumerate(frames):
        finished = stream.advance(stream.encode(frame[None]), number, plan)
        entering = plain.encode(frame[None])
        if before is not None:
            mixed = entering.estimate.lerp(shown(before, 1.1, 5.0, 0.05)[None], 0.4)
            differs = max(differs, float((mixed - entering.estimate).abs().max()))
            entering = entering._replace(estimate=mixed, anchor=mixed)
        expected = plain.advance(entering, number, without)
        assert (finished is None) == (expected is None)
        if finished is not None and expected is not None:
            assert torch.allclose(finished.latent_Fchw, expected.latent_Fchw, atol=1e-5)
            before = expected.latent_Fchw
    assert differs > 0.1


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_a_stream_changes_the_colours_of_what_it_mixes_in(model, mode: str) -> None:
    frames = random_frames(5)
    params = Params(prompt="red ball", steps=2, mode=mode, feedback=0.5, feedback_zoom=1.1)
    how = {"feedback_hue": 90.0, "feedback_saturation": 1.3, "feedback_brightness": 0.9}
    stream, plain = (model.stream(StreamConfig(SIZE_PX, SIZE_PX)) for _ in range(2))
    plan, without = stream.plan(params.with_values(**how)), plain.plan(params.with_values(feedback=0.0))
    colours = plain._codec.colours(1)
    matrix = colour_matrix(90.0, 1.3, 0.9)
    before, differs = None, 0.0
    for number, frame in enumerate(frames):
        finished = stream.advance(stream.encode(frame[None]), number, plan)
        entering = plain.encode(frame[None])
        if before is not None:
            zoomed = shown(before, 1.1)
            recoloured = colours.changed(zoomed, matrix)
            differs = max(differs, float((recoloured - zoomed).abs().max()))
            mixed = entering.estimate.lerp(recoloured[None], 0.5)
            entering = entering._replace(estimate=mixed, anchor=mixed)
        expected = plain.advance(entering, number, without)
        assert (finished is None) == (expected is None)
        if finished is not None and expected is not None:
            assert torch.allclose(finished.latent_Fchw, expected.latent_Fchw, atol=1e-5)
            before = expected.latent_Fchw
    assert differs > 0.01
    # Changed between two frames; nothing is fitted again.
    stream._codec.colours = None
    turned = stream.plan(params.with_values(**how | {"feedback_hue": -40.0}))
    again = stream.advance(stream.encode(frames[:1]), 9, turned)
    assert again is not None and bool(again.latent_Fchw.isfinite().all())


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_the_last_picture_is_mixed_in_as_a_loop_behind_the_stream_would(model, mode: str) -> None:
    """The plain twin makes what comes in itself, of the pictures that came out."""
    frames = random_frames(5)
    params = Params(prompt="red ball", steps=2, mode=mode, feedback=0.5, feedback_space="picture")
    how = {"feedback_zoom": 1.03, "feedback_rotate": 2.0, "feedback_x": 0.01, "feedback_hue": 40.0}
    stream, plain = (model.stream(StreamConfig(SIZE_PX, SIZE_PX)) for _ in range(2))
    plan, without = stream.plan(params.with_values(**how)), plain.plan(params.with_values(feedback=0.0))
    matrix = colour_matrix(40.0, 1.0, 1.0)
    before, mixed_in = None, 0
    for number, frame in enumerate(frames):
        finished = stream.advance(stream.encode(frame[None], plan=plan), number, plan)
        levels = frame[None, ..., :3].permute(0, 3, 1, 2).float()
        if before is not None:
            moved_on = shown(before, 1.03, 2.0, 0.01)
            recoloured = torch.einsum("ij,fjhw->fihw", matrix, moved_on).clamp(0.0, 255.0)
            levels = 0.5 * levels + 0.5 * recoloured
            mixed_in += 1
        expected = plain.advance(plain._entering(plain._codec.latents(levels), {}), number, without)
        assert (finished is None) == (expected is None)
        if finished is not None and expected is not None:
            assert torch.allclose(finished.latent_Fchw, expected.latent_Fchw, atol=1e-4)
            picture = stream.decode(finished).frame_FHWC
            before = plain._codec.levels(expected.latent_Fchw).clamp(0.0, 255.0)
            assert (picture[..., :3].permute(0, 3, 1, 2) - before).abs().max() <= 1.0
    assert mixed_in >= 3


def test_a_picture_that_is_not_painted_yet_is_not_waited_for(model) -> None:
    """While stages overlap, what comes in is mixed with the newest picture that there is, whichever frame it is of."""
    frames = random_frames(3)
    params = Params(prompt="red ball", mode="latency", feedback=0.5, feedback_space="picture")
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    plan = stream.plan(params)
    first = stream.advance(stream.encode(frames[:1], plan=plan), 0, plan)
    unmixed = stream.encode(frames[1:2], plan=plan).estimate
    assert torch.equal(unmixed, stream.encode(frames[1:2]).estimate)
    assert first is not None
    stream.decode(first)
    assert not torch.equal(stream.encode(frames[1:2], plan=plan).estimate, unmixed)


@pytest.mark.parametrize("other", [{"feedback": 0.0}, {"feedback_space": "latent"}, {"task": "txt2img"}])
def test_a_picture_is_forgotten_when_feedback_goes_another_way(model, other: dict[str, object]) -> None:
    frames = random_frames(2)
    params = Params(prompt="red ball", mode="latency", feedback=0.5, feedback_space="picture")
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    plan = stream.plan(params)
    for changed in (plan, stream.plan(params.with_values(**other))):
        finished = stream.advance(stream.encode(frames[:1], plan=changed), 0, changed)
        assert finished is not None
        stream.decode(finished)
    again = stream.encode(frames[1:2], plan=plan).estimate
    assert torch.equal(again, stream.encode(frames[1:2]).estimate)


def test_a_shift_of_a_pixel_keeps_a_trail_as_sharp_as_it_was(model) -> None:
    """What the latent, whose cells are eight pixels wide, cannot do."""
    feedback = PictureFeedback()
    params = Params(feedback=0.95, feedback_space="picture", feedback_x=1 / 64)
    line = torch.zeros(1, 3, 64, 64)
    line[..., 10] = 255.0
    feedback.painted(line, params)
    for _ in range(5):
        trail = feedback.mixed(torch.zeros(1, 3, 64, 64), params)
        feedback.painted(trail, params)
    assert trail[0, 0, 32].argmax() == 15
    assert trail[0, 0, 32, 15] == pytest.approx(255.0 * 0.95**5, rel=1e-3)
    assert trail[0, 0, 32, [14, 16]].max() < 1.0


def test_colours_that_stay_cost_nothing(model) -> None:
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    stream._codec.colours = None
    params = Params(prompt="red ball", mode="latency", feedback=0.5)
    for changed in (params, params.with_values(feedback=0.0, feedback_hue=30.0)):
        stream.advance(stream.encode(random_frames(1)), 0, stream.plan(changed))


def test_feedback_that_ends_leaves_nothing_behind_and_stays_in_bounds(model) -> None:
    frames = random_frames(1)
    stream, fresh = (model.stream(StreamConfig(SIZE_PX, SIZE_PX)) for _ in range(2))
    params = Params(prompt="red ball", mode="latency")
    wild = {"feedback_hue": 50.0, "feedback_saturation": 2.0, "feedback_brightness": 1.5}
    full = stream.plan(params.with_values(feedback=0.95, feedback_zoom=1.05, **wild))
    for number in range(30):
        picture = stream.advance(stream.encode(frames), number, full)
    assert picture is not None and bool(picture.latent_Fchw.isfinite().all())
    for _ in range(2):
        after = stream.advance(stream.encode(frames), 0, stream.plan(params))
    first = fresh.advance(fresh.encode(frames), 0, fresh.plan(params))
    assert after is not None and first is not None
    assert torch.equal(after.latent_Fchw, first.latent_Fchw)
    feedback = Feedback()
    feedback.finished(torch.ones(1, 4, 8, 8), params)
    assert torch.equal(
        feedback.mixed(torch.zeros(1, 4, 8, 8), params.with_values(feedback=0.5)), torch.zeros(1, 4, 8, 8)
    )


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_only_what_the_mask_shows_is_repainted(model, mode: str) -> None:
    frames = random_frames(4)
    mask = torch.zeros(1, SIZE_PX, SIZE_PX, dtype=torch.uint8)
    mask[:, :, SIZE_PX // 2 :] = 255
    params = Params(prompt="red ball", steps=2, strength=0.8, mode=mode)
    painted, whole = (model.stream(StreamConfig(SIZE_PX, SIZE_PX)) for _ in range(2))
    assert "mask" in painted.reads(painted.plan(params.with_values(masked=True)))
    assert "mask" not in whole.reads(whole.plan(params))
    plan, plain = painted.plan(params.with_values(masked=True)), whole.plan(params)
    seen = 0
    for number, frame in enumerate(frames):
        ours = painted.step(frame[None], number, plan, {"mask": mask}, [number])
        all_of_it = whole.step(frame[None], number, plain, {"mask": mask}, [number])
        assert (ours is None) == (all_of_it is None)
        if ours is None or all_of_it is None:
            continue
        # Each with the picture that it was made of, not with the one that came in last.
        source = frames[ours.tag]
        half = SIZE_PX // 2
        assert torch.equal(ours.frame_FHWC[0, :, :half, :3], source[:, :half])
        assert torch.equal(ours.frame_FHWC[:, :, half:], all_of_it.frame_FHWC[:, :, half:])
        assert (ours.frame_FHWC[0, :, half:, :3].int() - source[:, half:].int()).abs().max() > 8
        seen += 1
    assert seen > 2
    # A frame without a mask is repainted as a whole.
    bare = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    both = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    latency = params.with_values(mode="latency")
    one = bare.step(frames[:1], 0, bare.plan(latency.with_values(masked=True)), {}, [0])
    other = both.step(frames[:1], 0, both.plan(latency), {}, [0])
    assert one is not None and other is not None and torch.equal(one.frame_FHWC, other.frame_FHWC)


def test_masks_of_every_kind_and_size() -> None:
    frame = random_frames(1)
    like = torch.zeros(1)
    size = (SIZE_PX, SIZE_PX)
    shares = torch.full((1, SIZE_PX, SIZE_PX), 0.25)
    for mask in (shares, shares[..., None], shares[:, ::2, ::2], (shares * 255).to(torch.uint8)):
        assert torch.allclose(behind(frame, mask, size, like).share_F1HW, torch.tensor(0.25), atol=4e-3)
    wild = behind(frame, torch.tensor([[[float("nan"), 2.0], [-1.0, float("inf")]]]), (2, 2), like)
    assert wild.share_F1HW.flatten().tolist() == [0.0, 1.0, 0.0, 1.0]
    with pytest.raises(PixelError, match="a mask of shape"):
        behind(frame, torch.zeros(4), size, like)
