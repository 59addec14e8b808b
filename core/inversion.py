"""Textual inversion: words of one's own, each of a few vectors that the text encoder reads where the word stands.

Gal et al. (arXiv 2208.01618), section 3: only the vectors were learnt, so a word needs rows in the encoder's table of
embeddings and nothing else. In a prompt it is the name of its file, or what the file itself calls it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.families.family import Encoder
from core.folder import ModelError, weights_of
from core.libraries import AddedToken

ONE_ENCODER = ("emb_params",)
"""What AUTOMATIC1111 calls the vectors for a model with one text encoder, in the order of the encoders."""
TWO_ENCODERS = ("clip_l", "clip_g")
"""Likewise for Stable Diffusion XL."""


@dataclass(frozen=True)
class EmbeddingFile:
    """What a file says. words: what its vectors are called in a prompt. vectors: (n, width) per text encoder."""

    path: Path
    words: tuple[str, ...]
    vectors: tuple[Tensor, ...]

    @classmethod
    def of(cls, path: Path) -> EmbeddingFile:
        """Raises `ModelError` for a file that cannot be read and for what holds no vectors of words."""
        weights, _ = weights_of(path, "embedding")
        words = [path.stem]
        names: tuple[str, ...] = next((n for n in (ONE_ENCODER, TWO_ENCODERS) if set(n) == set(weights)), ())
        if not names and len(weights) == 1:
            # diffusers: the word itself.
            names = tuple(weights)
            words += names
        vectors = tuple(weights[name] if weights[name].dim() == 2 else weights[name][None] for name in names)
        if not vectors or any(each.dim() != 2 or not each.numel() for each in vectors):
            raise ModelError(f"{path} is no embedding that is known here; use one made by textual inversion")
        if not all(bool(each.isfinite().all()) for each in vectors):
            raise ModelError(f"{path} holds values that are no numbers; get it again")
        return cls(path, tuple(dict.fromkeys(words)), vectors)


class Taught:
    """A tokenizer that knows more words. words: the tokens that each stands for."""

    def __init__(self, tokenizer: Any, words: Mapping[str, str]) -> None:
        self._tokenizer = tokenizer
        self._tokens = {word.lower(): tokens for word, tokens in words.items()}
        # The longest first; not in the middle of another word.
        self._pattern = re.compile("|".join(map(_whole, sorted(words, key=len, reverse=True))), re.IGNORECASE)
        self.model_max_length = tokenizer.model_max_length

    def __call__(self, text: str, **options: Any) -> Any:
        """As the tokenizer itself."""
        return self._tokenizer(self._pattern.sub(lambda found: self._tokens[found[0].lower()], text), **options)


def _whole(word: str) -> str:
    before = r"(?<!\w)" if re.match(r"\w", word) else ""
    after = r"(?!\w)" if re.search(r"\w$", word) else ""
    return before + re.escape(word) + after


def teach(files: Sequence[EmbeddingFile], encoders: Sequence[Encoder]) -> tuple[Encoder, ...]:
    """The text encoders of a model with the words of these files, their networks changed in place. Raises `ModelError`
    for vectors of another family's encoders, and for words that there are already."""
    if not files:
        return tuple(encoders)
    known: dict[str, Path] = {}
    for file in files:
        widths = [encoder.network.config.hidden_size for encoder in encoders]
        theirs = [each.shape[1] for each in file.vectors]
        if theirs != widths:
            raise ModelError(
                f"{file.path} was made for another family: its vectors are {_listed(theirs)} wide, those of this model"
                f" {_listed(widths)}; use an embedding of the model's family"
            )
        for word in file.words:
            if word.lower() in known:
                raise ModelError(f"{file.path} and {known[word.lower()]} have the same name; rename one of them")
            if any(_knows(encoder.tokenizer, word) for encoder in encoders):
                raise ModelError(f"{file.path}: {word!r} is a word that the model knows already; rename the file")
            known[word.lower()] = file.path
    return tuple(_taught(encoder, files, number) for number, encoder in enumerate(encoders))


def _listed(widths: Sequence[int]) -> str:
    return " and ".join(map(str, widths))


def _knows(tokenizer: Any, word: str) -> bool:
    vocabulary = tokenizer.get_vocab()
    return any(name in vocabulary for name in (word, word.lower(), f"{word.lower()}</w>"))


def _taught(encoder: Encoder, files: Sequence[EmbeddingFile], number: int) -> Encoder:
    """number: of the encoder."""
    network, tokenizer = encoder
    words: dict[str, str] = {}
    rows: dict[int, Tensor] = {}
    for file in files:
        # Tokens that nobody would write, so that only the word leads to them.
        tokens = [f"<|{file.path.stem}:{i}|>" for i in range(len(file.vectors[number]))]
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
        rows |= dict(zip(tokenizer.convert_tokens_to_ids(tokens), file.vectors[number], strict=True))
        words |= dict.fromkeys(file.words, " ".join(tokens))
    old: Tensor = network.get_input_embeddings().weight
    table = torch.cat((old.detach(), old.new_zeros(max(0, max(rows) + 1 - len(old)), old.shape[1])))
    for row, vector in rows.items():
        table[row] = vector.to(table)
    network.set_input_embeddings(nn.Embedding.from_pretrained(table))
    network.config.vocab_size = len(table)
    # Where old files say 2, the text's end is found as its largest token, which it no longer is.
    for part in network.modules():
        if getattr(part, "eos_token_id", None) == 2:
            part.eos_token_id = tokenizer.eos_token_id
    return Encoder(network, Taught(tokenizer, words))
