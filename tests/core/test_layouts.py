"""What is given for a model and is none gets a sentence that says what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.layouts import refuse_other_layouts
from core.model import ModelError, check_folder, load_model
from core.tiny import WEIGHTS


def weights(path: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.zeros(4)}, path)
    return path


def bytes_in(path: Path) -> Path:
    path.write_bytes(b"PK\x03\x04 no tensors")
    return path


def cache(folder: Path) -> Path:
    (folder / "snapshots" / ("0" * 40) / "vae").mkdir(parents=True)
    return folder


def part_of_model(folder: Path) -> Path:
    part = folder / "some" / "unet"
    part.mkdir(parents=True)
    (part / "config.json").write_text("{}")
    (folder / "some" / "model_index.json").write_text("{}")
    return part


def folders(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda top: weights(top / "dreamy_8.safetensors", "model.diffusion_model.x"),
            "holds a U-Net and no text encoder that is known here",
        ),
        (lambda top: weights(top / "style.safetensors", "lora_unet_down.lora_down.weight"), "is a LoRA file"),
        (lambda top: weights(top / "vae.safetensors", "decoder.conv_in.weight"), "a part of a model; give the whole"),
        (lambda top: bytes_in(top / "cut.safetensors"), "a damaged .safetensors file"),
        (lambda top: bytes_in(top / "v1-5.ckpt"), "Python pickles, which can run programs"),
        (lambda top: bytes_in(top / "flux.gguf"), "a GGUF file, which is not supported"),
        (lambda top: bytes_in(top / "notes.txt"), "a file and no model folder"),
        (lambda top: weights(top / "lcm" / "pytorch_lora_weights.safetensors", "x.lora_A").parent, "is a LoRA: it"),
        (
            lambda top: weights(top / "set" / "a.safetensors", "model.diffusion_model.x").parent,
            "in it, a.safetensors is a whole model in a single file: give that",
        ),
        (lambda top: cache(top / "models--someone--sd-turbo"), "none in it is whole"),
        (lambda top: folders(top / "models--someone--begun", "refs", "blobs"), "none in it is whole"),
        (lambda top: top / "dreamy_9.safetensors", "there is no .*; a model is a folder"),
        (part_of_model, "is one part of a model; give the folder above it"),
        (lambda top: folders(top / "flux", "transformer", "vae"), "a model with a transformer"),
        (lambda top: Path("stabilityai/sd-turbo"), "run.py fetch stabilityai/sd-turbo"),
        (lambda top: folders(top / "ip-adapter", "models", "sdxl_models"), "has no folder 'unet'"),
        (lambda top: top / "nothing" / "here" / "at" / "all", "there is no model folder"),
        (lambda top: folders(top / "pictures", "summer"), "has no folder 'unet'"),
    ],
)
def test_what_is_no_model_folder_is_named(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    path = make(tmp_path)
    with pytest.raises(ModelError, match=words):
        check_folder(path)
    with pytest.raises(ModelError, match=words):
        load_model(path, torch.device("cpu"), torch.float32, "eager")


def test_a_model_folder_is_left_to_its_family(tmp_path: Path) -> None:
    refuse_other_layouts(WEIGHTS)
    refuse_other_layouts(folders(tmp_path / "half", "unet"))
    with pytest.raises(ModelError, match="has no folder 'vae'"):
        check_folder(tmp_path / "half")
