"""LoRA files of every spelling, against weights merged by hand and against diffusers' adapters."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.backend import BACKENDS
from core.lora import LORA, Changed, LoraFile, original_name
from core.model import Model, ModelError, load_model
from core.params import MAX_LORAS, ParamError, Params
from core.stream import StreamConfig
from tests.random_model import random_frames
from tests.tiny_pipelines import PIPELINES, SIDE_PX, theirs, unet_name

CPU = torch.device("cpu")
RANK, ALPHA = 3, 2.0
BASE = Params(prompt="red ball, neon", steps=2, strength=0.8, mode="latency", guidance="full", guidance_scale=2.0)
Layers = dict[str, dict[str, tuple[Tensor, Tensor]]]
GOLDEN = Path(__file__).parents[1] / "golden" / "lora.safetensors"
"""What diffusers' set_adapters makes of the same files; `python -m tests.golden.make_lora` makes it anew."""


def networks(pipeline: Any) -> dict[str, nn.Module]:
    parts = {name: getattr(pipeline, name, None) for name in ("unet", "text_encoder", "text_encoder_2")}
    return {name: network for name, network in parts.items() if network is not None}


def layers(pipeline: Any, seed: int, *, attention_only: bool = False) -> Layers:
    """Random matrices for every layer, or for attention's projections in the U-Net alone."""
    generator = torch.Generator().manual_seed(seed)
    made: Layers = {}
    for part, network in networks(pipeline).items():
        for path, layer in network.named_modules():
            if not isinstance(layer, (nn.Linear, nn.Conv2d)):
                continue
            if attention_only and not (part == "unet" and ".attn" in path):
                continue
            weight = layer.weight
            down = torch.randn((RANK, *weight.shape[1:]), generator=generator) / weight[0].numel() ** 0.5
            up = torch.randn((len(weight), RANK, *(1,) * (weight.dim() - 2)), generator=generator) * 0.3
            made.setdefault(part, {})[path] = (down, up)
    return made


def kohya(
    made: Layers, name: Callable[[str], str] = lambda path: path, alpha: float | None = ALPHA
) -> dict[str, Tensor]:
    """As kohya's trainer writes it."""
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
    if "text_encoder_2" in made:
        prefixes["text_encoder"] = "lora_te1_"
    weights = {}
    for part, of in made.items():
        for path, (down, up) in of.items():
            if part == "unet":
                path = name(path)
            elif not path.startswith("text_"):
                path = "text_model." + path
            layer = prefixes[part] + path.replace(".", "_")
            weights |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
            if alpha is not None:
                weights[f"{layer}.alpha"] = torch.tensor(alpha)
    return weights


def peft(made: Layers) -> dict[str, Tensor]:
    """As diffusers' training scripts write it now."""
    return {
        f"{part}.{path}.{name}.weight": matrix
        for part, of in made.items()
        for path, pair in of.items()
        for name, matrix in zip(("lora_A", "lora_B"), pair, strict=True)
    }


def processors(made: Layers) -> dict[str, Tensor]:
    """As diffusers' training scripts wrote it in 2023, of attention in the U-Net."""
    weights = {}
    for path, (down, up) in made["unet"].items():
        stem, _, last = path.rpartition(".")
        stem, last = (stem.removesuffix(".to_out"), "to_out") if last == "0" else (stem, last)
        layer = f"unet.{stem}.processor.{last}_lora"
        weights |= {f"{layer}.down.weight": down, f"{layer}.up.weight": up}
    return weights


def merged(pipeline: Any, *changes: tuple[Layers, float]) -> Any:
    """The pipeline with W + s B A in place of W. changes: matrices and s, alpha over rank in it."""
    parts = {name: copy.deepcopy(network) for name, network in networks(pipeline).items()}
    for made, scale in changes:
        for part, of in made.items():
            for path, (down, up) in of.items():
                layer = parts[part].get_submodule(path)
                layer.weight.data += scale * (up.flatten(1) @ down.flatten(1)).view_as(layer.weight)
    return type(pipeline)(**{**pipeline.components, **parts}, **_EXTRA[type(pipeline).__name__])


