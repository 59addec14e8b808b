"""Model families are a table: what another one needs is a file of its own and a line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.backend import BACKENDS, executions
from core.denoiser import UnetCall
from core.families.family import Encoder, Parts
from core.families.folders import FOLDERS
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


def test_every_family_is_looked_for_among_folders() -> None:
    assert [family.folder for family in FAMILIES.values()] == list(FOLDERS)


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
        pytest.skip(f"{backend} cannot be had here")
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
