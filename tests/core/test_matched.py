"""Matched noise at run time: the best of some draws for the first picture of a take, until a cut."""

from __future__ import annotations

import pytest
import torch

from core.params import MAX_DRAWS, Params
from core.stream import StreamConfig, seeded_noise
from tests.random_model import SIZE_PX, random_frames, random_model

BASE = Params(steps=2).with_values(prompt="red ball, neon", strength=0.64, mode="latency")
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def model():
    return random_model()


def make(model, frame_buffer=1):
    return model.stream(StreamConfig(SIZE_PX, SIZE_PX, frame_buffer=frame_buffer))


def latents(count, seed=0):
    """(count, c, h, w). The autoencoder of the random model makes nearly the same of all pictures."""
    return torch.randn(count, 4, SIZE_PX // 8, SIZE_PX // 8, generator=torch.Generator().manual_seed(seed))


def entering(stream, latents_Fchw):
    return stream._entering(latents_Fchw, {})


def noise_of(stream, plan, latent):
    """What the first stage and the second one add to a latent that enters now, in latency mode."""
    heard = []
    plain = stream._denoiser

    class Listening:
        planes = plain.planes

        def memory(self, rows, params):
            return plain.memory(rows, params)

        def __call__(self, x, t, inputs, memory):
            heard.append(x.clone())
            return torch.zeros_like(x), memory

    stream._denoiser = Listening()
    stream.advance(entering(stream, latent[None]), 0, plan)
    stream._denoiser = plain
    found, z = [], latent[None]
    for x, turn in zip(heard, plan.passes, strict=True):
        k = turn.coefficients
        found.append((x - k.a[0] * z) / k.b[0])
        z = k.c_out[0] * x / k.a[0] + k.c_skip[0] * x
    return torch.stack(found)[:, 0]


def best(latent, seed, draws, stages=2):
    """By trying all of them."""
    centred = latent - latent.mean((1, 2), keepdim=True)
    drawn = [seeded_noise((seed + i * 0x9E3779B1) % 2**32, stages, (1, *latent.shape))[:, 0] for i in range(draws)]
    picked = []
    for stage in range(stages):
        picked.append(max((noise[stage] for noise in drawn), key=lambda n: float((n * centred).sum())))
    return torch.stack(picked)


def test_one_draw_is_the_seed_s_own_noise_and_nothing_is_chosen(model):
    stream = make(model)
    plan = stream.plan(BASE)
    latent = latents(1)[0]
    noise = noise_of(stream, plan, latent)
    assert plan.draws_kSFchw is None and all(turn.draws is None for turn in plan.passes)
    torch.testing.assert_close(noise, seeded_noise(BASE.seed, 2, (1, *latent.shape))[:, 0], **CLOSE)


@pytest.mark.parametrize("draws", [2, MAX_DRAWS])
def test_each_stage_takes_the_best_draw_until_a_cut(model, draws):
    stream = make(model)
    plan = stream.plan(BASE.with_values(noise_draws=draws))
    first, other = latents(2)
    noise = noise_of(stream, plan, first)
    torch.testing.assert_close(noise, best(first, BASE.seed, draws), **CLOSE)
    kept = noise_of(stream, plan, first + 0.1 * latents(1, seed=1)[0])
    torch.testing.assert_close(kept, noise, **CLOSE)
    after = noise_of(stream, plan, other)
    torch.testing.assert_close(after, best(other, BASE.seed, draws), **CLOSE)
    if draws == MAX_DRAWS:
        assert (after - noise).abs().max() > 0.1, "these two must not share their best draws"


@pytest.mark.parametrize("frame_buffer", [1, 2])
def test_both_modes_and_every_frame_buffer_choose_alike(model, frame_buffer):
    """What a frame has chosen goes with it through all of its stages, past the cuts of later frames."""
    params = BASE.with_values(noise_draws=8, steps=3, seed=5)
    frames = latents(6)
    single = make(model)
    plan = single.plan(params)
    expected = [single.advance(entering(single, f[None]), i, plan).latent_Fchw[0].clone() for i, f in enumerate(frames)]
    batch = make(model, frame_buffer)
    plan, seen = batch.plan(params.with_values(mode="throughput")), 0
    for i, some in enumerate(frames.split(frame_buffer)):
        finished = batch.advance(entering(batch, some), i, plan)
        if finished is not None:
            for place, latent in enumerate(finished.latent_Fchw):
                torch.testing.assert_close(latent, expected[finished.tag * frame_buffer + place], **CLOSE)
                seen += 1
    assert seen == len(frames) - 2 * frame_buffer


def test_text_to_image_and_noise_that_is_new_for_every_frame_choose_nothing(model):
    frame = random_frames(1)
    outputs = []
    for draws in (1, 8):
        stream = make(model)
        plan = stream.plan(BASE.with_values(task="txt2img", noise_draws=draws))
        outputs.append(stream.advance(stream.encode(frame), 0, plan).latent_Fchw)
    assert torch.equal(*outputs)
    assert make(model).plan(BASE.with_values(seed=-1, noise_draws=8)).draws_kSFchw is None


def test_seed_and_number_of_draws_are_live(model):
    stream = make(model)
    latent = latents(1)[0]
    for seed, draws in ((2, 16), (2, 3), (9, 3), (9, 1), (9, 12)):
        noise = noise_of(stream, stream.plan(BASE.with_values(seed=seed, noise_draws=draws)), latent)
        torch.testing.assert_close(noise, best(latent, seed, draws), **CLOSE)


def test_frames_in_flight_pass_a_change_of_the_number_of_draws(model):
    stream = make(model)
    frames = random_frames(6)
    params = BASE.with_values(mode="throughput", steps=4, noise_draws=16)
    plans = [stream.plan(params), stream.plan(params.with_values(noise_draws=2)), stream.plan(BASE)]
    for i, frame in enumerate(frames):
        finished = stream.advance(stream.encode(frame[None]), i, plans[i // 2])
        assert finished is None or bool(finished.latent_Fchw.isfinite().all())
