"""IP-Adapters of every published kind, against diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.backend import BACKENDS
from core.guidance import POSITIVE, Row
from core.image_prompt import ImagePrompt, cross_attention
from core.image_prompt import load as load_adapter
from core.model import Model, ModelError, load_model
from core.params import Params
from core.references import PictureError, named, read
from core.stream import Stream, StreamConfig
from tests.core.test_lora import entering, kohya, layers, merged, saved
from tests.random_model import _fill, random_frames
from tests.tiny_pipelines import PIPELINES, SIDE_PX, theirs

CPU = torch.device("cpu")
BASE = Params(prompt="red ball, neon", steps=2, strength=0.8, mode="latency", guidance="full", guidance_scale=2.0)
WIDTH, PROJECTED, SIDE = 64, 48, 32
"""Of the image encoder."""
KINDS = {"sd15": "ip-adapter_sd15", "sdxl": "ip-adapter_sdxl"}


def image_encoder(seed: int = 50, projected: int = PROJECTED) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=projected,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=8,
        hidden_act="gelu",
    )
    net = CLIPVisionModelWithProjection(config)
    _fill(net, seed, 1.0)
    return net


def adapter(unet: Any, kind: str, seed: int = 60) -> dict[str, Tensor]:
    """Random weights by the names of the published files. kind: plain, plus or full."""
    generator = torch.Generator().manual_seed(seed)
    width = unet.config.cross_attention_dim

    def matrix(out: int, given: int) -> Tensor:
        return torch.randn((out, given), generator=generator) / given**0.5

    def norm(name: str, of: int) -> dict[str, Tensor]:
        one, two = (0.1 * torch.randn((of,), generator=generator) for _ in range(2))
        return {f"{name}.weight": 1.0 + one, f"{name}.bias": two}

    def linear(name: str, out: int, given: int) -> dict[str, Tensor]:
        return {f"{name}.weight": matrix(out, given), f"{name}.bias": 0.1 * matrix(1, out)[0]}

    if kind == "plain":
        projection = {**linear("proj", 4 * width, PROJECTED), **norm("norm", width)}
    elif kind == "full":
        projection = {**linear("proj.0", WIDTH, WIDTH), **linear("proj.2", width, WIDTH), **norm("proj.3", width)}
    else:
        inside, inner = 96, 128
        projection = {
            "latents": torch.randn((1, 6, inside), generator=generator),
            **linear("proj_in", inside, WIDTH),
            **linear("proj_out", width, inside),
            **norm("norm_out", width),
        }
        for layer in (f"layers.{i}" for i in range(4)):
            projection |= {
                **norm(f"{layer}.0.norm1", inside),
                **norm(f"{layer}.0.norm2", inside),
                f"{layer}.0.to_q.weight": matrix(inner, inside),
                f"{layer}.0.to_kv.weight": matrix(2 * inner, inside),
                f"{layer}.0.to_out.weight": matrix(inside, inner),
                **norm(f"{layer}.1.0", inside),
                f"{layer}.1.1.weight": matrix(4 * inside, inside),
                f"{layer}.1.3.weight": matrix(inside, 4 * inside),
            }
    weights = {f"image_proj.{name}": weight for name, weight in projection.items()}
    for i, attn in enumerate(cross_attention(unet)):
        for name in ("to_k_ip", "to_v_ip"):
            weights[f"ip_adapter.{2 * i + 1}.{name}.weight"] = 1.5 * matrix(*attn.to_k.weight.shape)
    return weights


def vectors_of(family: str, count: int = 2) -> Tensor:
    """What a word by textual inversion might be, for the first text encoder."""
    width = PIPELINES[family]().text_encoder.config.hidden_size
    return torch.randn((count, width), generator=torch.Generator().manual_seed(80))


def picture(path: Path, seed: int, size: tuple[int, int] = (90, 70)) -> Path:
    """A picture (width, height) without a loss."""
    pixels = random_frames(1, seed, max(size))[0].numpy()[: size[1], : size[0]]
    Image.fromarray(pixels).save(path)
    return path


def put(pipeline: Any, folder: Path) -> Path:
    """A plain adapter for a pipeline in a folder, its encoder beside it and two pictures in "pictures"."""
    image_encoder().save_pretrained(folder / "image_encoder")
    save_file(adapter(pipeline.unet, "plain"), folder / "adapter.safetensors")
    (folder / "pictures").mkdir()
    picture(folder / "pictures" / "dawn.png", 1)
    picture(folder / "pictures" / "dusk.png", 2, (64, 120))
    return folder / "adapter.safetensors"


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def repository(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder, family): "model", and "adapters" and "pictures", the former as h94/IP-Adapter has them."""
    family = request.param
    pipeline = PIPELINES[family]()
    folder = tmp_path_factory.mktemp(family)
    pipeline.save_pretrained(folder / "model")
    place = folder / "adapters" / ("models" if family == "sd15" else "sdxl_models")
    image_encoder().save_pretrained(place / "image_encoder")
    for kind, end in (("plain", ""), ("plus", "-plus"), ("full", "-full-face")):
        name = KINDS[family].replace("adapter", f"adapter{end}")
        save_file(adapter(pipeline.unet, kind), place / f"{name}.safetensors")
    (folder / "pictures").mkdir()
    picture(folder / "pictures" / "dawn.png", 1)
    picture(folder / "pictures" / "dusk.png", 2, (64, 120))
    return folder, family


