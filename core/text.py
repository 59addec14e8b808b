"""Prompts to embeddings, once per text.

Knows nothing of the U-Net; `core.denoiser` turns an embedding into the keys and values of its cross-attention layers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

CACHED_PROMPTS = 64


class Embedding(NamedTuple):
    """What a U-Net reads of one prompt; a tree. tokens: (N, C). others: by name, of families that want more; no axis
    for rows."""

    tokens: Tensor
    others: Mapping[str, Tensor] = {}


class Text(Protocol):
    """Prompts to what a U-Net reads of them."""

    def embed(self, text: str, weights: tuple[float, ...] = ()) -> Embedding:
        """Of one text. weights: of the LoRAs that change the model; see `core.lora`."""


class TextConditioner:
    """CLIP-style tokenizer and text encoder with a least-recently-used cache keyed by the text.

    tokenizer, encoder: transformers' CLIPTokenizer and CLIPTextModel (or of their shape).
    """

    def __init__(self, tokenizer: Any, encoder: Any, device: torch.device) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._device = device
        self._cache: OrderedDict[tuple[str, tuple[float, ...]], Embedding] = OrderedDict()
        self.encodings = 0
        """Number of text encoder passes so far."""

    @torch.inference_mode()
    def embed(self, text: str, weights: tuple[float, ...] = ()) -> Embedding:
        """Of one text, N the tokenizer's maximum length. Longer texts are cut there. weights: that the encoders are
        changed with, for the cache alone."""
        key = (text, weights)
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return cached
        embedding = self._encode(text)
        self.encodings += 1
        self._cache[key] = embedding
        if len(self._cache) > CACHED_PROMPTS:
            self._cache.popitem(last=False)
        return embedding

    def _encode(self, text: str) -> Embedding:
        return Embedding(encoded(self._tokenizer, self._encoder, text, self._device)[0][0])


def encoded(tokenizer: Any, encoder: Any, text: str, device: torch.device, **options: Any) -> Any:
    """What a text encoder says of one text, padded or cut to the length that both take."""
    length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    tokens = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return encoder(tokens.input_ids.to(device), **options)
