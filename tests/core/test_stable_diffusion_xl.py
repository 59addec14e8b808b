"""Stable Diffusion XL's family on a tiny repository in the published layout, against diffusers' own pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.backend import BACKENDS, Execution
from core.families.table import FAMILIES, family_of
from core.folder import ModelError
from core.model import Model, check_folder, load_model
from core.params import Params
from core.stream import StreamConfig
from tests.random_model import SCHEDULER, SIZE_PX, TOKENS, _fill, random_frames, random_parts, random_text

CPU = torch.device("cpu")
FIRST, SECOND, POOLED, SIZES = 16, 24, 20, 8


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """(folder, diffusers' pipeline that it was saved from)."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=SIZE_PX // 8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        cross_attention_dim=FIRST + SECOND,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=SIZES,
        projection_class_embeddings_input_dim=POOLED + 6 * SIZES,
    )
    encoder, tokenizer = random_text(FIRST, 2, TOKENS)
    second, tokenizer_2 = random_text(SECOND, 4, TOKENS, POOLED)
    for seed, part in enumerate((unet, encoder, second), 10):
        _fill(part, seed, 1.0)
        part.eval()
    pipeline = StableDiffusionXLImg2ImgPipeline(
        vae=random_parts()[1],
        text_encoder=encoder,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=EulerDiscreteScheduler.from_config({**SCHEDULER, "timestep_spacing": "trailing"}),
        add_watermarker=False,
    )
    folder = tmp_path_factory.mktemp("xl") / "tiny-xl"
    pipeline.save_pretrained(folder)
    return folder, pipeline


def changed(folder: Path, to: Path, name: str, **values: Any) -> Path:
    """A copy with other values in one of its JSON files."""
    import shutil

    shutil.copytree(folder, to)
    path = to / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return to


def load(folder: Path, backend: str = "eager") -> Model:
    return load_model(folder, CPU, torch.float32, backend)


def test_it_is_claimed_by_its_own_family(repository: tuple[Path, Any]) -> None:
    folder, _ = repository
    check_folder(folder)
    assert family_of(folder) is FAMILIES["stable-diffusion-xl"]


