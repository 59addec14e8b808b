"""What a prompt says beside its words: weights of parts of it, and blends of several.

    (red sphere:1.4), blue box                      one part counts more, or with less than 1 less
    ("ink style", "neon style").blend(0.7, 0.3)     between two prompts or more

The first form is that of AUTOMATIC1111's and ComfyUI's prompts, the second that of the `compel` library. Any other text
is what it is, brackets and all. Standard library only.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_BLENDED = 16
MAX_WEIGHT = 4.0

_PART = re.compile(r"\(([^()]+):\s*(-?\d+(?:\.\d*)?|-?\.\d+)\s*\)")
_QUOTED = r"(?:\"[^\"]*\"|'[^']*')"
_BLEND = re.compile(rf"\s*\(\s*({_QUOTED}(?:\s*,\s*{_QUOTED})*)\s*,?\s*\)\s*\.\s*blend\s*\(([^()]*)\)\s*")


class PromptError(ValueError):
    """A prompt whose weights make no sense; the message says what would."""


class WeightedText(NamedTuple):
    """Some words of a prompt. weight: 1 is as the text encoder has it, 0 as if they were not there."""

    text: str
    weight: float


class Prompt(NamedTuple):
    """One of the prompts that are blended. share: of all of them, which add up to 1."""

    share: float
    parts: tuple[WeightedText, ...]

    @property
    def text(self) -> str:
        """All its words."""
        return "".join(part.text for part in self.parts)


def parse(text: str) -> tuple[Prompt, ...]:
    """The prompts that a text blends, one where it is no blend. Raises `PromptError` for weights out of range."""
    found = _BLEND.fullmatch(text)
    if found is None:
        return (Prompt(1.0, _parts(text)),)
    texts = [quoted[1:-1] for quoted in re.findall(_QUOTED, found[1])]
    try:
        shares = [float(word) for word in found[2].split(",")]
    except ValueError:
        raise PromptError(f"blend({found[2]}): give numbers, such as blend(0.7, 0.3)") from None
    if len(texts) > MAX_BLENDED:
        raise PromptError(f"a blend of {len(texts)} prompts; use at most {MAX_BLENDED}")
    if len(shares) != len(texts):
        raise PromptError(f"a blend of {len(texts)} prompts has {len(shares)} weights; give one for each")
    whole = sum(shares)
    if not all(0.0 <= share <= 1e6 for share in shares) or whole <= 0.0:
        raise PromptError("the weights of a blend are 0 or more, and not all of them 0")
    return tuple(Prompt(share / whole, _parts(text)) for text, share in zip(texts, shares, strict=True))


def blend_of(prompts: list[tuple[str, float]]) -> str:
    """The text for a blend of prompts with weights; those of weight 0 and below are left out. Quotation marks of the
    prompts become apostrophes."""
    some = [(text.replace('"', "'"), weight) for text, weight in prompts if weight > 0.0]
    if len(some) == 1:
        return some[0][0]
    quoted = ", ".join(f'"{text}"' for text, _ in some)
    return f"({quoted}).blend({', '.join(f'{weight:g}' for _, weight in some)})"


def _parts(text: str) -> tuple[WeightedText, ...]:
    parts, begin = [], 0
    for found in _PART.finditer(text):
        weight = float(found[2])
        if not -MAX_WEIGHT <= weight <= MAX_WEIGHT:
            raise PromptError(f"({found[1][:40]}:{found[2]}): weights go from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
        parts += [WeightedText(text[begin : found.start()], 1.0), WeightedText(found[1], weight)]
        begin = found.end()
    parts.append(WeightedText(text[begin:], 1.0))
    return tuple(part for part in parts if part.text) or (WeightedText("", 1.0),)
