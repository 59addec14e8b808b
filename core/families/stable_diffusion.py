"""Stable Diffusion 1.x and 2.x, and whatever is shaped like them: one U-Net, one autoencoder, one text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core.autoencoders import AUTOENCODERS
from core.denoiser import UnetCall
from core.families.family import Encoder, Family, Parts
from core.folder import ModelError, network, part, read_json
from core.libraries import CLIPTextModel, CLIPTokenizer, UNet2DConditionModel
from core.text import TextConditioner

_LEAST_SCALE_WIDTH = 4
"""Of the embedding that tells a U-Net the guidance scale: two frequencies."""


def check_shape(folder: Path, unet: Any, vae: Any, encoders: Sequence[Encoder], shape: str) -> None:
    """Raise `ModelError` for parts that this project cannot run, or that do not belong together. shape: what they
    should be, in words."""
    config = unet.config
    fits = (
        config.in_channels == config.out_channels == vae.config.latent_channels
        and config.cross_attention_dim == sum(encoder.network.config.hidden_size for encoder in encoders)
        and all(len(encoder.tokenizer) <= encoder.network.config.vocab_size for encoder in encoders)
        and all(isinstance(encoder.tokenizer.model_max_length, int) for encoder in encoders)
        and isinstance(config.sample_size, int)
    )
    if not fits:
        raise ModelError(f"{folder} is not shaped like {shape}; use a model of that shape")
    told = config.time_cond_proj_dim
    if told is not None and not (isinstance(told, int) and told >= _LEAST_SCALE_WIDTH):
        raise ModelError(f"{folder / 'unet'}: time_cond_proj_dim {told!r} is no width; use a model with 4 or more")
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor
    if not isinstance(scale, (int, float)) or not scale > 0 or not isinstance(shift, (int, float, type(None))):
        raise ModelError(f"{folder / 'vae'}: scaling_factor {scale!r}, shift_factor {shift!r} are no scale; restore it")


def unet_and_autoencoder(folder: Path, dtype: torch.dtype, autoencoder: torch.dtype | None = None) -> tuple[Any, Any]:
    """Of a folder that was found whole. autoencoder: its dtype, where that is another one."""
    kind = read_json(folder / "vae" / "config.json").get("_class_name", "AutoencoderKL")
    unet = network(folder / "unet", UNet2DConditionModel, torch_dtype=dtype, low_cpu_mem_usage=False)
    return unet, network(
        folder / "vae", AUTOENCODERS[kind].kind, torch_dtype=autoencoder or dtype, low_cpu_mem_usage=False
    )


def text_encoder(folder: Path, encoder: str, kind: Any, tokenizer: str, dtype: torch.dtype) -> Encoder:
    """Likewise. encoder, tokenizer: names of folders in it. kind: the encoder's class."""
    return Encoder(network(folder / encoder, kind, dtype=dtype), part(folder / tokenizer, CLIPTokenizer))


def _load(folder: Path, dtype: torch.dtype) -> Parts:
    unet, vae = unet_and_autoencoder(folder, dtype)
    encoder = text_encoder(folder, "text_encoder", CLIPTextModel, "tokenizer", dtype)
    check_shape(folder, unet, vae, [encoder], "Stable Diffusion 1.x or 2.x")
    return Parts(unet, vae, (encoder,))


FAMILY = Family(
    load=_load,
    text=lambda encoders, device: TextConditioner(encoders[0].tokenizer, encoders[0].network, device),
    call=UnetCall,
)
