"""The stream against committed outputs of the original StreamDiffusion class (tests/golden/make_golden.py)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.params import Params
from core.stream import StreamConfig
from tests.golden.make_golden import DELTA, FOLDER, FRAMES, NEGATIVE, PROMPT, SCALE, SEED, STEPS
from tests.original import KINDS
from tests.random_model import SIZE_PX, random_frames, random_model

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model():
    return random_model()


def golden(guidance: str, steps: int):
    with np.load(FOLDER / f"{guidance}-{steps}.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def params(guidance: str, steps: int, mode: str) -> Params:
    return Params().with_values(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        guidance=guidance,
        guidance_scale=SCALE,
        delta=DELTA,
        seed=SEED,
        t_index=STEPS[steps],
        mode=mode,
    )


def test_the_weights_are_those_of_the_golden_files(model):
    parts = (model.unet, model.vae, model.text._encoder)
    total = sum(p.detach().double().abs().sum() for part in parts for p in part.parameters())
    assert torch.isclose(total, golden("none", 1)["weights"], rtol=1e-6)


@pytest.mark.parametrize("mode", ["throughput", "latency"])
@pytest.mark.parametrize("cache_text", [True, False])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("guidance", KINDS)
def test_equals_the_original(model, guidance, steps, cache_text, mode):
    expected = golden(guidance, steps)
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX), cache_text=cache_text)
    plan = stream.plan(params(guidance, steps, mode))
    assert torch.equal(torch.cat([turn.noise_SFchw for turn in plan.passes]).flatten(0, 1), expected["noise"])
    got = {}
    for number, frame_HWC in enumerate(random_frames(FRAMES)):
        finished = stream.advance(stream.encode(frame_HWC[None]), number, plan)
        if finished is not None:
            got[finished.tag] = finished.latent_Fchw
    late = 0 if mode == "latency" else steps - 1
    assert sorted(got) == list(range(FRAMES - late))
    # The original's call k returns the frame of call k - (steps - 1); the first steps - 1 are of no frame.
    for number, latent_Fchw in got.items():
        if number + steps - 1 < FRAMES:
            difference = (latent_Fchw - expected["latents"][number + steps - 1]).abs().max()
            assert difference <= TOLERANCE, f"frame {number}"


@pytest.mark.parametrize("steps", STEPS)
def test_the_guidance_kinds_differ(steps):
    """Otherwise equality with the golden files would say nothing about guidance."""
    last = [golden(kind, steps)["latents"][-1] for kind in KINDS]
    for i, first in enumerate(last):
        for second in last[i + 1 :]:
            assert (first - second).abs().max() > 0.05