@torch.no_grad()
def test_text_and_sizes_reach_the_network_as_in_diffusers(repository: tuple[Path, Any]) -> None:
    folder, pipeline = repository
    model, prompt = load(folder), "red ball, neon"
    tokens, _, pooled, _ = pipeline.encode_prompt(prompt, device=CPU, do_classifier_free_guidance=False)
    embedding = model.text.embed(prompt)
    assert torch.allclose(embedding.tokens, tokens[0], atol=1e-5)
    assert torch.allclose(embedding.others["pooled"], pooled[0], atol=1e-5)
    height, width = 64, 128
    x = torch.randn(2, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([499, 239])
    ids = torch.tensor([[height, width, 0, 0, height, width]] * 2, dtype=torch.float32)
    both = {"text_embeds": pooled.repeat(2, 1), "time_ids": ids}
    theirs = pipeline.unet(x, t, encoder_hidden_states=tokens.repeat(2, 1, 1), added_cond_kwargs=both).sample
    for cache_text in (True, False):
        denoiser = model.denoiser((4, height // 8, width // 8), cache_text=cache_text)
        ours, _ = denoiser(x, t, denoiser.rows([denoiser.prompt(embedding)] * 2))
        assert torch.allclose(ours, theirs, atol=1e-4)
    # Each of what is added changes the picture: equality with a network that ignores it would prove nothing.
    for name in both:
        other = pipeline.unet(
            x,
            t,
            encoder_hidden_states=tokens.repeat(2, 1, 1),
            added_cond_kwargs={**both, name: both[name] * 0.5 + 1.0},
        ).sample
        assert (other - theirs).abs().max() > 1e-2


@pytest.mark.parametrize("backend", [name for name, entry in BACKENDS.items() if entry.measured])
def test_it_streams_and_every_parameter_is_live(repository: tuple[Path, Any], backend: str) -> None:
    if not BACKENDS[backend].dtypes(CPU):
        pytest.skip(f"{backend} is not available here")
    model, plain = load(repository[0], backend), load(repository[0])
    frames = random_frames(4)

    def last(of: Model, params: Params) -> torch.Tensor:
        stream = of.stream(StreamConfig(SIZE_PX, SIZE_PX))
        plan = stream.plan(params)
        out = [stream.step(frame[None], i, plan) for i, frame in enumerate(frames)]
        assert out[-1] is not None
        return out[-1].frame_FHWC.int()

    base = Params(prompt="red ball", steps=2, strength=0.6, guidance="full", guidance_scale=1.5)
    picture = last(model, base)
    assert (picture - last(plain, base)).abs().max() <= 1
    for name, value in {
        "prompt": "a blue box",
        "negative_prompt": "grey",
        "guidance_scale": 3.0,
        "guidance": "self-negative",
        "seed": 9,
        "strength": 0.9,
        "steps": 3,
    }.items():
        assert (last(model, base.with_values(**{name: value})) - picture).abs().max() > 1, name
    banked = base.with_values(temporal="bank", bank_reset="never")
    assert (last(model, banked) - last(plain, banked)).abs().max() <= 1


def test_what_is_not_whole_or_not_of_the_family_is_refused(repository: tuple[Path, Any], tmp_path: Path) -> None:
    import shutil

    folder, _ = repository
    lacking = shutil.copytree(folder, tmp_path / "lacking")
    shutil.rmtree(lacking / "tokenizer_2")
    with pytest.raises(ModelError, match="has no folder 'tokenizer_2'"):
        check_folder(lacking)
    wordless = shutil.copytree(folder, tmp_path / "wordless")
    for path in (wordless / "tokenizer_2").glob("*"):
        if "vocab" in path.name or path.name == "tokenizer.json":
            path.unlink()
    with pytest.raises(ModelError, match="tokenizer_2 holds no vocabulary"):
        check_folder(wordless)
    with pytest.raises(ModelError, match="addition_embed_type"):
        check_folder(changed(folder, tmp_path / "image", "unet/config.json", addition_embed_type="text_image"))
    refiner = changed(folder, tmp_path / "refiner", "unet/config.json", addition_time_embed_dim=SIZES + 2)
    with pytest.raises(ModelError, match="refiner"):
        load(refiner)


def test_an_autoencoder_that_overflows_in_float16_computes_in_float32(
    repository: tuple[Path, Any], tmp_path: Path
) -> None:
    # Between its first and its last layer beyond what float16 holds, as the published one is.
    safe = changed(repository[0], tmp_path / "safe", "vae/config.json")
    path = safe / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    layers = sorted({int(name.split(".")[2]) for name in weights if name.startswith("decoder.")})
    for layer, gain in ((layers[0], 1e6), (layers[-1], 1e-6)):
        weights[f"decoder.layers.{layer}.weight"] *= gain
    save_file(weights, path)
    folder = changed(safe, tmp_path / "overflows", "vae/config.json", force_upcast=True)
    frames = random_frames(4)

    def painted(of: Path, dtype: torch.dtype) -> torch.Tensor:
        model = load(of).run_by(Execution(CPU, "eager", dtype))
        stream = model.stream(StreamConfig(SIZE_PX, SIZE_PX))
        out = stream.step(frames[0][None], 0, stream.plan(Params(steps=1)))
        assert out is not None
        return out.frame_FHWC[..., :3].int()

    picture = painted(folder, torch.float32)
    assert picture.float().std() > 5.0
    assert (painted(folder, torch.float16) - picture).abs().float().mean() < 2.0
    assert painted(safe, torch.float16).float().std() < 1.0, "it would be seen if it computed in float16"
    for dtype, computes in ((torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)):
        parts = FAMILIES["stable-diffusion-xl"].load(folder, dtype)
        assert (parts.unet.dtype, parts.vae.dtype) == (dtype, computes)
