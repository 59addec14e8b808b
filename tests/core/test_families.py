"""Model families are a table: what another one needs is a file of its own and a line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.backend import BACKENDS, executions
from core.denoiser import PlaneInput, UnetCall
from core.families.family import Encoder, Parts
from core.families.table import FAMILIES, family_of
from core.guidance import GUIDANCE
from core.model import assemble
from core.params import GUIDANCE_KINDS, MODES, TASKS, Params
from core.stream import _ADVANCE, _ENTERING, StreamConfig
from core.text import Embedding, TextConditioner
from core.tiny import WEIGHTS
from core.tiny.parts import SCHEDULER
from tests.random_model import SIZE_PX, random_frames, random_parts

CPU = torch.device("cpu")


def test_the_tables_know_what_the_parameters_offer() -> None:
    assert set(GUIDANCE) == set(GUIDANCE_KINDS)
    assert set(_ADVANCE) == set(MODES)
    assert set(_ENTERING) == set(TASKS)


def test_the_last_family_claims_any_folder(tmp_path: Path) -> None:
    assert family_of(WEIGHTS) is family_of(tmp_path) is list(FAMILIES.values())[-1]


class TwoEncoders:
    """A family's text conditioning by two encoders, the second one pooled, as SDXL's is."""

    def __init__(self, encoders, device) -> None:
        self._both = [TextConditioner(encoder.tokenizer, encoder.network, device) for encoder in encoders]

    def embed(self, text: str) -> Embedding:
        first, second = (conditioner.embed(text).tokens for conditioner in self._both)
        return Embedding(first, {"pooled": second.mean(0)})


class PooledCall(UnetCall):
    """Its U-Net reads the second one too."""

    def forward(self, x_Rchw, t_R, embedding, keys_values):
        out = super().forward(x_Rchw, t_R, embedding, keys_values)
        return out * (1.0 + embedding.others["pooled"].mean(-1).view(-1, 1, 1, 1))


@pytest.mark.parametrize("backend", [name for name, entry in BACKENDS.items() if entry.measured])
def test_a_family_with_two_text_encoders_needs_nothing_but_itself(backend: str) -> None:
    if not BACKENDS[backend].dtypes(CPU):
        pytest.skip(f"{backend} is not available here")
    family = replace(FAMILIES["stable-diffusion"], text=TwoEncoders, call=PooledCall)
    frames = random_frames(3)
    out = []
    for second_seed, family_here in ((1, family), (2, family), (1, FAMILIES["stable-diffusion"])):
        unet, vae, encoder, tokenizer = random_parts(0)
        second = random_parts(second_seed)[2]
        parts = Parts(unet, vae, (Encoder(encoder, tokenizer), Encoder(second, tokenizer)))
        model = assemble(Path("two"), parts, SCHEDULER, executions(CPU, backend, torch.float32)[0], family_here)
        stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
        plan = stream.plan(Params(prompt="red ball", steps=2, guidance="full", guidance_scale=2.0))
        results = [stream.advance(stream.encode(frame[None]), i, plan) for i, frame in enumerate(frames)]
        out.append(results[-1].latent_Fchw)
    assert (out[0] - out[1]).abs().max() > 1e-3
    assert (out[0] - out[2]).abs().max() > 1e-3


class DepthCall(UnetCall):
    """A U-Net that reads depth in a channel beside the latent's, as Stable Diffusion 2's for depth does."""

    def forward(self, x_Rchw, t_R, embedding, keys_values, bank=None):
        x = torch.cat((x_Rchw, embedding.others["depth"].to(x_Rchw.dtype)), 1)
        return super().forward(x, t_R, embedding, keys_values, bank)


def depth_planes(unet, latent):
    def read(depth_FHW):
        small = torch.nn.functional.adaptive_avg_pool2d(depth_FHW.to(torch.float32)[:, None], latent[1:])
        return small / small.amax((2, 3), keepdim=True).clamp_min(1e-6)

    return {"depth": PlaneInput((1, *latent[1:]), read)}


@pytest.mark.parametrize("backend", [name for name, entry in BACKENDS.items() if entry.measured])
def test_a_family_that_reads_a_plane_of_the_client_needs_nothing_but_itself(backend: str) -> None:
    if not BACKENDS[backend].dtypes(CPU):
        pytest.skip(f"{backend} is not available here")
    unet, vae, encoder, tokenizer = random_parts(0)
    given, unet.conv_in = unet.conv_in, torch.nn.Conv2d(5, 16, 3, padding=1)
    with torch.no_grad():
        unet.conv_in.bias.copy_(given.bias)
        unet.conv_in.weight.copy_(torch.cat((given.weight, 2.0 * given.weight[:, :1]), 1))
    unet.register_to_config(in_channels=5)
    family = replace(FAMILIES["stable-diffusion"], call=DepthCall, planes=depth_planes)
    parts = Parts(unet, vae, (Encoder(encoder, tokenizer),))
    model = assemble(Path("depth"), parts, SCHEDULER, executions(CPU, backend, torch.float32)[0], family)
    frames = random_frames(5)
    depths = torch.rand(5, SIZE_PX // 2, SIZE_PX // 2, generator=torch.Generator().manual_seed(0))

    def run(mode: str, depths: list) -> dict:
        stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
        plan = stream.plan(Params(prompt="red ball", steps=3, strength=0.6, guidance="full", mode=mode))
        assert stream.reads(plan) == ("depth",)
        results = [
            stream.advance(stream.encode(frame[None], {} if depth is None else {"depth": depth[None]}), i, plan)
            for i, (frame, depth) in enumerate(zip(frames, depths, strict=True))
        ]
        return {result.tag: result.latent_Fchw for result in results if result is not None}

    # As what measures a model calls it, with no frame at all.
    denoiser = model.denoiser((4, SIZE_PX // 8, SIZE_PX // 8))
    rows = denoiser.rows([denoiser.prompt(model.text.embed("red ball"))] * 2)
    assert denoiser(torch.zeros(2, 4, SIZE_PX // 8, SIZE_PX // 8), torch.zeros(2, dtype=torch.long), rows)[0].any()

    alone = run("latency", [*depths[:2], None, *depths[3:]])
    together = run("throughput", [*depths[:2], None, *depths[3:]])
    without = run("latency", [None] * 5)
    assert len(together) == 3
    for tag, latent in together.items():
        torch.testing.assert_close(latent, alone[tag], atol=1e-3, rtol=1e-3)
    assert torch.equal(alone[2], without[2])
    assert (alone[1] - without[1]).abs().max() > 0.05