def place(repository: tuple[Path, str], kind: str = "plain") -> Path:
    folder, family = repository
    end = {"plain": "", "plus": "-plus", "full": "-full-face"}[kind]
    name = KINDS[family].replace("adapter", f"adapter{end}") + ".safetensors"
    return folder / "adapters" / ("models" if family == "sd15" else "sdxl_models") / name


def load(repository: tuple[Path, str], kind: str = "plain", backend: str = "eager", **more: Any) -> Model:
    folder, _ = repository
    given = {"adapter": place(repository, kind), "references": [folder / "pictures"], **more}
    return load_model(folder / "model", CPU, torch.float32, backend, **given)


def alone(repository: tuple[Path, str], path: Path) -> ImagePrompt:
    """The adapter without its model."""
    return load_adapter(path, PIPELINES[repository[1]]().unet, torch.float32, ())


def expected(
    pipeline: Any, path: Path, image: Path, scale: float, latent: Tensor, params: Params, timesteps: list[int]
) -> Tensor:
    """What diffusers' pipeline with its adapter makes of the latent."""
    pipeline.load_ip_adapter(str(path.parent.parent), subfolder=path.parent.name, weight_name=path.name)
    pipeline.set_ip_adapter_scale(scale)
    return theirs(pipeline, latent, params, timesteps, ip_adapter_image=Image.open(image))


def painted(stream: Stream[int], params: Params, frame: Tensor) -> tuple[Tensor, list[int]]:
    plan = stream.plan(params)
    finished = stream.advance(stream.encode(frame), 0, plan)
    assert finished is not None
    return finished.latent_Fchw, [int(one.t_R[0]) for one in plan.passes]


@pytest.mark.parametrize("kind", ["plain", "plus", "full"])
def test_it_paints_what_diffusers_pipeline_paints_and_is_live(repository: tuple[Path, str], kind: str) -> None:
    folder, family = repository
    model = load(repository, kind)
    stream = model.stream(StreamConfig(SIDE_PX, SIDE_PX))
    frame = random_frames(1)
    latent = entering(PIPELINES[family](), frame[0])
    said = []
    for name, scale, guidance in (
        ("dawn.png", 0.8, "full"),
        ("dusk.png", 0.8, "full"),
        ("dusk.png", 0.3, "full"),
        ("dusk.png", 1.2, "none"),
        ("dawn.png", 0.0, "full"),
        ("dawn.png", 0.8, "full"),
    ):
        params = BASE.with_values(reference=name, reference_scale=scale, guidance=guidance)
        ours, timesteps = painted(stream, params, frame)
        there = expected(
            PIPELINES[family](), place(repository, kind), folder / "pictures" / name, scale, latent, params, timesteps
        )
        assert (ours - there).abs().max() < 1e-3, (name, scale)
        said.append(ours)
    assert torch.equal(said[0], said[-1])
    for one, other in ((0, 1), (1, 2), (0, 4)):
        assert (said[one] - said[other]).abs().max() > 0.05
    assert model.pictures is not None and model.pictures.encodings == 2


