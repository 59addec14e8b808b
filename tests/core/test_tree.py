"""Trees of tensors: the same as torch's own, and what is not there stays so."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils._pytree import tree_map

from core.tree import cat, mapped, part, stack


class Named(NamedTuple):
    one: torch.Tensor
    more: tuple
    none: None = None


def tree(offset: float = 0.0) -> Named:
    a = torch.arange(6.0).view(3, 2) + offset
    return Named(a, ({"x": a * 2, "y": [a * 3]}, a * 4))


def same(a: object, b: object) -> bool:
    found: list[bool] = []
    tree_map(lambda x, y: found.append(x is y is None or torch.equal(x, y)), a, b)
    return all(found) and len(found) == 5


def test_the_same_as_torchs_own() -> None:
    expected = tree_map(lambda x, y: None if x is None else x + 10 * y, tree(), tree(1.0))
    got = mapped(lambda x, y: x + 10 * y, tree(), tree(1.0))
    assert type(got) is Named and got.none is None and same(got, expected)


def test_parts_put_together_are_the_whole() -> None:
    pieces = [part(tree(), slice(i, i + 1)) for i in range(3)]
    assert same(cat(pieces), tree())
    assert same(part(stack([tree(), tree(1.0)]), 1), tree(1.0))
    assert mapped(torch.neg, ()) == () and mapped(torch.neg, {}) == {} and mapped(torch.neg, None) is None
