"""The autoencoders that a model may have, one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.codec import EncodeKl, EncodeTiny
from core.libraries import AutoencoderKL, AutoencoderTiny
from core.tiny.autoencoder import PIXELS, PatchAutoencoder


@dataclass(frozen=True)
class Autoencoder:
    """kind: the class, by whose `from_pretrained` it is loaded. encode: module that gives its latents. pixels(config):
    pixels per latent cell. halo: latent cells that a part of a picture needs around it to come out as in the whole
    (`core.reuse`); None where the whole matters everywhere, or where that was not measured."""

    kind: Any
    encode: Callable[[Any], Any]
    pixels: Callable[[Any], int]
    halo: int | None = None


AUTOENCODERS: Mapping[str, Autoencoder] = {
    "AutoencoderTiny": Autoencoder(
        AutoencoderTiny, EncodeTiny, lambda config: 2 ** (len(config.encoder_block_out_channels) - 1)
    ),
    "PatchAutoencoder": Autoencoder(PatchAutoencoder, EncodeTiny, lambda config: PIXELS, halo=2),
    "AutoencoderKL": Autoencoder(AutoencoderKL, EncodeKl, lambda config: 2 ** (len(config.block_out_channels) - 1)),
}
"""By the `_class_name` of their config.json."""
