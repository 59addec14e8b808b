"""The embedded model: its folder and its words."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from core.model import ModelError, load_model
from core.params import Params
from core.stream import StreamConfig
from core.tiny import WEIGHTS
from core.tiny.evaluate import ColourJudge, HeldOut, edge_f1, evaluate
from core.tiny.parts import SCHEDULER
from core.tiny.shards import FIRST_TRAINING_SEED
from core.tiny.stage import autocast
from core.tiny.vocabulary import TOKENS, WORDS, build_tokenizer, merges
from core.world import COLOUR_NAMES, STYLES, World, scenes_from_seeds
from core.world.world import View

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return load_model(WEIGHTS, CPU, torch.float32)


def test_the_folder_is_small_and_whole():
    files = [p for p in WEIGHTS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 16e6
    index = json.loads((WEIGHTS / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert json.loads((WEIGHTS / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")) == SCHEDULER
    assert {"recipe.json", "evaluation.json"} <= {p.name for p in files}


def test_every_word_is_one_token_and_any_text_tokenizes():
    tokenizer = build_tokenizer()
    for word in WORDS:
        assert len(tokenizer(word).input_ids) == 3, word
    assert len(merges()) < 400
    longest = ", ".join(f"{style} style, a red sphere" for style in STYLES)
    assert len(tokenizer(longest, max_length=TOKENS, truncation=True).input_ids) == TOKENS
    assert tokenizer("café ☃ zzz").input_ids[-1] == tokenizer.eos_token_id
    saved = load_model(WEIGHTS, CPU, torch.float32).text._tokenizer
    assert saved("neon style, red sphere").input_ids == tokenizer("neon style, red sphere").input_ids


def test_the_prompt_changes_the_picture_and_the_structure_stays(model):
    source = World(seed=5).render(time_s=1.0, width=128, height=128, style="grey")["colour"]
    stream = model.stream(StreamConfig(128, 128))
    pictures = {}
    for style in ("neon", "ice", "sunset"):
        plan = stream.plan(Params(prompt=f"{style} style, red sphere", mode="latency", steps=2))
        pictures[style] = stream.step(source[None], style, plan).frame_FHWC[0, ..., :3]
    means = {style: p.float().mean((0, 1)) for style, p in pictures.items()}
    assert means["neon"].mean() < means["ice"].mean()
    assert means["ice"][2] > means["ice"][0]
    assert means["sunset"][0] > means["sunset"][2]
    assert min(edge_f1(source, p) for p in pictures.values()) > 0.4


def test_unknown_words_and_long_prompts_do_no_harm(model):
    source = World(seed=5).render(time_s=1.0, width=128, height=128, style="grey")["colour"]
    stream = model.stream(StreamConfig(128, 128))
    for prompt in ("", "qwxz blorp ☃", "neon style " * 150):
        plan = stream.plan(Params(prompt=prompt, mode="latency", steps=1))
        picture = stream.step(source[None], 0, plan).frame_FHWC
        assert picture[..., :3].float().std() > 1.0


def test_evaluation_scenes_are_never_trained_on():
    held_out = HeldOut(2)
    assert FIRST_TRAINING_SEED > 100_000
    assert len(list(held_out.cases())) == 2 * len(STYLES)


def test_true_renders_score_as_the_ceiling_and_the_input_itself_has_all_edges_and_no_style():
    held_out = HeldOut(1)
    colours = ColourJudge(held_out)

    class Judge:
        def styles(self, picture_BHWC):
            return torch.tensor([0])

    truth, pictures = evaluate(held_out, lambda case: case.truth, Judge(), colours)
    assert truth.edges_by == truth.edges_truth_by and truth.edges_of_truth == 1.0 and truth.colours > 0.9
    assert truth.edges == pytest.approx(sum(truth.edges_by.values()) / len(STYLES)) and len(pictures) == len(STYLES)
    assert truth.style == pytest.approx(1 / len(STYLES)) and truth.style_by["grey"] == 1.0
    # A lattice is not in the grey input, so that even the truth falls short there.
    assert truth.edges_by["halftone"] < truth.edges_by["toy"] < truth.edges_by["grey"] == 1.0
    same, _ = evaluate(held_out, lambda case: case.source, Judge(), colours)
    assert same.edges == 1.0 and same.edges_truth == truth.edges and same.edges_of_truth > 1.0 and same.colours < 0.5


def test_edge_agreement_of_a_picture_with_itself_and_with_noise():
    picture = World(seed=1).render(time_s=0.0, width=128, height=128, style="grey")["colour"]
    assert edge_f1(picture, picture) == 1.0
    noise = torch.randint(0, 256, picture.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert edge_f1(picture, noise) < 0.55
    assert edge_f1(picture, torch.roll(picture, 1, dims=1)) > 0.95


def test_a_view_in_other_colours_is_that_of_the_recoloured_scenes():
    scenes, time_s = scenes_from_seeds([3, 4]), torch.tensor([0.5, 2.0])
    colour = (scenes.colour + 3) % len(COLOUR_NAMES)
    other = View(scenes, time_s, 32, 32).in_colours(colour)
    assert torch.equal(other.shade("toy"), View(replace(scenes, colour=colour), time_s, 32, 32).shade("toy"))
    assert not torch.equal(other.shade("toy"), View(scenes, time_s, 32, 32).shade("toy"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "holds no .safetensors"),
        (lambda folder: (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"junk"), "is damaged"),
        (lambda folder: (folder / "unet" / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "has no folder 'tokenizer'"),
        (lambda folder: (folder / "scheduler" / "scheduler_config.json").unlink(), "is missing"),
    ],
)
def test_a_damaged_model_is_named_with_the_fix(tmp_path, damage, message):
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS, folder)
    damage(folder)
    with pytest.raises(ModelError, match=message):
        load_model(folder, CPU, torch.float32)


def test_a_cut_weights_file_is_named(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS, folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match="is damaged"):
        load_model(folder, CPU, torch.float32)


def test_training_computes_in_bfloat16_only_where_the_processor_does(monkeypatch):
    for dtypes, enabled in (((torch.bfloat16, torch.float32), True), ((torch.float32,), False)):
        monkeypatch.setattr("core.tiny.stage.native_dtypes", lambda device, dtypes=dtypes: dtypes)
        with autocast(CPU):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if enabled else torch.float32)
