"""What lies between two looks: numbers glide, the prompt cross-fades, the noise travels from seed to seed, everything
else changes in the middle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from core.params import SPECS

EASINGS: Mapping[str, Callable[[float], float]] = {
    "smooth": lambda x: x * x * (3.0 - 2.0 * x),
    "linear": lambda x: x,
    "slow-start": lambda x: x * x,
    "slow-end": lambda x: x * (2.0 - x),
}
"""The way from 0 to 1 by its name."""
USUAL_EASING = "smooth"
NEW_NOISE = -1
"""The seed that draws new noise for every frame: from there is no way."""

BLENDS = (("prompt", "prompt_to", "prompt_mix"), ("seed", "seed_to", "seed_mix"))
"""What the stream itself mixes: the one, the other, and how far it is from the one to the other."""


def between(first: Mapping[str, Any], last: Mapping[str, Any], share: float) -> dict[str, Any]:
    """The values of `last`, by name, as they are at `share` of the way from `first`, which has all of them; 0 to 1."""
    blends = [blend for blend in BLENDS if any(name in last for name in blend)]
    for blend in blends:
        # The three belong together: at the end of a cross-fade what it used must be as it was.
        last = {**{name: first[name] for name in blend}, **last}
    if share >= 1.0:
        return dict(last)
    values = {name: _one(name, first[name], value, share) for name, value in last.items()}
    for blend in blends:
        values.update(_blended(blend, first, last, share))
    return values


def _one(name: str, first: Any, last: Any, share: float) -> Any:
    if SPECS[name].kind == "float":
        return first + (last - first) * share
    return first if share < 0.5 else last


def _blended(
    blend: tuple[str, str, str], first: Mapping[str, Any], last: Mapping[str, Any], share: float
) -> dict[str, Any]:
    one, other, mix = blend
    if (first[one], first[other]) == (last[one], last[other]):
        return {mix: _one(mix, first[mix], last[mix], share)}
    # Two can be mixed and no four: a look that is a mix itself counts as the greater part of it.
    start, end = (look[one] if look[mix] < 0.5 else look[other] for look in (first, last))
    if NEW_NOISE in (start, end):
        return {name: _one(name, first[name], last[name], 0.0 if share < 0.5 else 1.0) for name in blend}
    return {one: start, other: end, mix: 0.0 if start == end else share}