def test_with_a_lora_and_a_controlnet_beside_it(repository: tuple[Path, str], tmp_path: Path) -> None:
    from tests.core.test_control import controlnet

    folder, family = repository
    pipeline = PIPELINES[family]()
    made = layers(pipeline, 1)
    lora = saved(kohya(made, alpha=3.0), tmp_path / "style.safetensors")
    controlnet(pipeline, 31).save_pretrained(tmp_path / "net")
    model = load(repository, loras=[lora], controls=[("colour", tmp_path / "net")])
    stream = model.stream(StreamConfig(SIDE_PX, SIDE_PX))
    frame = random_frames(1)
    params = BASE.with_values(lora_1=0.7, reference_scale=0.8, control_1=0.0)
    ours, timesteps = painted(stream, params, frame)
    latent = entering(pipeline, frame[0])
    image = folder / "pictures" / "dawn.png"
    there = expected(merged(pipeline, (made, 0.7)), place(repository), image, 0.8, latent, params, timesteps)
    assert (ours - there).abs().max() < 1e-3
    # ControlNets read the text alone, whatever picture there is.
    both = params.with_values(control_1=0.8)
    assert (painted(stream, both, frame)[0] - ours).abs().max() > 0.05
    plain = load((folder, family), controls=[("colour", tmp_path / "net")], adapter=None, loras=[lora])
    beside = plain.stream(StreamConfig(SIDE_PX, SIDE_PX))
    without = painted(beside, both, frame)[0]
    assert (painted(stream, both.with_values(reference_scale=0.0), frame)[0] - without).abs().max() < 1e-5


@pytest.mark.parametrize("backend", [name for name, entry in BACKENDS.items() if entry.measured])
def test_every_back_end_follows_without_making_its_network_anew(repository: tuple[Path, str], backend: str) -> None:
    if not BACKENDS[backend].dtypes(CPU):
        pytest.skip(f"{backend} is not available here")
    frames = random_frames(3)
    model = load(repository, backend=backend)
    twin = load(repository).stream(StreamConfig(SIDE_PX, SIDE_PX), cache_text=False)
    stream = model.stream(StreamConfig(SIDE_PX, SIDE_PX))
    params = BASE.with_values(mode="throughput")
    stream.step(frames[:1], 0, stream.plan(params))
    made, last = set(model.calls), None
    for name, scale in (("dawn.png", 0.0), ("dawn.png", 1.5), ("dusk.png", 0.7)):
        changed = params.with_values(reference=name, reference_scale=scale)
        ours, plain = (
            [one.advance(one.encode(frame[None]), i, one.plan(changed)) for i, frame in enumerate(frames)][-1]
            for one in (stream, twin)
        )
        assert ours is not None and plain is not None
        assert (ours.latent_Fchw - plain.latent_Fchw).abs().max() < 1e-3
        assert last is None or (ours.latent_Fchw - last).abs().max() > 0.05
        last = ours.latent_Fchw
    assert set(model.calls) == made


def test_the_prompts_are_not_encoded_again_and_the_bank_works_beside_it(repository: tuple[Path, str]) -> None:
    model = load(repository)
    stream = model.stream(StreamConfig(SIDE_PX, SIDE_PX))
    frame = random_frames(1)
    painted(stream, BASE.with_values(temporal="bank"), frame)
    denoiser: Any = stream._denoiser
    projections = denoiser.projections
    for scale in (0.1, 0.2):
        painted(stream, BASE.with_values(temporal="bank", reference_scale=scale, reference="dusk.png"), frame)
    assert denoiser.projections == projections


def test_without_a_picture_the_model_is_as_without_an_adapter(repository: tuple[Path, str]) -> None:
    folder, _ = repository
    frame = random_frames(1)
    plain = load_model(folder / "model", CPU, torch.float32, "eager")
    said = [
        painted(model.stream(StreamConfig(SIDE_PX, SIDE_PX)), BASE.with_values(reference_scale=1.5), frame)[0]
        for model in (plain, load(repository, references=()), load(repository))
    ]
    assert torch.allclose(said[0], said[1], atol=1e-5)
    assert (said[0] - said[2]).abs().max() > 0.05


