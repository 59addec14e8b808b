"""The words that the embedded model knows, and a CLIP tokenizer in which each of them is one token.

Any other text still tokenizes, into bytes that the model was trained to overlook.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.folder import read_json
from core.words import Words
from core.world import COLOUR_NAMES, SHAPES, STYLES

TOKENS = 32
"""Length of every prompt in tokens, start and end included."""

START, END = "<|startoftext|>", "<|endoftext|>"
FILLERS = (
    *("style", "picture", "scene", "of", "a", "the", "and", "with", "in", "look", "art", "stained", "cut", "drawing"),
    *("painting", "print", "photo", "portrait", "on", "at", "room"),
)
"""Words without a meaning of their own."""
WORDS = (*STYLES, *COLOUR_NAMES, *SHAPES, *FILLERS)


def _byte_letters() -> list[str]:
    """The printable stand-in of each byte value, as in byte-level BPE (GPT-2)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters, spare = {}, 256
    for value in range(256):
        if value in plain:
            letters[value] = chr(value)
        else:
            letters[value] = chr(spare)
            spare += 1
    return [letters[value] for value in range(256)]


def _merged(pieces: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one word: merge the pair of lowest rank until there is none."""
    while len(pieces) > 1:
        pairs = [(ranks.get(pair, len(ranks)), i) for i, pair in enumerate(zip(pieces, pieces[1:], strict=False))]
        rank, at = min(pairs)
        if rank == len(ranks):
            break
        pieces = [*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]]
    return pieces


def merges(words: tuple[str, ...] = WORDS) -> list[tuple[str, str]]:
    """Merge rules that make every word one token.

    New rules go behind the old ones, so they never apply before a word that is finished already: each addition leaves
    all earlier words whole.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = _merged([*word[:-1], word[-1] + "</w>"], ranks)
        while len(pieces) > 1:
            ranks[(pieces[0], pieces[1])] = len(ranks)
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    return list(ranks)


def build_tokenizer(words: tuple[str, ...] = WORDS, tokens: int = TOKENS) -> Any:
    """A transformers CLIPTokenizer that knows `words` and cuts at `tokens`."""
    from core.libraries import CLIPTokenizer

    letters = _byte_letters()
    rules = merges(words)
    entries = [START, END, *letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in rules)]
    vocabulary = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=rules,  # type: ignore[arg-type]  # pairs, as tokenizers takes them; its hint speaks of file lines
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=tokens,
    )


def words_of(folder: Path) -> Words:
    """The words that the weights in `folder` were trained with: those of this file that are whole tokens there.

    Raises `core.folder.ModelError` when its tokenizer cannot be read.
    """
    tokens = read_json(folder / "tokenizer" / "tokenizer.json")["model"]["vocab"]

    def there(words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(word for word in words if word + "</w>" in tokens)

    groups = {"styles": STYLES, "colours": COLOUR_NAMES, "shapes": SHAPES}
    return Words({name: there(words) for name, words in groups.items()}, there(FILLERS))
