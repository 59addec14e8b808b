"""What a model family is: how its folders (`folders.FOLDERS`) become networks, and how its U-Net is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from core.denoiser import PlaneInput
from core.text import Text


class Encoder(NamedTuple):
    """A text encoder and its tokenizer."""

    network: Any
    tokenizer: Any


@dataclass(frozen=True)
class Parts:
    """The networks of a model, as they were loaded. overflows: the autoencoder does so in float16; see
    `autoencoder_dtype`."""

    unet: Any
    vae: Any
    encoders: tuple[Encoder, ...]
    overflows: bool = False


def autoencoder_dtype(dtype: torch.dtype, overflows: bool) -> torch.dtype:
    """What the autoencoder beside a U-Net of that dtype computes in: one that overflows in float16 in float32, as
    Stable Diffusion XL's own does, whose pictures would be black."""
    return torch.float32 if overflows and dtype == torch.float16 else dtype


class Network(Protocol):
    """A U-Net as a module of tensors alone: x_Rchw, t_R, the rows' embeddings, keys and values (k_RHND, v_RHND) per
    cross-attention layer or none, to (R, c, h, w). cross: the layers for which keys and values can be prepared."""

    cross: list[Any]


@dataclass(frozen=True)
class Family:
    """load(folder, dtype): the parts of a folder, checked; raises `core.folder.ModelError`. text(encoders, device): see
    `Text`. call(unet): see `Network`. planes(unet, latent): what the U-Net reads of a client's planes, for latents of
    shape (c, h, w); its call finds them among the embedding's others, by name."""

    load: Callable[[Path, torch.dtype], Parts]
    text: Callable[[Sequence[Encoder], torch.device], Text]
    call: Callable[[Any], Any]
    planes: Callable[[Any, tuple[int, int, int]], Mapping[str, PlaneInput]] = lambda unet, latent: {}