def test_a_folder_stands_for_the_plain_adapter_of_the_family(repository: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = repository
    for given in (folder / "adapters", place(repository).parent):
        assert alone(repository, given).name == place(repository).stem
    only = tmp_path / "mine"
    only.mkdir()
    shutil.copy(place(repository, "plus"), only / "mine.safetensors")
    shutil.copytree(place(repository).parent / "image_encoder", only / "image_encoder")
    assert alone(repository, only).name == "mine"
    shutil.copy(place(repository, "full"), only / "other.safetensors")
    with pytest.raises(ModelError, match="several IP-Adapters.*; give one of mine.safetensors, other.safetensors"):
        alone(repository, only)


def test_an_encoder_is_found_by_its_width_beside_the_other_adapters(
    repository: tuple[Path, str], tmp_path: Path
) -> None:
    """As for ip-adapter_sdxl_vit-h, which stands beside an encoder that is not its own."""
    ours = tmp_path / "sdxl_models"
    ours.mkdir()
    shutil.copy(place(repository), ours / "ip-adapter_sdxl_vit-h.safetensors")
    image_encoder(51, projected=80).save_pretrained(ours / "image_encoder")
    with pytest.raises(ModelError, match=r"wants an image encoder of projection_dim 48 .*image_encoder gives 80"):
        alone(repository, ours / "ip-adapter_sdxl_vit-h.safetensors")
    image_encoder().save_pretrained(tmp_path / "models" / "image_encoder")
    alone(repository, ours / "ip-adapter_sdxl_vit-h.safetensors")


def test_what_is_no_adapter_of_the_model_is_refused(repository: tuple[Path, str], tmp_path: Path) -> None:
    good = load_file(place(repository))
    image_encoder().save_pretrained(tmp_path / "image_encoder")
    first = "ip_adapter.1.to_k_ip.weight"

    def file(name: str, weights: dict[str, Tensor]) -> Path:
        return saved(weights, tmp_path / f"{name}.safetensors")

    fewer = {name: weight for name, weight in good.items() if not name.startswith("ip_adapter.3.")}
    (tmp_path / "pickle.bin").write_bytes(b"\x80\x04.")
    (tmp_path / "cut.safetensors").write_bytes(place(repository).read_bytes()[:-100])
    (tmp_path / "empty").mkdir()
    other = adapter(PIPELINES["sd21"]().unet, "plain")
    for path, words in (
        (tmp_path / "nothing.safetensors", "there is no IP-Adapter file .*nothing.safetensors"),
        (tmp_path / "pickle.bin", "pickle.bin is no .safetensors file, the only kind of IP-Adapter that is read"),
        (tmp_path / "cut.safetensors", "is a damaged .safetensors file"),
        (tmp_path / "empty", "holds no IP-Adapter"),
        (
            file("other", other),
            "another family: it(s layers take 128 values| has 4 cross-attention layers)",
        ),
        (file("fewer", fewer), "was made for another family: it has . cross-attention layers, this model"),
        (file("nan", {**good, first: good[first] * float("nan")}), "to_k_ip.weight hold values that are no"),
        (file("lora", {"lora_unet_x.lora_down.weight": torch.zeros(1)}), "is no IP-Adapter that is known here"),
        (file("half", {n: w for n, w in good.items() if n != "image_proj.norm.bias"}), "is no whole IP-Adapter"),
        (file("new", {**good, "ip_adapter.1.to_q_ip.weight": torch.ones(1)}), r"\(ip_adapter.1.to_q_ip.weight\)"),
    ):
        with pytest.raises(ModelError, match=words):
            alone(repository, path)


def test_rows_of_which_nothing_is_said_are_of_the_prompt(repository: tuple[Path, str]) -> None:
    """As whoever measures a model asks for them."""
    model = load(repository)
    denoiser = model.denoiser(model.latent_shape(SIDE_PX, SIDE_PX))
    prompts = [denoiser.prompt(model.text.embed("a house"))] * 2
    told = denoiser.rows(prompts, [Row(stage, 0, POSITIVE) for stage in range(2)], BASE)
    untold = denoiser.rows(prompts)
    assert all(len(layer) == 4 for layer in untold.keys_values)
    for ours, theirs_ in zip(untold.keys_values, told.keys_values, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs_, strict=True))


FACES = {
    "faceid": ("image_proj.proj.0.weight", "image_proj.proj.2.weight", "image_proj.norm.weight"),
    "faceid-plusv2": (
        "image_proj.proj.0.weight",
        "image_proj.norm.weight",
        "image_proj.perceiver_resampler.proj_in.weight",
    ),
    "faceid-portrait": ("image_proj.proj.0.weight", "image_proj.proj.2.weight", "image_proj.norm.weight"),
}
"""Weights of the published kinds for faces; all but the last change the U-Net by LoRAs, too."""


@pytest.mark.parametrize("kind", FACES)
def test_adapters_for_faces_are_refused_with_what_is_missing(
    repository: tuple[Path, str], tmp_path: Path, kind: str
) -> None:
    weights = {name: weight for name, weight in load_file(place(repository)).items() if name.startswith("ip_adapter.")}
    weights |= dict.fromkeys(FACES[kind], torch.ones(8, 8))
    if kind != "faceid-portrait":
        weights |= {f"ip_adapter.0.to_q_lora.{way}.weight": torch.ones(8, 8) for way in ("down", "up")}
    path = tmp_path / f"{kind}.safetensors"
    save_file({name: weight.clone() for name, weight in weights.items()}, path)
    with pytest.raises(ModelError, match=rf"{kind}.* is an IP-Adapter FaceID, .* insightface's models .*; use a plain"):
        alone(repository, path)


