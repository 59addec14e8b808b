"""Single .safetensors files of tiny models in the published layouts, against diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.backend import BACKENDS
from core.families import single_file
from core.folder import ModelError
from core.model import Model, check_folder, load_model
from core.params import Params
from core.stream import StreamConfig
from tests import tiny_pipelines
from tests.random_model import random_frames
from tests.tiny_pipelines import PIPELINES, SIDE_PX, theirs

CPU = torch.device("cpu")
PREDICTION = {"sd21": "epsilon"}


def load(path: Path, backend: str = "eager", prediction: str | None = None) -> Model:
    return load_model(path, CPU, torch.float32, backend, prediction=prediction)


@pytest.fixture(scope="module", params=PIPELINES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    """(name, file, diffusers' pipeline that it was written from)."""
    name = request.param
    pipeline = PIPELINES[name]()
    path = tiny_pipelines.single_file(name, pipeline, tmp_path_factory.mktemp(name) / f"{name}.safetensors")
    return name, path, pipeline


@torch.no_grad()
def test_it_paints_what_diffusers_pipeline_paints(model: tuple[str, Path, Any]) -> None:
    name, path, pipeline = model
    ours = load(path, prediction=PREDICTION.get(name))
    assert ours.native_size == {"sd15": 512, "sd21": 512, "sdxl": 1024}[name]
    stream = ours.stream(StreamConfig(SIDE_PX, SIDE_PX))
    frame = random_frames(1)
    pixels = frame.permute(0, 3, 1, 2) / 127.5 - 1.0
    latent = pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor
    entering = stream.encode(frame)
    assert torch.allclose(entering.estimate[0], latent, atol=1e-4)
    for params in (
        Params(prompt="red ball, neon", steps=1, strength=0.5, mode="latency", seed=3),
        Params(prompt="a house", steps=2, strength=0.8, mode="latency", guidance="full", guidance_scale=2.0),
    ):
        plan = stream.plan(params)
        finished = stream.advance(stream.encode(frame), 0, plan)
        assert finished is not None
        timesteps = [int(t) for one in plan.passes for t in one.t_R[:1]]
        expected = theirs(pipeline, latent, params, timesteps)
        assert (finished.latent_Fchw - expected).abs().max() < 1e-3
        assert (finished.latent_Fchw - latent).abs().max() > 0.1
        picture = pipeline.vae.decode(expected / pipeline.vae.config.scaling_factor).sample
        levels = ((picture + 1.0) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
        assert (stream.decode(finished).frame_FHWC[..., :3].float() - levels).abs().max() <= 1


@pytest.mark.parametrize("backend", [name for name, entry in BACKENDS.items() if entry.measured])
def test_it_paints_what_the_folder_of_the_same_model_paints(
    model: tuple[str, Path, Any], backend: str, tmp_path: Path
) -> None:
    if not BACKENDS[backend].dtypes(CPU):
        pytest.skip(f"{backend} is not available here")
    name, path, pipeline = model
    pipeline.save_pretrained(tmp_path / "folder")
    frames = random_frames(3)
    params = Params(prompt="red ball", steps=2, strength=0.7, guidance="full", guidance_scale=1.5)
    pictures = []
    for one in (load(path, backend, PREDICTION.get(name)), load(tmp_path / "folder")):
        stream = one.stream(StreamConfig(SIDE_PX, SIDE_PX))
        plan = stream.plan(params)
        pictures.append([stream.step(frame[None], i, plan) for i, frame in enumerate(frames)][-1])
    difference = pictures[0].frame_FHWC.int() - pictures[1].frame_FHWC.int()
    assert difference.abs().max() <= 1


def test_the_text_before_the_end_counts_and_what_follows_is_padded(model: tuple[str, Path, Any]) -> None:
    name, path, pipeline = model
    ours = load(path, prediction=PREDICTION.get(name)).text.embed("a red ball")
    told = pipeline.encode_prompt("a red ball", device=CPU, num_images_per_prompt=1, do_classifier_free_guidance=False)
    assert torch.allclose(ours.tokens, told[0][0], atol=1e-4)
    if name == "sdxl":
        assert torch.allclose(ours.others["pooled"], told[2][0], atol=1e-4)


def test_what_it_predicts_is_said_by_the_user_or_the_file_and_never_guessed(tmp_path: Path) -> None:
    pipeline = PIPELINES["sd21"]()
    plain = tiny_pipelines.single_file("sd21", pipeline, tmp_path / "turbo.safetensors")
    with pytest.raises(ModelError, match="give --prediction epsilon .* or --prediction v_prediction"):
        check_folder(plain)
    assert load(plain, prediction="v_prediction").prediction == "v_prediction"
    assert load(plain, prediction="v_prediction").native_size == 768
    noted = tiny_pipelines.single_file(
        "sd21",
        pipeline,
        tmp_path / "noted.safetensors",
        **{"modelspec.prediction_type": "v", "modelspec.resolution": "640x640"},
    )
    model = load(noted)
    assert (model.prediction, model.native_size) == ("v_prediction", 640)
    pipeline.save_pretrained(tmp_path / "folder")
    with pytest.raises(ModelError, match="leave out --prediction"):
        check_folder(tmp_path / "folder", "epsilon")


def rewritten(path: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    weights = load_file(path)
    change(weights)
    save_file(weights, to)
    return to


def without(*prefixes: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if name.startswith(prefixes)]:
            del weights[name]

    return change


def setting(name: str, shape: tuple[int, ...]) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda weights: weights.update({name: torch.zeros(shape)})


UNET = "model.diffusion_model."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("cond_stage_model."), "no text encoder that is known here"),
        (without("first_stage_model."), r"holds nothing named first_stage_model\.\*; get the whole model"),
        (setting("control_model.x", (1,)), r"weights that Stable Diffusion 1.x does not have \(control_model.x\)"),
        (setting("ztsnr", (1,)), "does not have"),
        (setting(UNET + "input_blocks.0.0.weight", (32, 9, 3, 3)), "models for inpainting and editing"),
        (setting(UNET + "time_embed.cond_proj.weight", (128, 256)), "1 of its weights would not be used"),
        (setting(UNET + "out.2.weight", (4, 32, 5, 5)), "not laid out as Stable Diffusion 1.x's"),
        (without(UNET + "middle_block"), "not laid out as Stable Diffusion 1.x's"),
        (without(UNET + "input_blocks.1.0.in_layers.2.bias"), "1 weights are missing, 0 too many"),
        (without("first_stage_model.decoder.conv_out.bias"), "1 weights are missing"),
        (without("cond_stage_model.transformer.text_model.final_layer_norm"), "2 weights are missing"),
        (
            lambda weights: weights[UNET + "out.2.bias"].fill_(float("nan")),
            "values that are no numbers",
        ),
    ],
)
def test_what_is_not_whole_or_not_of_the_layout_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    path = tiny_pipelines.single_file("sd15", PIPELINES["sd15"](), tmp_path / "good.safetensors")
    bad = rewritten(path, tmp_path / "bad.safetensors", change)
    with pytest.raises(ModelError, match=words):
        load(bad)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    path = tiny_pipelines.single_file("sd15", PIPELINES["sd15"](), tmp_path / "good.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="damaged"):
        load(cut)


def test_the_autoencoder_of_xl_never_computes_in_float16(tmp_path: Path) -> None:
    path = tiny_pipelines.single_file("sdxl", PIPELINES["sdxl"](), tmp_path / "xl.safetensors")
    from core.families.table import FAMILIES

    _, parts, _ = single_file.load(path, torch.float16, FAMILIES)
    assert parts.overflows and (parts.unet.dtype, parts.vae.dtype) == (torch.float16, torch.float32)


def test_the_words_come_from_beside_the_file_or_from_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    pipeline = PIPELINES["sd15"]()
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    path = tiny_pipelines.single_file("sd15", pipeline, tmp_path / "here" / "model.safetensors")
    assert single_file._vocabulary(path) == path.parent
    (path.parent / "vocab.json").rename(tmp_path / "vocab.json")
    with pytest.raises(ModelError, match="run.py fetch openai/clip-vit-large-patch14"):
        check_folder(path)
    # A model of other words in the cache is none to take them from; one of CLIP's number is.
    other = cache / "models--a--other" / "snapshots" / "1" / "tokenizer"
    tiny_pipelines.tokenizer_to(pipeline, other)
    with pytest.raises(ModelError, match="needs CLIP's vocabulary"):
        check_folder(path)
    clip = cache / "models--openai--clip" / "snapshots" / "1"
    clip.mkdir(parents=True)
    (clip / "merges.txt").write_text("#version: 0.2\n")
    (clip / "vocab.json").write_text(json.dumps({str(i): i for i in range(single_file.CLIP_WORDS)}))
    assert single_file._vocabulary(path) == clip
    check_folder(path)


def test_a_host_is_given_the_file(tmp_path: Path) -> None:
    from bridge.host.config import HostConfig, HostError
    from bridge.host.loading import Models, check

    path = tiny_pipelines.single_file("sd21", PIPELINES["sd21"](), tmp_path / "turbo.safetensors")
    config = HostConfig("stage", str(path), (SIDE_PX, SIDE_PX), "cpu", "float32", "eager", overlap=False, threads=1)
    for refused in (lambda: check(config), lambda: Models().load(config, Params())):
        with pytest.raises(HostError, match="give --prediction"):
            refused()
    config = replace(config, prediction="epsilon")
    check(config)
    loaded = Models().load(config, Params())
    assert loaded.model.stream(StreamConfig(SIDE_PX, SIDE_PX)).plan(Params()).stages == 1
