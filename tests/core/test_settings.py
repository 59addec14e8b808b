"""Every setting of a model folder is honoured, harmless or refused; nothing is passed over in silence."""

from __future__ import annotations

import inspect

import diffusers
import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel

from core.autoencoders import AUTOENCODERS as KINDS
from core.backend import BACKENDS, executions
from core.denoiser import PREDICTIONS
from core.families.family import Encoder, Parts
from core.families.settings import AUTOENCODERS, SCHEDULER, TEXT_ENCODER, UNET, check_settings
from core.folder import ModelError
from core.guidance import guidance_embedding
from core.libraries import CLIPTextConfig
from core.model import assemble
from core.params import Params
from core.schedule import SCHEDULERS, NoiseSchedule
from core.stream import StreamConfig
from tests.random_model import SCHEDULER as NOISE
from tests.random_model import SIZE_PX, random_parts

CPU = torch.device("cpu")


def signature(kind) -> dict:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ("self", "args", "kwargs")}


def test_every_setting_that_diffusers_and_transformers_know_is_in_a_table() -> None:
    assert not set(signature(UNet2DConditionModel)) - set(UNET)
    for name, kind in KINDS.items():
        assert not set(signature(kind.kind)) - set(AUTOENCODERS[name]), name
    assert not set(CLIPTextConfig().to_dict()) - set(TEXT_ENCODER) - {"_name_or_path"}
    for name in SCHEDULERS:
        assert not set(signature(getattr(diffusers, name))) - set(SCHEDULER), name


def test_a_schedule_that_is_left_out_is_that_of_its_scheduler() -> None:
    for name, (schedule, low, high) in SCHEDULERS.items():
        theirs = signature(getattr(diffusers, name))
        if theirs:  # the one that needs another package has no signature here
            assert (schedule, low, high) == tuple(theirs[key] for key in ("beta_schedule", "beta_start", "beta_end"))


def test_what_is_checked_before_anything_is_loaded_is_what_can_be_run() -> None:
    assert SCHEDULER["prediction_type"].values == tuple(PREDICTIONS)
    for name in SCHEDULER["beta_schedule"].values:
        NoiseSchedule.from_config({"_class_name": "LCMScheduler", "beta_schedule": name})
    assert set(AUTOENCODERS) == set(KINDS)


@pytest.mark.parametrize("table", [UNET, *AUTOENCODERS.values(), TEXT_ENCODER, SCHEDULER])
def test_unknown_settings_and_values_that_are_not_honoured_are_refused(tmp_path, table) -> None:
    check_settings(tmp_path, {"_class_name": "x"}, table)
    with pytest.raises(ModelError, match="'quantum_width' is not known here"):
        check_settings(tmp_path, {"quantum_width": 3}, table)
    for name, setting in table.items():
        if setting.verdict == "only":
            for value in setting.values:
                check_settings(tmp_path, {name: value}, table)
            with pytest.raises(ModelError, match=f"{name} .* is not supported; use a model with"):
                check_settings(tmp_path, {name: "something else"}, table)


@pytest.mark.parametrize("width", [4, 5, 32, 256])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1.25, 8.5])
def test_the_guidance_embedding_is_that_of_the_lcm_pipeline(scale, width) -> None:
    w = torch.tensor([scale - 1.0])
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, w, embedding_dim=width)[0]
    torch.testing.assert_close(guidance_embedding(scale, width), theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize("backend", [name for name, entry in BACKENDS.items() if entry.measured])
def test_a_distilled_unet_is_told_the_live_guidance_scale(backend) -> None:
    if torch.float32 not in BACKENDS[backend].dtypes(CPU):
        pytest.skip(f"{backend} is not available here")
    plain, vae, encoder, tokenizer = random_parts()
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(plain.config, time_cond_proj_dim=32)
    unet.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.normal_(unet.time_embedding.cond_proj.weight, std=1.0)
    execution = executions(CPU, backend, torch.float32)[0]
    model = assemble("told", Parts(unet, vae, (Encoder(encoder, tokenizer),)), NOISE, execution)
    stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
    x = torch.randn(2, 4, SIZE_PX // 8, SIZE_PX // 8)
    before = None
    for scale in (1.2, 8.5):
        plan = stream.plan(Params(prompt="red ball", steps=2, strength=0.64, guidance_scale=scale))
        turn = plan.passes[0]
        ours, _ = stream._denoiser(x, turn.t_R, turn.inputs, None)
        cond = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.tensor([scale - 1.0] * 2), 32)
        with torch.inference_mode():
            text = model.text.embed("red ball").tokens.expand(2, -1, -1)
            theirs = unet(x, turn.t_R, encoder_hidden_states=text, timestep_cond=cond).sample
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-3)
        assert before is None or (ours - before).abs().max() > 1e-2
        before = ours
