"""Training data of the painter: pictures in several looks as latents, with prompts for each.

A shard is a function of (seed, number) and the kind of device that it is made on: synthetic pictures with filters
(`core.world.filters`), and scenes of the world rendered in several styles, each with its objects in other colours, as
they come and arranged as text-to-image arranges things (`core.tiny.arranged`).
Processes of their own make shards ahead of the training (`core.tiny.batches`).

Shapes: N pictures, L looks of each, V prompts of each look, T tokens of each prompt, c h w latents (h = w = 32 for
pictures of 256 px).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.atomic import replacing
from core.tiny.arranged import arranged
from core.tiny.pictures import dead_leaves, smooth_pictures
from core.tiny.vocabulary import TOKENS, build_tokenizer
from core.world import COLOUR_NAMES, SHAPES, STYLES, Scenes, scenes_from_seeds
from core.world.filters import FILTERS, filtered
from core.world.scene import SLOT_SHAPES
from core.world.trace import FIRST_OBJECT
from core.world.world import View

SMALL_PX, LARGE_PX = 128, 256
FIRST_TRAINING_SEED = 1_000_000
"""Scenes below this seed are never trained on: the demo and the evaluation use them."""
LATEST_S = 20.0
"""Scenes are seen at times from 0 to this."""
PROMPTS = 4
"""Of each look (V)."""
GREY = STYLES.index("grey")
CPU = torch.device("cpu")
AS_IT_CAME = -1
"""The look of a picture that has not been filtered."""

Encode = Callable[[Tensor], Tensor]
"""Pictures (B, 3, H, W) in 0..1 to latents (B, c, H/8, W/8)."""


def stream_of(*key: int) -> random.Random:
    """A random stream of its own for each key."""
    return random.Random(":".join(map(str, key)))


@dataclass(frozen=True)
class ShardPart:
    """latent: (N, L, c, h, w), float16. look: (N, L) into STYLES, or AS_IT_CAME. objects: (N, h, w), float16, the share
    of each latent cell that objects cover. tokens: (N, L, V, T), int16, of prompts that describe each look."""

    latent: Tensor
    look: Tensor
    objects: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Shard:
    """pictures: LARGE_PX with filters. world, arranged: scenes at SMALL_PX. large, large_arranged: at LARGE_PX."""

    pictures: ShardPart
    world: ShardPart
    large: ShardPart
    arranged: ShardPart
    large_arranged: ShardPart


def _tiled(pictures: Tensor) -> Tensor:
    """Four pictures of half the side as one, (4 N, 3, h, w) to (N, 3, 2h, 2w)."""
    a, b, c, d = pictures.unflatten(0, (-1, 4)).unbind(1)
    return torch.cat([torch.cat([a, b], -1), torch.cat([c, d], -1)], -2)


def _sources(seed: int, number: int, count: int, device: torch.device) -> Tensor:
    """(count, 3, LARGE_PX, LARGE_PX) in 0..1, on the CPU: dead leaves, four small ones in a square, smooth pictures,
    renders. device: where the first three are drawn."""
    rng = stream_of(seed, 1, number)
    generator = torch.Generator(device).manual_seed(rng.randrange(2**62))
    renders = [
        view_of([rng.randrange(FIRST_TRAINING_SEED, 2**31)], [rng.random() * LATEST_S], SMALL_PX)
        for _ in range(4 * (count // 5))
    ]
    parts = [
        dead_leaves(count - 3 * (count // 5), LARGE_PX, generator),
        _tiled(dead_leaves(4 * (count // 5), SMALL_PX, generator)),
        smooth_pictures(count // 5, LARGE_PX, generator),
        _tiled(torch.cat([view.shade(rng.choice(STYLES)) for view in renders])),
    ]
    return torch.cat([pictures.cpu() for pictures in parts])


def view_of(seeds: Sequence[int], time_s: Sequence[float], side_px: int) -> View:
    """Scenes as training sees them."""
    return View(scenes_from_seeds(seeds), torch.tensor(time_s, dtype=torch.float64), side_px, side_px)


def arranged_view_of(seeds: Sequence[int], time_s: Sequence[float], side_px: int) -> View:
    """The same things, each in its place; of every fifth scene one alone."""
    scenes = arranged(scenes_from_seeds(seeds))
    first = scenes.present.cumsum(1) == 1
    few = torch.tensor([seed % 5 == 0 for seed in seeds])[:, None]
    scenes = replace(scenes, present=scenes.present & (first | ~few))
    return View(scenes, torch.tensor(time_s, dtype=torch.float64), side_px, side_px)


def picture_part(
    seed: int, number: int, count: int, looks: int, encode: Encode, device: torch.device = CPU
) -> ShardPart:
    """Synthetic pictures, as they came and through `looks` filters each; one in six came filtered already."""
    rng = stream_of(seed, 2, number)
    latents, look = [], []
    for source in _sources(seed, number, count, device).split(1):
        picked = rng.sample(range(len(STYLES)), looks)
        came = filtered(source, rng.choice(list(FILTERS))) if rng.random() < 1 / 6 else source
        pictures = [came, *(filtered(source, STYLES[i]) for i in picked)]
        latents.append(encode(torch.cat(pictures)).half())
        look.append([AS_IT_CAME, *picked])
    latent = torch.stack(latents)
    empty = torch.zeros((count, *latent.shape[-2:]), dtype=torch.float16)
    nothing: list[list[list[str]]] = [[[] for _ in range(looks + 1)] for _ in range(count)]
    return ShardPart(latent, torch.tensor(look), empty, _prompts(look, nothing, rng))


def things_of(scenes: Scenes, row: int, colour_K: Tensor) -> list[str]:
    """The kinds of object present, each with its colour."""
    kinds = {SLOT_SHAPES[k]: int(colour_K[k]) for k in range(len(SLOT_SHAPES)) if scenes.present[row, k]}
    return [f"{COLOUR_NAMES[c]} {SHAPES[kind]}" for kind, c in kinds.items()]


def world_part(
    seed: int,
    number: int,
    count: int,
    looks: int,
    side_px: int,
    encode: Encode,
    seen: Callable[[Sequence[int], Sequence[float], int], View] = view_of,
) -> ShardPart:
    """Scenes in grey and in looks - 1 other styles each; the same objects in other colours in every look, or the
    colours of a scene could be learned by heart instead of read in the prompt. seen: what of a scene's seed and time is
    seen."""
    rng = stream_of(seed, 3, number, side_px)
    others = [i for i in range(len(STYLES)) if i != GREY]
    slots = torch.tensor(SLOT_SHAPES)
    latents, look, objects, things = [], [], [], []
    for start in range(0, count, 8):
        rows = min(8, count - start)
        seeds = [rng.randrange(FIRST_TRAINING_SEED, 2**31) for _ in range(rows)]
        view = seen(seeds, [rng.random() * LATEST_S for _ in range(rows)], side_px)
        picked = [GREY, *rng.sample(others, looks - 1)]
        dyes = [
            torch.tensor([rng.sample(range(len(COLOUR_NAMES)), len(SHAPES)) for _ in range(rows)])[:, slots]
            for _ in picked
        ]
        shaded = [encode(view.in_colours(d).shade(STYLES[i])).half() for i, d in zip(picked, dyes, strict=True)]
        latents.append(torch.stack(shaded, dim=1))
        look += [picked] * rows
        things += [[things_of(view.scenes, row, dye[row]) for dye in dyes] for row in range(rows)]
        body = (view.instance() >= FIRST_OBJECT).float()
        objects.append(nnf.adaptive_avg_pool2d(body, latents[-1].shape[-2:]).half())  # type: ignore[arg-type]
    return ShardPart(torch.cat(latents), torch.tensor(look), torch.cat(objects), _prompts(look, things, rng))


@dataclass(frozen=True)
class Sizes:
    """How much a shard holds, and which shards a step uses."""

    pictures: int = 60
    filters: int = 8
    world: int = 128
    large: int = 32
    arranged: int = 48
    large_arranged: int = 12
    looks: int = 6
    first: int = 4
    window: int = 28
    steps_per_shard: int = 250

    def used_at(self, step: int) -> range:
        """Numbers of the shards that a step draws from."""
        end = self.first + step // self.steps_per_shard
        return range(max(0, end - self.window), end)


def make_shard(seed: int, number: int, sizes: Sizes, encode: Encode, device: torch.device = CPU) -> Shard:
    """See the module."""
    return Shard(
        picture_part(seed, number, sizes.pictures, sizes.filters, encode, device),
        world_part(seed, number, sizes.world, sizes.looks, SMALL_PX, encode),
        world_part(seed, number, sizes.large, sizes.looks, LARGE_PX, encode),
        world_part(seed, number, sizes.arranged, sizes.looks, SMALL_PX, encode, arranged_view_of),
        world_part(seed, number, sizes.large_arranged, sizes.looks, LARGE_PX, encode, arranged_view_of),
    )


def path_of(work: Path, number: int) -> Path:
    """Where a shard lies."""
    return work / f"shard_{number:04d}.pt"


def save_shard(path: Path, shard: Shard) -> None:
    """Write and then rename, so that a reader never sees half a shard."""
    with replacing(path) as draft:
        torch.save({name: vars(part) for name, part in vars(shard).items()}, draft)


def load_shard(path: Path) -> Shard:
    """The inverse of `save_shard`."""
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    return Shard(**{name: ShardPart(**part) for name, part in saved.items()})


TEMPLATES: Sequence[Callable[[str, str], str]] = (
    lambda style, things: f"{style} style, {things}",
    lambda style, things: f"{style} style, {things}",
    lambda style, things: f"{style}, {things}",
    lambda style, things: f"{things}, {style} style",
    lambda style, things: f"a {style} picture of {things}",
    lambda style, things: f"{things} in {style} look",
    lambda style, things: f"{things} in {style} style",
)
PHRASES = {
    "glass": ("stained glass",),
    "pixel": ("pixel art", "pixel"),
    "paper": ("cut paper", "paper cut"),
    "pencil": ("pencil drawing", "pencil"),
    "watercolour": ("watercolour painting", "watercolour"),
    "woodcut": ("woodcut print", "woodcut"),
    "noir": ("noir photo", "noir"),
}
UNKNOWN = ("cat", "face", "man", "woman", "city", "dog", "street", "sky", "cup", "chair", "hand", "night", "sea")


def _stranger(rng: random.Random) -> str:
    """A word that means nothing to the model."""
    if rng.random() < 0.6:
        return rng.choice(UNKNOWN)
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 5)))


def describe(things: Sequence[str], look: int, rng: random.Random) -> str:
    """A prompt: the style, objects in any order, now and then one left out, now and then an unknown word. Without a
    style for a picture that shall stay as it is."""
    named = [thing for thing in things if rng.random() > 0.05]
    rng.shuffle(named)
    if not things and rng.random() < 0.3:
        named = [f"{rng.choice(COLOUR_NAMES)} {rng.choice(SHAPES)}" for _ in range(rng.randint(1, 3))]
    if rng.random() < (0.1 if things else 0.4):
        named.insert(rng.randint(0, len(named)), _stranger(rng))
    text = rng.choice((", ", ", ", " and ")).join(named)
    if look == AS_IT_CAME:
        return text
    style = STYLES[look]
    if rng.random() < 0.25:
        style = rng.choice(PHRASES.get(style, (style,)))
    if not text:
        return rng.choice((f"{style} style", f"{style} style", style, f"a {style} picture", f"{style} look"))
    return rng.choice(TEMPLATES)(style, text)


def _prompts(look: Sequence[Sequence[int]], things: Sequence[Sequence[Sequence[str]]], rng: random.Random) -> Tensor:
    """Tokens of prompts for N pictures in L looks each. things: what the prompts may name, such as "red sphere"."""
    texts = [
        describe(things[row][column], number, rng)
        for row, numbers in enumerate(look)
        for column, number in enumerate(numbers)
        for _ in range(PROMPTS)
    ]
    return tokens_of(texts).view(len(look), -1, PROMPTS, TOKENS)


def tokens_of(prompts: Sequence[str]) -> Tensor:
    """(B, T), int16."""
    return torch.tensor(_tokenizer()(list(prompts), padding="max_length", truncation=True).input_ids, dtype=torch.int16)


@cache
def _tokenizer() -> Any:
    return build_tokenizer()