_EXTRA: dict[str, dict[str, Any]] = {
    "StableDiffusionImg2ImgPipeline": {"requires_safety_checker": False},
    "StableDiffusionXLImg2ImgPipeline": {"add_watermarker": False},
}


def saved(weights: dict[str, Tensor], path: Path, **notes: str) -> Path:
    save_file({name: weight.contiguous() for name, weight in weights.items()}, path, metadata=notes or None)
    return path


def painted(model: Model, params: Params, frames: Tensor) -> tuple[Tensor, list[int]]:
    """The last frame's latents in latency mode, and the timesteps that they came through."""
    stream = model.stream(StreamConfig(SIDE_PX, SIDE_PX))
    plan = stream.plan(params)
    for number, frame in enumerate(frames):
        finished = stream.advance(stream.encode(frame[None]), number, plan)
    assert finished is not None
    return finished.latent_Fchw, [int(one.t_R[0]) for one in plan.passes]


def entering(pipeline: Any, frame: Tensor) -> Tensor:
    with torch.no_grad():
        pixels = frame[None].permute(0, 3, 1, 2) / 127.5 - 1.0
        return pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def repository(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    pipeline = PIPELINES[request.param]()
    folder = tmp_path_factory.mktemp(request.param) / "model"
    pipeline.save_pretrained(folder)
    return folder, pipeline


def load(folder: Path, *files: Path, backend: str = "eager") -> Model:
    return load_model(folder, CPU, torch.float32, backend, loras=files)


def test_two_at_once_paint_what_merged_weights_paint_and_weights_are_live(
    repository: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, pipeline = repository
    first, second = layers(pipeline, 1), layers(pipeline, 2, attention_only=True)
    model = load(
        folder,
        saved(kohya(first), tmp_path / "watercolour.safetensors"),
        saved(peft(second), tmp_path / "glow.safetensors"),
    )
    assert model.loras == ("watercolour", "glow")
    frame = random_frames(1)
    latent = entering(pipeline, frame[0])
    stream = model.stream(StreamConfig(SIDE_PX, SIDE_PX))
    plain = None
    for one, two in ((0.0, 0.0), (0.7, 0.0), (0.0, -0.8), (0.5, 1.2), (0.7, 0.0)):
        params = BASE.with_values(lora_1=one, lora_2=two)
        plan = stream.plan(params)
        finished = stream.advance(stream.encode(frame), 0, plan)
        timesteps = [int(each.t_R[0]) for each in plan.passes]
        there = merged(pipeline, (first, one * ALPHA / RANK), (second, two))
        expected = theirs(there, latent, params, timesteps)
        assert (finished.latent_Fchw - expected).abs().max() < 1e-3, (one, two)
        plain = expected if plain is None else plain
        assert (one, two) == (0.0, 0.0) or (expected - plain).abs().max() > 0.05


def test_every_spelling_is_read_and_all_say_the_same(repository: tuple[Path, Any], tmp_path: Path) -> None:
    folder, pipeline = repository
    attention = layers(pipeline, 3, attention_only=True)
    frames = random_frames(1)
    params = BASE.with_values(lora_1=0.9)
    files = {
        "kohya": saved(kohya(attention, alpha=float(RANK)), tmp_path / "a.safetensors"),
        "kohya without alpha": saved(kohya(attention, alpha=None), tmp_path / "b.safetensors"),
        "peft": saved(peft(attention), tmp_path / "c.safetensors"),
        "processors": saved(processors(attention), tmp_path / "d.safetensors"),
        "noted": saved(
            peft(attention),
            tmp_path / "e.safetensors",
            lora_adapter_metadata=json.dumps({"unet.lora_alpha": 3, "unet.r": 3}),
        ),
    }
    said = {name: painted(load(folder, path), params, frames)[0] for name, path in files.items()}
    for name, latent in said.items():
        assert torch.allclose(latent, said["kohya"], atol=1e-5), name
    half = saved(
        peft(attention), tmp_path / "f.safetensors", lora_adapter_metadata=json.dumps({"unet.lora_alpha": 1.5})
    )
    as_half = painted(load(folder, half), BASE.with_values(lora_1=1.8), frames)[0]
    assert torch.allclose(as_half, said["kohya"], atol=1e-4)


def test_names_of_the_original_code_are_those_that_trainers_for_xl_write(tmp_path: Path) -> None:
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_lora_to_diffusers,
        _maybe_map_sgm_blocks_to_diffusers,
    )

    pipeline = PIPELINES["sdxl"]()
    blocks = pipeline.unet.config.layers_per_block
    made = layers(pipeline, 4)
    for path in made["unet"]:
        attention = path.startswith("up_blocks.0")
        if ".upsamplers." not in path or attention:
            assert original_name(path, blocks) == unet_name(path + ".weight", blocks, attention).removesuffix(".weight")
    weights = kohya(made, name=lambda path: original_name(path, blocks))
    # diffusers' own converter takes them for the same layers.
    renamed = _maybe_map_sgm_blocks_to_diffusers(dict(weights), pipeline.unet.config)
    told, _ = _convert_non_diffusers_lora_to_diffusers(renamed)
    for path, (down, _) in made["unet"].items():
        for end in (".lora.down.weight", "_lora.down.weight"):
            name = f"unet.{path}{end}".replace(".to_out.0_lora", ".to_out_lora")
            name = name.replace("attn1.to", "attn1.processor.to").replace("attn2.to", "attn2.processor.to")
            if name in told:
                assert torch.equal(told[name], down)
                break
        else:
            raise AssertionError(path)
    pipeline.save_pretrained(tmp_path / "model")
    ours = load(tmp_path / "model", saved(weights, tmp_path / "sgm.safetensors"))
    plain = load(tmp_path / "model", saved(kohya(made), tmp_path / "plain.safetensors"))
    params, frames = BASE.with_values(lora_1=0.6), random_frames(1)
    assert torch.allclose(painted(ours, params, frames)[0], painted(plain, params, frames)[0], atol=1e-5)


@pytest.mark.parametrize("backend", [name for name, entry in BACKENDS.items() if entry.measured])
def test_every_back_end_follows_without_making_its_network_anew(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not BACKENDS[backend].dtypes(CPU):
        pytest.skip(f"{backend} is not available here")
    pipeline = PIPELINES["sd15"]()
    pipeline.save_pretrained(tmp_path / "model")
    path = saved(kohya(layers(pipeline, 1)), tmp_path / "style.safetensors")
    frames = random_frames(3)
    plain = load(tmp_path / "model", path)
    model = load(tmp_path / "model", path, backend=backend)
    stream = model.stream(StreamConfig(SIDE_PX, SIDE_PX))
    params = BASE.with_values(mode="throughput")
    # The first plan makes the network ready for its number of rows.
    stream.step(frames[:1], 0, stream.plan(params))
    made = set(model.calls)
    for weight in (0.0, 1.0, -0.5):
        changed = params.with_values(lora_1=weight)
        beside = plain.stream(StreamConfig(SIDE_PX, SIDE_PX))
        ours, expected = (
            [one.advance(one.encode(frame[None]), i, one.plan(changed)) for i, frame in enumerate(frames)][-1]
            for one in (stream, beside)
        )
        assert (ours.latent_Fchw - expected.latent_Fchw).abs().max() < 1e-3
    assert set(model.calls) == made


# torch's compiler warns of parts of torch itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_compiles_a_network_compiles_it_once_for_all_weights(tmp_path: Path) -> None:
    pipeline = PIPELINES["sd15"]()
    pipeline.save_pretrained(tmp_path / "model")
    model = load(tmp_path / "model", saved(kohya(layers(pipeline, 1)), tmp_path / "style.safetensors"))
    compilations = []

    def counting(graph: Any, example: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    t = torch.tensor([499, 99])
    denoiser = model.denoiser((4, 8, 8))
    compiled = torch.compile(model.call, backend=counting, fullgraph=True)
    outputs = []
    for weight in (0.3, 0.0, -1.0):
        inputs = denoiser.rows([denoiser.prompt(model.text.embed("a house", (weight,)))] * 2)
        with torch.inference_mode():
            outputs.append(compiled(x, t, inputs.embedding, inputs.keys_values))
            assert torch.allclose(outputs[-1], model.call(x, t, inputs.embedding, inputs.keys_values), atol=1e-4)
    assert len(compilations) == 1
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2


def test_rows_of_one_call_may_differ_in_their_weights(tmp_path: Path) -> None:
    pipeline = PIPELINES["sd15"]()
    pipeline.save_pretrained(tmp_path / "model")
    model = load(tmp_path / "model", saved(kohya(layers(pipeline, 1)), tmp_path / "style.safetensors"))
    denoiser = model.denoiser((4, 8, 8))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    t = torch.tensor([499, 499])
    prompts = [denoiser.prompt(model.text.embed("a house", (weight,))) for weight in (0.2, 1.0)]
    both, _ = denoiser(x, t, denoiser.rows(prompts))
    for row in range(2):
        alone, _ = denoiser(x[row : row + 1], t[:1], denoiser.rows(prompts[row : row + 1]))
        assert torch.allclose(both[row], alone[0], atol=1e-5)
    swapped, _ = denoiser(x, t, denoiser.rows(prompts[::-1]))
    assert (swapped - both).abs().max() > 1e-2


def test_texts_are_encoded_again_only_where_a_lora_changes_the_encoder(tmp_path: Path) -> None:
    pipeline = PIPELINES["sd15"]()
    pipeline.save_pretrained(tmp_path / "model")
    counts = {}
    for name, attention_only in (("all", False), ("unet", True)):
        path = saved(kohya(layers(pipeline, 1, attention_only=attention_only)), tmp_path / f"{name}.safetensors")
        model = load(tmp_path / "model", path)
        stream = model.stream(StreamConfig(SIDE_PX, SIDE_PX))
        for weight in (0.0, 0.5, 1.0, 0.5):
            stream.plan(Params(lora_1=weight))
        counts[name] = model.text._text.encodings
    # The empty negative prompt, too; and what a network is made with, at 0.
    assert counts == {"all": 6, "unet": 2}


def test_many_changes_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc

    from core import stream as of_streams
    from core import text as of_texts

    # Fewer than are kept otherwise for changing back, so that fewer changes show what stays.
    for module in (of_streams, of_texts):
        monkeypatch.setattr(module, "CACHED_PROMPTS", 6)

    pipeline = PIPELINES["sd15"]()
    pipeline.save_pretrained(tmp_path / "model")
    model = load(tmp_path / "model", saved(kohya(layers(pipeline, 1)), tmp_path / "style.safetensors"))
    stream = model.stream(StreamConfig(SIDE_PX, SIDE_PX))

    def tensors_after(changes: range) -> int:
        for i in changes:
            stream.plan(Params(lora_1=i / 100 - 1.0))
        gc.collect()
        return sum(type(one) is Tensor for one in gc.get_objects())

    first = tensors_after(range(12))
    assert tensors_after(range(12, 36)) <= first


def without(*ends: str) -> Callable[[dict[str, Tensor]], None]:
    def change(weights: dict[str, Tensor]) -> None:
        name = next(name for name in weights if name.endswith(ends))
        del weights[name]

    return change


def first_of(end: str, new: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    def change(weights: dict[str, Tensor]) -> None:
        name = next(name for name in weights if name.endswith(end))
        weights[name] = new(weights[name])

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("lora_up.weight"), "has one of the two matrices"),
        (first_of("lora_up.weight", lambda w: torch.zeros(len(w), 7, *w.shape[2:])), r"different ranks \(3 and 7\)"),
        (first_of("lora_down.weight", lambda w: w * float("nan")), "values that are no numbers"),
        (first_of("lora_down.weight", lambda w: torch.zeros(3, 5)), "was made for another model"),
        (lambda w: w.update({"lora_unet_x.hada_w1_a": torch.zeros(1)}), "is a LoHa"),
        (lambda w: w.update({"lora_unet_x.lokr_w1": torch.zeros(1)}), "is a LoKr"),
        (lambda w: w.update({"lora_unet_x.dora_scale": torch.zeros(1)}), "is a DoRA"),
        (lambda w: w.update({"lora_unet_x.alpha": torch.zeros(())}), "a scale for lora_unet_x and no matrices"),
        (lambda w: w.update({"decoder.conv_in.weight": torch.zeros(1)}), "nothing is known of decoder.conv_in.weight"),
        (dict.clear, "holds nothing"),
    ],
)
def test_what_is_no_whole_lora_is_refused_in_a_sentence(tmp_path: Path, change: Any, words: str) -> None:
    pipeline = PIPELINES["sd15"]()
    pipeline.save_pretrained(tmp_path / "model")
    weights = kohya(layers(pipeline, 1))
    change(weights)
    with pytest.raises(ModelError, match=words) as refused:
        load(tmp_path / "model", saved(weights, tmp_path / "bad.safetensors"))
    assert str(tmp_path / "bad.safetensors") in str(refused.value) and "\n" not in str(refused.value)


def test_a_lora_of_another_family_and_too_many_are_refused(tmp_path: Path) -> None:
    xl, sd = PIPELINES["sdxl"](), PIPELINES["sd15"]()
    sd.save_pretrained(tmp_path / "sd")
    other = saved(kohya(layers(xl, 1)), tmp_path / "xl.safetensors")
    with pytest.raises(ModelError, match="of its family|for its family"):
        load(tmp_path / "sd", other)
    good = saved(kohya(layers(sd, 1)), tmp_path / "sd.safetensors")
    with pytest.raises(ModelError, match="4 at once is the most"):
        load(tmp_path / "sd", *[good] * (MAX_LORAS + 1))
    for path, words in (
        (tmp_path / "nothing.safetensors", "there is no LoRA file"),
        (tmp_path / "sd", "a folder without pytorch_lora_weights"),
    ):
        with pytest.raises(ModelError, match=words):
            LoraFile.of(path)
    (tmp_path / "pickle.pt").write_bytes(b"PK")
    with pytest.raises(ModelError, match="the only kind of LoRA that is read"):
        LoraFile.of(tmp_path / "pickle.pt")
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        LoraFile.of(tmp_path / "cut.safetensors")
    with pytest.raises(ParamError, match="lora_1"):
        Params().with_values(lora_1=float("nan"))


def test_a_model_without_loras_is_as_it_was(tmp_path: Path) -> None:
    pipeline = PIPELINES["sd15"]()
    pipeline.save_pretrained(tmp_path / "model")
    model = load(tmp_path / "model")
    assert not any(isinstance(part, Changed) for part in model.unet.modules())
    assert LORA not in model.text.embed("x").others
    frames = random_frames(1)
    same = [painted(model, BASE.with_values(lora_1=weight), frames)[0] for weight in (0.0, 2.0)]
    assert torch.equal(*same)


def test_diffusers_adapters_paint_the_same(tmp_path: Path) -> None:
    golden = load_file(GOLDEN)
    pipeline = PIPELINES["sd15"]()
    pipeline.save_pretrained(tmp_path / "model")
    files = [saved(weights, tmp_path / f"{name}.safetensors") for name, weights in golden_loras(pipeline).items()]
    model = load(tmp_path / "model", *files)
    for name, expected in golden.items():
        one, two = map(float, name.split())
        ours, _ = painted(model, BASE.with_values(lora_1=one, lora_2=two), random_frames(1))
        assert (ours - expected).abs().max() < 1e-3, name


def golden_loras(pipeline: Any) -> dict[str, dict[str, Tensor]]:
    """Two files that diffusers reads as they are."""
    return {"first": kohya(layers(pipeline, 1)), "second": peft(layers(pipeline, 2, attention_only=True))}
