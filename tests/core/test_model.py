"""Model folders from elsewhere: what loads, and that whatever does not is named before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.libraries import AutoencoderKL
from core.model import ModelError, check_folder, load_model
from core.params import Params
from core.stream import StreamConfig
from tests.random_model import SCHEDULER, SIZE_PX, TOKENS, random_frames, random_parts

CPU = torch.device("cpu")


def save(folder: Path, vae=None) -> None:
    unet, tiny_vae, encoder, tokenizer = random_parts()
    for name, part in (("unet", unet), ("vae", vae or tiny_vae), ("text_encoder", encoder), ("tokenizer", tokenizer)):
        part.save_pretrained(folder / name)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "whole"
    save(folder)
    return folder


def weights_of(part: Path) -> Path:
    return next(part.glob("*.safetensors"))


def rewrite(path: Path, change) -> None:
    """The weights file after `change`, which gets {name: tensor} and returns the same."""
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def set_value(path: Path, name: str, value) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


def picture(folder: Path, backend: str | None = None) -> torch.Tensor:
    stream = load_model(folder, CPU, torch.float32, backend).stream(StreamConfig(SIZE_PX, SIZE_PX))
    finished = stream.step(random_frames(1), 0, stream.plan(Params(prompt="red ball", steps=1)))
    assert finished is not None
    return finished.frame_FHWC


def test_a_whole_folder_loads(whole):
    check_folder(whole)
    assert picture(whole).shape == (1, SIZE_PX, SIZE_PX, 4)


PARTS = ("unet", "vae", "text_encoder")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("change", ["replaced", "cut", "gone"])
def test_a_folder_that_changes_while_it_is_loaded_is_refused(tmp_path, whole, monkeypatch, part, change):
    """As where a download or a training writes into it: the parts that came before and those after do not belong
    together, whether they fit or not."""
    folder = shutil.copytree(whole, tmp_path / "model")
    file = weights_of(folder / part)

    def changed_meanwhile(checked, prediction=None):
        check_folder(checked, prediction)
        if change == "gone":
            file.unlink()
        elif change == "cut":
            file.write_bytes(file.read_bytes()[:100])
        else:
            rewrite(file, lambda weights: {name: weight * 0.5 for name, weight in weights.items()})

    monkeypatch.setattr("core.model.check_folder", changed_meanwhile)
    with pytest.raises(ModelError, match=r"^what was being loaded changed meanwhile \(.*; load it again when"):
        load_model(folder, CPU, torch.float32)


def test_what_lies_beside_a_model_may_change_while_it_is_loaded(tmp_path, whole, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "model")

    def noted_meanwhile(checked, prediction=None):
        check_folder(checked, prediction)
        (folder / "events.log").write_text("step 3")

    monkeypatch.setattr("core.model.check_folder", noted_meanwhile)
    load_model(folder, CPU, torch.float32)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: dict(list(weights.items())[1:]), "1 of the weights .* missing"),
        (lambda weights: {k: v[:1].clone() if v.ndim > 1 else v for k, v in weights.items()}, "another shape"),
        (lambda weights: {k: torch.full_like(v, torch.nan) for k, v in weights.items()}, "no numbers"),
    ],
    ids=["missing", "shape", "nan"],
)
def test_weights_that_do_not_fit_are_never_filled_in(tmp_path, whole, part, change, message):
    """The loaders would give random values to what is missing, and the picture would be noise without a word."""
    folder = shutil.copytree(whole, tmp_path / "model")
    rewrite(weights_of(folder / part), change)
    with pytest.raises(ModelError, match=f"{part}: .*{message}.*restore"):
        load_model(folder, CPU, torch.float32)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("text", ["[1, 2]", "3", "[" * 100_000])
def test_settings_that_are_none_are_named(tmp_path, whole, part, text):
    folder = shutil.copytree(whole, tmp_path / "model")
    (folder / part / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json (holds no settings|cannot be read)"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("unet/config.json", "cross_attention_dim", None),
        ("unet/config.json", "sample_size", None),
        ("unet/config.json", "class_embed_type", "identity"),
        ("unet/config.json", "norm_num_groups", 0),
        ("vae/config.json", "_class_name", ["AutoencoderTiny"]),
        ("vae/config.json", "scaling_factor", None),
        ("vae/config.json", "scaling_factor", 0),
        ("text_encoder/config.json", "hidden_size", "wide"),
        ("scheduler/scheduler_config.json", "prediction_type", ["epsilon"]),
        ("scheduler/scheduler_config.json", "beta_start", "small"),
        ("scheduler/scheduler_config.json", "beta_end", float("nan")),
        ("scheduler/scheduler_config.json", "num_train_timesteps", None),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**12),
        ("tokenizer/tokenizer_config.json", "model_max_length", "long"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named(tmp_path, whole, file, name, value):
    folder = shutil.copytree(whole, tmp_path / "model")
    set_value(folder / file, name, value)
    with pytest.raises(ModelError, match=r"restore|use "):
        load_model(folder, CPU, torch.float32)


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}], ids=["plain", "sharded"])
@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_weights_of_a_variant_alone_load(tmp_path, whole, shards, variant):
    """As folders are published: the files of every part carry fp16 in their names."""
    folder = shutil.copytree(whole, tmp_path / "model")
    for name, part in zip(PARTS, random_parts(), strict=False):
        shutil.rmtree(folder / name)
        part.save_pretrained(folder / name, variant=variant, **shards)
        assert all(f".{variant}" in path.name for path in (folder / name).glob("*.safetensors"))
    assert torch.equal(picture(folder, "eager"), picture(whole, "eager"))


def test_a_tokenizer_without_words_is_named(tmp_path, whole):
    """It would load as an empty one, and every prompt would mean the same."""
    folder = shutil.copytree(whole, tmp_path / "model")
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer holds no vocabulary"):
        check_folder(folder)


def test_folders_with_the_names_of_older_versions_load(tmp_path):
    """Stable Diffusion 1.5's own files: attention and text encoder under other names, the vocabulary in two files."""
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    folder = tmp_path / "model"
    save(folder, AutoencoderKL(block_out_channels=(8, 8, 8, 8), norm_num_groups=4, **kinds))
    expected = picture(folder, "eager")
    older = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}

    def old_names(weights):
        for new, old in older.items():
            weights = {k.replace(new, old) if ".attentions." in k else k: v for k, v in weights.items()}
        return weights

    rewrite(weights_of(folder / "vae"), old_names)
    assert any("query" in name for name in load_file(weights_of(folder / "vae")))
    positions = {"text_model.embeddings.position_ids": torch.arange(TOKENS)[None]}
    rewrite(
        weights_of(folder / "text_encoder"),
        lambda weights: {f"text_model.{k.removeprefix('text_model.')}": v for k, v in weights.items()} | positions,
    )
    vocabulary = random_parts()[3].get_vocab()
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"model_max_length": TOKENS}))
    assert torch.equal(picture(folder, "eager"), expected)
