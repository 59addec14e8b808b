"""Prompts to embeddings, once per text.

Knows nothing of the U-Net; `core.denoiser` turns an embedding into the keys and values of its cross-attention layers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from core.prompt import Prompt, parse
from core.tree import mapped

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
        changed with, for the cache alone. Raises `core.prompt.PromptError`."""
        key = (text, weights)
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return cached
        prompts = parse(text)
        embedding = _sum([(prompt.share, self._weighted(prompt)) for prompt in prompts])
        self._cache[key] = embedding
        if len(self._cache) > CACHED_PROMPTS:
            self._cache.popitem(last=False)
        return embedding

    def _weighted(self, prompt: Prompt) -> Embedding:
        """Of one prompt, each token as far from what it is in the empty text as the weight of its part says."""
        said = self._encode(prompt.text)
        self.encodings += 1
        if all(part.weight == 1.0 for part in prompt.parts):
            return said
        weights_N = torch.ones(len(said.tokens), device=self._device)
        before, begin = "", self._tokens_of("")
        for part in prompt.parts:
            before += part.text
            end = self._tokens_of(before)
            weights_N[begin:end] = part.weight
            begin = end
        nothing = self._encode("").tokens
        return said._replace(tokens=nothing + weights_N[:, None] * (said.tokens - nothing))

    def _tokens_of(self, text: str) -> int:
        """How many there are before what follows the text: the one that begins every text is one of them."""
        return len(self._tokenizer(text).input_ids) - 1

    def _encode(self, text: str) -> Embedding:
        return Embedding(encoded(self._tokenizer, self._encoder, text, self._device)[0][0])


def _sum(shares: Sequence[tuple[float, Embedding]]) -> Embedding:
    """Embeddings, weighted and added up."""
    if len(shares) == 1:
        return shares[0][1]
    weights = [share for share, _ in shares]

    def add(*leaves: Tensor) -> Tensor:
        total = weights[0] * leaves[0]
        for weight, leaf in zip(weights[1:], leaves[1:], strict=True):
            total = total + weight * leaf
        return total

    first, *others = (embedding for _, embedding in shares)
    return mapped(add, first, *others)


def encoded(tokenizer: Any, encoder: Any, text: str, device: torch.device, **options: Any) -> Any:
    """What a text encoder says of one text, padded or cut to the length that both take."""
    length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    tokens = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return encoder(tokens.input_ids.to(device), **options)
