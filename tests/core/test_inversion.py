"""Textual inversion embeddings of every layout, against diffusers' own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.families.family import Encoder
from core.inversion import EmbeddingFile, Taught, teach
from core.model import Model, ModelError, load_model
from core.params import Params
from tests.core.test_lora import entering, kohya, layers, merged, painted, saved
from tests.random_model import random_frames
from tests.tiny_pipelines import PIPELINES, theirs

CPU = torch.device("cpu")
BASE = Params(steps=2, strength=0.8, mode="latency", guidance="full", guidance_scale=2.0)


def vectors(count: int, width: int, seed: int = 70) -> Tensor:
    return 2.0 * torch.randn((count, width), generator=torch.Generator().manual_seed(seed))


def load(folder: Path, *embeddings: Path, **more: Any) -> Model:
    return load_model(folder, CPU, torch.float32, "eager", embeddings=embeddings, **more)


def ours(model: Model, prompt: str, **params: Any) -> tuple[Tensor, list[int]]:
    return painted(model, BASE.with_values(prompt=prompt, **params), random_frames(1))


def test_words_of_both_layouts_paint_what_diffusers_paints(tmp_path: Path) -> None:
    pipeline = PIPELINES["sd15"]()
    pipeline.save_pretrained(tmp_path / "model")
    many = saved({"emb_params": vectors(3, 64)}, tmp_path / "Bad-Hands 5.safetensors")
    one = saved({"<cat-toy>": vectors(1, 64, 71)[0]}, tmp_path / "learned.safetensors")
    model = load(tmp_path / "model", many, one)
    pipeline.load_textual_inversion(str(many.parent), weight_name=many.name, token="handy")
    pipeline.load_textual_inversion(str(one.parent), weight_name=one.name)
    latent = entering(pipeline, random_frames(1)[0])
    plain, timesteps = ours(model, "a ball")
    for mine, same in (
        ("a Bad-Hands 5, ball", "a handy, ball"),
        ("bad-hands 5", "handy"),
        ("a <cat-toy> ball", "a <cat-toy> ball"),
        ("learned on bad-hands 5", "<cat-toy> on handy"),
        ("a ball", "a ball"),
    ):
        there = theirs(pipeline, latent, BASE.with_values(prompt=same, negative_prompt="<cat-toy>"), timesteps)
        painted_now, _ = ours(model, mine, negative_prompt="learned")
        assert (painted_now - there).abs().max() < 1e-3, mine
        assert (painted_now - plain).abs().max() > 0.05
    # Not within another word; and weighted as any words are.
    assert torch.equal(ours(model, "unlearned")[0], ours(load(tmp_path / "model"), "unlearned")[0])
    assert (ours(model, "(learned:1.5) ball")[0] - ours(model, "learned ball")[0]).abs().max() > 0.01


def test_both_encoders_of_xl_learn_a_word_and_a_lora_changes_them_beside_it(tmp_path: Path) -> None:
    pipeline = PIPELINES["sdxl"]()
    pipeline.save_pretrained(tmp_path / "model")
    both = {"clip_l": vectors(2, 64), "clip_g": vectors(2, 128, 72)}
    path = saved(both, tmp_path / "glowing.safetensors")
    made = layers(pipeline, 1)
    model = load(tmp_path / "model", path, loras=[saved(kohya(made, alpha=3.0), tmp_path / "style.safetensors")])
    there = merged(pipeline, (made, 0.5))
    there.load_textual_inversion({"x": both["clip_l"]}, token="glowing")
    there.load_textual_inversion(
        {"x": both["clip_g"]}, token="glowing", tokenizer=there.tokenizer_2, text_encoder=there.text_encoder_2
    )
    painted_now, timesteps = ours(model, "red glowing ball", lora_1=0.5)
    expected = theirs(
        there,
        entering(pipeline, random_frames(1)[0]),
        BASE.with_values(prompt="red glowing ball"),
        timesteps,
    )
    assert (painted_now - expected).abs().max() < 1e-3
    assert (painted_now - ours(model, "red ball", lora_1=0.5)[0]).abs().max() > 0.05


def test_the_end_of_a_text_is_found_by_encoders_of_old_files(tmp_path: Path) -> None:
    pipeline = PIPELINES["sdxl"]()
    said = []
    for eos in (pipeline.tokenizer_2.eos_token_id, 2):
        fresh = PIPELINES["sdxl"]()
        for part in fresh.text_encoder_2.modules():
            if hasattr(part, "eos_token_id"):
                part.eos_token_id = eos
        path = saved({"clip_l": vectors(1, 64), "clip_g": vectors(1, 128)}, tmp_path / "glowing.safetensors")
        pairs = [Encoder(fresh.text_encoder, fresh.tokenizer), Encoder(fresh.text_encoder_2, fresh.tokenizer_2)]
        _, second = teach([EmbeddingFile.of(path)], pairs)
        ids = second.tokenizer("a glowing ball", padding="max_length", max_length=16, return_tensors="pt").input_ids
        with torch.no_grad():
            said.append(second.network(ids).text_embeds)
    assert torch.equal(*said)


def test_what_is_no_embedding_of_the_model_is_refused(tmp_path: Path) -> None:
    pipeline = PIPELINES["sd15"]()
    encoders = [Encoder(pipeline.text_encoder, pipeline.tokenizer)]
    good = {"emb_params": vectors(2, 64)}
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04.")
    cut = saved(good, tmp_path / "cut.safetensors")
    cut.write_bytes(cut.read_bytes()[:-8])
    for name, weights, words in (
        ("wide", {"emb_params": vectors(1, 128)}, "its vectors are 128 wide, those of this model 64"),
        ("xl", {"clip_l": vectors(1, 64), "clip_g": vectors(1, 128)}, "are 64 and 128 wide, those of this model 64"),
        ("nan", {"emb_params": vectors(1, 64) * float("nan")}, "holds values that are no numbers"),
        ("two", {"a": vectors(1, 64), "b": vectors(1, 64)}, "is no embedding that is known here"),
        ("none", {"emb_params": torch.zeros(0, 64)}, "is no embedding that is known here"),
        ("deep", {"emb_params": torch.zeros(1, 2, 64)}, "is no embedding that is known here"),
        ("B", good, "'B' is a word that the model knows already; rename the file"),
        ("named", {"a": vectors(1, 64)}, "'a' is a word that the model knows already"),
    ):
        path = tmp_path / f"{name}.safetensors"
        save_file(weights, path)
        with pytest.raises(ModelError, match=words):
            teach([EmbeddingFile.of(path)], encoders)
    for path, words in (
        (tmp_path / "pickle.pt", "pickle.pt is no .safetensors file, the only kind of embedding that is read"),
        (cut, "is a damaged .safetensors file"),
        (tmp_path / "nothing.safetensors", "there is no embedding file"),
    ):
        with pytest.raises(ModelError, match=words):
            EmbeddingFile.of(path)
    (tmp_path / "other").mkdir()
    twice = [EmbeddingFile.of(saved(good, tmp_path / folder / "same.safetensors")) for folder in (".", "other")]
    with pytest.raises(ModelError, match="have the same name; rename one of them"):
        teach(twice, encoders)
    # Nothing was taught on the way.
    assert len(pipeline.tokenizer) == len(PIPELINES["sd15"]().tokenizer)
    assert not isinstance(teach([], encoders)[0].tokenizer, Taught)