@pytest.mark.parametrize("kind", FACES)
def test_adapters_for_faces_are_told_in_the_pickles_that_they_are_published_as(
    repository: tuple[Path, str], tmp_path: Path, kind: str
) -> None:
    """Not to get them as .safetensors files, which would be refused as well; a pickle is not run for that."""
    parts: dict[str, dict[str, Any]] = {"image_proj": {}, "ip_adapter": {"1.to_k_ip.weight": torch.ones(8, 8)}}
    if kind != "faceid-portrait":
        parts["ip_adapter"]["0.to_q_lora.down.weight"] = torch.ones(8, 8)
    parts["image_proj"] = {name.removeprefix("image_proj."): torch.ones(8, 8) for name in FACES[kind]}
    parts["image_proj"]["run"] = Runs()
    path = tmp_path / f"{kind}.bin"
    torch.save(parts, path)
    with pytest.raises(ModelError, match="is an IP-Adapter FaceID, .* use a plain"):
        alone(repository, path)
    parts["image_proj"] = {"proj.weight": torch.ones(8, 8), "norm.weight": torch.ones(8), "run": Runs()}
    del parts["ip_adapter"]
    torch.save(parts, path)
    for file in (path, tmp_path / "none.bin"):
        file.touch()
        with pytest.raises(ModelError, match="is no .safetensors file, the only kind"):
            alone(repository, file)


class Runs:
    """Says so when a pickle of it is run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("the pickle was run",)


def test_an_encoder_that_is_none_is_refused(repository: tuple[Path, str], tmp_path: Path) -> None:
    path = tmp_path / "models" / "a.safetensors"
    path.parent.mkdir()
    shutil.copy(place(repository), path)
    with pytest.raises(ModelError, match=r"wants an image encoder .* image_encoder beside it \(there is none"):
        alone(repository, path)
    encoder = shutil.copytree(place(repository).parent / "image_encoder", path.parent / "image_encoder")
    weights = load_file(encoder / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] * float("nan")}, encoder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="the weights hold values that are no numbers"):
        alone(repository, path)
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps({**config, "model_type": "siglip_vision_model"}))
    with pytest.raises(ModelError, match="model_type 'siglip_vision_model' is not supported"):
        alone(repository, path)
    for file in encoder.glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    (encoder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="holds no .safetensors file"):
        alone(repository, path)


def test_a_picture_that_is_none_is_refused_and_the_stream_goes_on(repository: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("no picture")
    good = picture(tmp_path / "good.png", 3)
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    model = load(repository, references=[good, tmp_path])
    stream = model.stream(StreamConfig(SIDE_PX, SIDE_PX))
    frame = random_frames(1)
    before, _ = painted(stream, BASE, frame)
    for name, words in (
        ("words.png", "words.png cannot be read as a picture"),
        ("cut.png", "cut.png cannot be read as a picture"),
        ("other.png", "no reference picture 'other.png' here; use one of as started, good.png"),
        ("../secret.png", "no reference picture"),
    ):
        with pytest.raises(PictureError, match=words):
            stream.plan(BASE.with_values(reference=name))
        assert torch.equal(painted(stream, BASE, frame)[0], before)
    # Once seen, it need not be there any more; a new one under its name is seen, and what is none leaves it as it was.
    assert model.pictures is not None
    seen = model.pictures.tokens("good.png")
    good.unlink()
    assert torch.equal(model.pictures.tokens("good.png"), seen)
    picture(good, 4)
    changed = model.pictures.tokens("good.png")
    assert (changed - seen).abs().max() > 0.1
    good.write_text("no picture")
    assert torch.equal(model.pictures.tokens("good.png"), changed)


def test_pictures_are_read_as_they_look(tmp_path: Path) -> None:
    seen = np.zeros((4, 6, 4), np.uint8)
    seen[..., 0] = 200
    seen[:, :3, 3] = 255
    Image.fromarray(seen).save(tmp_path / "cut_out.png")
    assert np.asarray(read(tmp_path / "cut_out.png"))[0, :, 0].tolist() == [200] * 3 + [0] * 3
    Image.fromarray(np.full((4, 6), 40000, np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(read(tmp_path / "deep.png"))[0, 0].tolist() == [40000 >> 8] * 3
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read(tmp_path / "turned.jpg").size == (4, 8)
    (tmp_path / "notes.txt").write_text("x")
    assert list(named([tmp_path])) == ["as started", "cut_out.png", "deep.png", "turned.jpg"]
    assert named([]) == {"as started": None}
