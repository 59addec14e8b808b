"""The architecture of the embedded model and its folder on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from core.tiny.vocabulary import END, START, TOKENS, build_tokenizer

PICTURE_PX = 128
LATENT_SCALE = 8
LATENT_CHANNELS = 16
TEXT_WIDTH = 96

SCHEDULER = {
    "_class_name": "LCMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 0,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "original_inference_steps": 50,
    "prediction_type": "sample",
    "timestep_scaling": 10.0,
}


def build_unet(side_px: int = PICTURE_PX) -> Any:
    """For pictures of about such a side. Two levels: convolutions on the full latent grid, self- and cross-attention on
    the halved one; nothing between the way down and the way up. The prompt as a whole scales and shifts every layer, as
    the timestep does: a style concerns every pixel, and by cross-attention alone it came through much later in
    training."""
    from core.libraries import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=side_px // LATENT_SCALE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(80, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )


def build_text_encoder(tokenizer: Any) -> Any:
    """A CLIP text model of two narrow layers for prompts of at most `TOKENS`."""
    from core.libraries import CLIPTextConfig, CLIPTextModel

    vocabulary = tokenizer.get_vocab()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=vocabulary[START],
            eos_token_id=vocabulary[END],
            pad_token_id=vocabulary[END],
        )
    )


def save_folder(
    folder: Path, unet: Any, vae: Any, encoder: Any, notes: Mapping[str, str], prediction: str = "sample"
) -> None:
    """Write the whole model folder, weights in float16. notes: further files by name. prediction: what the U-Net
    answers with, in diffusers' words. What is in the folder stays until all files are written beside it, and files of
    other names for good. Raises `OSError`."""
    from core.libraries import SafetensorError

    folder = folder.absolute()
    # Hosts look past folders whose names begin so.
    scratch = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        _write_folder(scratch, unet, vae, encoder, prediction)
        for name, text in notes.items():
            (scratch / name).write_text(text, encoding="utf-8")
        for path in sorted(path for path in scratch.rglob("*") if path.is_file()):
            target = folder / path.relative_to(scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    except SafetensorError as error:
        raise OSError(f"{folder}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_folder(folder: Path, unet: Any, vae: Any, encoder: Any, prediction: str) -> None:
    folder.mkdir(parents=True)
    unet.to(torch.float16).save_pretrained(folder / "unet")
    vae.to(torch.float16).save_pretrained(folder / "vae")
    config = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
    # diffusers writes where the weights once came from, and a derived entry of which it warns at every loading.
    for entry in ("_name_or_path", "block_out_channels"):
        config.pop(entry, None)
    (folder / "vae" / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    encoder.to(torch.float16).save_pretrained(folder / "text_encoder")
    build_tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({**SCHEDULER, "prediction_type": prediction}, indent=2) + "\n", encoding="utf-8"
    )
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        "scheduler": ["diffusers", "LCMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", type(vae).__name__],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
