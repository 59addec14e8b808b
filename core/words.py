"""The words that a model knows, where it knows few and says which: what a page can offer and what it can warn of.

Standard library only, so that every process can load it cheaply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """groups: what a prompt can name, by kind; the words of "styles" take the place of one another. fillers: further
    words that a prompt may have and that change nothing."""

    groups: Mapping[str, tuple[str, ...]]
    fillers: tuple[str, ...] = ()
