"""The embedded model: its folder, its words, its recipe."""

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
from core.tiny.evaluate import HeldOut, edge_f1
from core.tiny.parts import SCHEDULER
from core.tiny.pool import FIRST_TRAINING_SEED, batch_at, build_pool, describe, stream_of
from core.tiny.stage import Levels, Progress, autocast
from core.tiny.train import Settings, _noised, _on_own_estimates, train
from core.tiny.vocabulary import STYLES, TOKENS, WORDS, build_tokenizer, merges
from core.world import COLOUR_NAMES, SHAPES, World, scenes_from_seeds
from core.world.scene import SLOT_SHAPES
from core.world.world import View

CPU = torch.device("cpu")
TOY = Settings(
    autoencoder_steps=2,
    autoencoder_scenes=1,
    autoencoder_looks=2,
    pool_scenes=4,
    pool_looks=3,
    small_steps=2,
    small_batch=2,
    full_steps=2,
    full_batch=2,
    tune_steps=2,
    tune_batch=6,
    checkpoint_s=0.0,
)


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


def test_edge_agreement_of_a_picture_with_itself_and_with_noise():
    picture = World(seed=1).render(time_s=0.0, width=128, height=128, style="grey")["colour"]
    assert edge_f1(picture, picture) == 1.0
    noise = torch.randint(0, 256, picture.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert edge_f1(picture, noise) < 0.55
    assert edge_f1(picture, torch.roll(picture, 1, dims=1)) > 0.95


def small_pool():
    return build_pool(0, 4, 3, lambda x: torch.nn.functional.avg_pool2d(x, 8)[:, [0, 1, 2, 0]], lambda message: None)


def test_batches_depend_on_the_step_alone_and_their_prompts_fit():
    pool = small_pool()
    options = {"cells": 8, "pair_share": 0.5, "pair_t": (200, 820), "drop_share": 0.1, "timesteps": range(1000)}
    first, again = (batch_at(pool, 7, 3, 16, **options) for _ in range(2))
    assert torch.equal(first.source, again.source) and first.prompts == again.prompts
    assert batch_at(pool, 7, 4, 16, **options).prompts != first.prompts
    assert torch.equal(first.source[~first.pair], first.target[~first.pair])
    assert all(200 <= int(t) < 820 for t in first.t[first.pair])
    assert all(p for p, pair in zip(first.prompts, first.pair, strict=True) if pair)
    text = describe(pool.scenes.present[0], pool.colour[0, 1], "neon", stream_of(1))
    assert "neon" in text


def test_the_paired_target_leads_to_the_other_look():
    """x0 = a x - b v of the regression target is the target's latent, whatever was noised."""
    batch = batch_at(
        small_pool(), 0, 0, 32, cells=16, pair_share=0.5, pair_t=(200, 820), drop_share=0.0, timesteps=range(1000)
    )
    levels = Levels(CPU)
    x, v, t_B, _ = _noised(batch, levels, CPU)
    a, b = levels(t_B)
    torch.testing.assert_close(a * x - b * v, batch.target, atol=1e-4, rtol=1e-4)


def test_a_view_in_other_colours_is_that_of_the_recoloured_scenes():
    scenes, time_s = scenes_from_seeds([3, 4]), torch.tensor([0.5, 2.0])
    colour = (scenes.colour + 3) % len(COLOUR_NAMES)
    other = View(scenes, time_s, 32, 32).in_colours(colour)
    assert torch.equal(other.shade("toy"), View(replace(scenes, colour=colour), time_s, 32, 32).shade("toy"))
    assert not torch.equal(other.shade("toy"), View(scenes, time_s, 32, 32).shade("toy"))


def test_every_look_of_a_scene_has_its_own_colours_and_names_them():
    pool = small_pool()
    assert pool.objects.shape == (4, 16, 16) and 0 < float(pool.objects.mean()) < 1
    for row in range(4):
        assert len({tuple(c.tolist()) for c in pool.colour[row]}) == 3
        for look in range(3):
            words = describe(pool.scenes.present[row], pool.colour[row, look], "toy", stream_of(row, look))
            named = {COLOUR_NAMES.index(w) for w in words.replace(",", "").split() if w in COLOUR_NAMES}
            assert named and named <= set(pool.colour[row, look][pool.scenes.present[row]].tolist())
    by_shape = {(shape, int(c)) for shape, c in zip(SLOT_SHAPES, pool.colour[0, 1], strict=True)}
    assert len(by_shape) == len(SHAPES)


def test_the_models_own_estimates_replace_sources_and_are_noised_less():
    class Echo:
        def __call__(self, x, t_B, prompts):
            assert len(x) == len(t_B) == len(prompts)
            return torch.zeros_like(x)  # then x0 = a x

    options = {"cells": 16, "pair_share": 0.5, "pair_t": (200, 420), "drop_share": 0.0, "timesteps": range(1000)}
    batch = batch_at(small_pool(), 0, 0, 16, **options)
    settings = replace(TOY, own_share=0.25, own_t_low=40)
    own = _on_own_estimates(Echo(), batch, Levels(CPU), settings, CPU)
    changed = [i for i in range(16) if not torch.equal(own.source[i], batch.source[i])]
    assert changed == torch.nonzero(batch.pair)[:4, 0].tolist()
    assert all(40 <= int(own.t[i]) <= int(batch.t[i]) for i in changed)
    assert torch.equal(own.target, batch.target) and own.prompts == batch.prompts
    kept = [i for i in range(16) if i not in changed]
    assert torch.equal(own.t[kept], batch.t[kept])


@pytest.mark.parametrize("steps_until", [5, 7])
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, steps_until):
    """Interrupted between the painter's two resolutions, and in the tuning phase."""

    def run(work, out, settings):
        train(settings, tmp_path / work, tmp_path / out, CPU, lambda message: None)
        return {p.name: p.read_bytes() for p in (tmp_path / out).rglob("*.safetensors")}

    straight = run("a", "a_out", TOY)
    assert len(straight) == 2 or len(straight) == 3

    class Interrupted(Exception):
        pass

    taken = []
    original_follow = Progress.follow

    def stop_in_the_middle(self, decay):
        original_follow(self, decay)
        taken.append(self.step)
        if len(taken) == steps_until:
            raise Interrupted

    Progress.follow = stop_in_the_middle
    try:
        with pytest.raises(Interrupted):
            train(TOY, tmp_path / "b", tmp_path / "b_out", CPU, lambda message: None)
    finally:
        Progress.follow = original_follow
    assert run("b", "b_out", TOY) == straight


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
def test_a_damaged_model_is_named_with_the_mend(tmp_path, damage, message):
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
