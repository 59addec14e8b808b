"""Stable Diffusion XL and what is distilled from it (Turbo, Lightning, LCM): two text encoders, the picture's sizes.

SDXL (arXiv 2307.01952), sections 2.1 and 2.2: the penultimate layers of both encoders side by side are the tokens that
cross-attention reads; the second encoder's pooled output and the sizes of the picture, its original and its crop, go to
every residual block with the timestep. Here the picture was never cropped, nor larger than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from core.denoiser import UnetCall
from core.families.family import Encoder, Family, Parts, autoencoder_dtype
from core.families.stable_diffusion import check_shape, text_encoder, unet_and_autoencoder
from core.folder import ModelError, read_json
from core.libraries import CLIPTextModel, CLIPTextModelWithProjection
from core.text import Embedding, TextConditioner, encoded

POOLED = "pooled"
"""Among an embedding's others: what the second encoder says of the whole text."""
PIXELS = 8
"""Of a latent cell's side."""
SIZES = 6
"""Height and width of the original, top and left of the crop, height and width of the picture."""


class TwoEncoders(TextConditioner):
    """Text conditioning by both encoders, cached as that by one."""

    def __init__(self, encoders: Sequence[Encoder], device: torch.device) -> None:
        super().__init__(encoders[0].tokenizer, encoders[0].network, device)
        self._encoders = encoders

    def _encode(self, text: str) -> Embedding:
        said = [
            encoded(encoder.tokenizer, encoder.network, text, self._device, output_hidden_states=True)
            for encoder in self._encoders
        ]
        tokens = torch.cat([one.hidden_states[-2][0] for one in said], dim=-1)
        return Embedding(tokens, {POOLED: said[1].text_embeds[0]})


class UnetCallXl(UnetCall):
    """Its U-Net reads the pooled text and the sizes too."""

    def added(self, x_Rchw: Tensor, embedding: Embedding) -> dict[str, Tensor]:
        """See `UnetCall.added`."""
        height, width = (PIXELS * side for side in x_Rchw.shape[-2:])
        pooled = embedding.others[POOLED]
        # From the rows that come: a number of them that was counted would be recorded as that of the first call.
        zero = torch.zeros_like(pooled[:, :1])
        sizes = [zero + float(size) for size in (height, width, 0, 0, height, width)]
        return {"text_embeds": pooled, "time_ids": torch.cat(sizes, dim=-1)}


def _load(folder: Path, dtype: torch.dtype) -> Parts:
    overflows = bool(read_json(folder / "vae" / "config.json").get("force_upcast"))
    unet, vae = unet_and_autoencoder(folder, dtype, autoencoder_dtype(dtype, overflows))
    first = text_encoder(folder, "text_encoder", CLIPTextModel, "tokenizer", dtype)
    second = text_encoder(folder, "text_encoder_2", CLIPTextModelWithProjection, "tokenizer_2", dtype)
    check_shape(folder, unet, vae, [first, second], "Stable Diffusion XL")
    width = unet.config.projection_class_embeddings_input_dim
    expected = second.network.config.projection_dim + SIZES * (unet.config.addition_time_embed_dim or 0)
    if width != expected:
        raise ModelError(
            f"{folder / 'unet'} reads {width} values of sizes and pooled text, where Stable Diffusion XL gives"
            f" {expected}; its refiner and models like it are not supported"
        )
    return Parts(unet, vae, (first, second), overflows)


FAMILY = Family(
    load=_load,
    text=TwoEncoders,
    call=UnetCallXl,
)
