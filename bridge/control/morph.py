"""What lies between two looks: numbers glide, the prompt cross-fades, everything else changes in the middle."""

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

PROMPT = ("prompt", "prompt_to", "prompt_mix")


def between(first: Mapping[str, Any], last: Mapping[str, Any], share: float) -> dict[str, Any]:
    """The values of `last`, by name, as they are at `share` of the way from `first`, which has all of them; 0 to 1."""
    if any(name in last for name in PROMPT):
        # The three belong together: at the end of a cross-fade what it used must be as it was.
        last = {**{name: first[name] for name in PROMPT}, **last}
    if share >= 1.0:
        return dict(last)
    values = {name: _one(name, first[name], value, share) for name, value in last.items()}
    if PROMPT[0] in last:
        values.update(_prompt(first, last, share))
    return values


def _one(name: str, first: Any, last: Any, share: float) -> Any:
    if SPECS[name].kind == "float":
        return first + (last - first) * share
    return first if share < 0.5 else last


def _prompt(first: Mapping[str, Any], last: Mapping[str, Any], share: float) -> dict[str, Any]:
    texts = [(look["prompt"], look["prompt_to"]) for look in (first, last)]
    if texts[0] == texts[1]:
        return {"prompt_mix": _one("prompt_mix", first["prompt_mix"], last["prompt_mix"], share)}
    # Two prompts can be mixed and no four: a look that is a mix itself counts as the greater part of it.
    start, end = (look["prompt"] if look["prompt_mix"] < 0.5 else look["prompt_to"] for look in (first, last))
    return {"prompt": start, "prompt_to": end, "prompt_mix": 0.0 if start == end else share}
