"""Training data of the painter: pictures in several looks as latents, with what their prompts may say.

A shard is a pure function of (seed, number): synthetic pictures with filters (`core.world.filters`), and scenes of the
world rendered in several styles, each with its objects in other colours. Which shards a step uses depends on the step
alone, and so does its batch: a run that was interrupted sees what an uninterrupted one would have seen. Shards are made
ahead of the training by a process of its own, and the oldest are left behind.

Shapes: N pictures, L looks of each, c h w latents (h = w = 32 for pictures of 256 px).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.tiny.pictures import dead_leaves, smooth_pictures
from core.tiny.pool import FIRST_TRAINING_SEED, LATEST_S, Batch, stream_of
from core.tiny.pool import TEMPLATES as WORLD_TEMPLATES
from core.world import COLOUR_NAMES, SHAPES, STYLES, Scenes, scenes_from_seeds
from core.world.filters import FILTERS, filtered
from core.world.scene import SLOT_SHAPES
from core.world.trace import FIRST_OBJECT
from core.world.world import View

SMALL_PX, LARGE_PX = 128, 256
LONGEST_WAIT_S = 900.0
GREY = STYLES.index("grey")
AS_IT_CAME = -1
"""The look of a picture that has not been filtered."""

Encode = Callable[[Tensor], Tensor]
"""Pictures (B, 3, H, W) in 0..1 to latents (B, c, H/8, W/8)."""


@dataclass(frozen=True)
class Part:
    """latent: (N, L, c, h, w), float16. look: (N, L) into STYLES, or AS_IT_CAME. objects: (N, h, w), float16, the share
    of each latent cell that objects cover. things: what a prompt may name, N lists of L lists such as "red sphere"."""

    latent: Tensor
    look: Tensor
    objects: Tensor
    things: list[list[list[str]]]


@dataclass(frozen=True)
class Shard:
    """pictures: LARGE_PX with filters. world: scenes at SMALL_PX. large: scenes at LARGE_PX."""

    pictures: Part
    world: Part
    large: Part


def _tiled(pictures: Tensor) -> Tensor:
    """Four pictures of half the side as one, (4 N, 3, h, w) to (N, 3, 2h, 2w)."""
    a, b, c, d = pictures.unflatten(0, (-1, 4)).unbind(1)
    return torch.cat([torch.cat([a, b], -1), torch.cat([c, d], -1)], -2)


def _sources(seed: int, number: int, count: int) -> Tensor:
    """(count, 3, LARGE_PX, LARGE_PX) in 0..1: dead leaves, four small ones in a square, smooth pictures, renders."""
    rng = stream_of(seed, 1, number)
    generator = torch.Generator().manual_seed(rng.randrange(2**62))
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
    return torch.cat(parts)


def view_of(seeds: Sequence[int], time_s: Sequence[float], side_px: int) -> View:
    """Scenes as training sees them."""
    return View(scenes_from_seeds(seeds), torch.tensor(time_s, dtype=torch.float64), side_px, side_px)


def picture_part(seed: int, number: int, count: int, looks: int, encode: Encode) -> Part:
    """Synthetic pictures, as they came and through `looks` filters each; one in six came filtered already."""
    rng = stream_of(seed, 2, number)
    latents, look = [], []
    for source in _sources(seed, number, count).split(1):
        picked = rng.sample(range(len(STYLES)), looks)
        came = filtered(source, rng.choice(list(FILTERS))) if rng.random() < 1 / 6 else source
        pictures = [came, *(filtered(source, STYLES[i]) for i in picked)]
        latents.append(torch.cat([encode(p) for p in pictures]).half())
        look.append([AS_IT_CAME, *picked])
    latent = torch.stack(latents)
    empty = torch.zeros((count, *latent.shape[-2:]), dtype=torch.float16)
    return Part(latent, torch.tensor(look), empty, [[[] for _ in range(looks + 1)] for _ in range(count)])


def things_of(scenes: Scenes, row: int, colour_K: Tensor) -> list[str]:
    """The kinds of object present, each with its colour."""
    kinds = {SLOT_SHAPES[k]: int(colour_K[k]) for k in range(len(SLOT_SHAPES)) if scenes.present[row, k]}
    return [f"{COLOUR_NAMES[c]} {SHAPES[kind]}" for kind, c in kinds.items()]


def world_part(seed: int, number: int, count: int, looks: int, side_px: int, encode: Encode) -> Part:
    """Scenes in grey and in looks - 1 other styles each; the same objects in other colours in every look, or the
    colours of a scene could be learned by heart instead of read in the prompt."""
    rng = stream_of(seed, 3, number, side_px)
    others = [i for i in range(len(STYLES)) if i != GREY]
    slots = torch.tensor(SLOT_SHAPES)
    latents, look, objects, things = [], [], [], []
    for start in range(0, count, 8):
        rows = min(8, count - start)
        seeds = [rng.randrange(FIRST_TRAINING_SEED, 2**31) for _ in range(rows)]
        view = view_of(seeds, [rng.random() * LATEST_S for _ in range(rows)], side_px)
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
    return Part(torch.cat(latents), torch.tensor(look), torch.cat(objects), things)


@dataclass(frozen=True)
class Sizes:
    """How much a shard holds, and which shards a step uses."""

    pictures: int = 60
    filters: int = 8
    world: int = 128
    large: int = 32
    looks: int = 6
    first: int = 4
    window: int = 28
    steps_per_shard: int = 250

    def used_at(self, step: int) -> range:
        """Numbers of the shards that a step draws from."""
        end = self.first + step // self.steps_per_shard
        return range(max(0, end - self.window), end)


def make_shard(seed: int, number: int, sizes: Sizes, encode: Encode) -> Shard:
    """See the module."""
    return Shard(
        picture_part(seed, number, sizes.pictures, sizes.filters, encode),
        world_part(seed, number, sizes.world, sizes.looks, SMALL_PX, encode),
        world_part(seed, number, sizes.large, sizes.looks, LARGE_PX, encode),
    )


def path_of(work: Path, number: int) -> Path:
    """Where a shard lies."""
    return work / f"shard_{number:04d}.pt"


def save_shard(path: Path, shard: Shard) -> None:
    """Write and then rename, so that a reader never sees half a shard."""
    scratch = path.with_suffix(f".{os.getpid()}.part")
    torch.save({name: vars(part) for name, part in vars(shard).items()}, scratch)
    os.replace(scratch, path)


def load_shard(path: Path) -> Shard:
    """The inverse of `save_shard`."""
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    return Shard(**{name: Part(**part) for name, part in saved.items()})


class Shards:
    """The shards of a run, as the training goes over them. make(number) is asked for those that are not there, unless
    another process makes them; then they are waited for."""

    def __init__(self, work: Path, sizes: Sizes, make: Callable[[int], Shard] | None) -> None:
        self._work = work
        self._sizes = sizes
        self._make = make
        self._held: dict[int, Shard] = {}

    def at(self, step: int) -> list[Shard]:
        """Those that a step draws from, oldest first."""
        numbers = self._sizes.used_at(step)
        for number in [n for n in self._held if n not in numbers]:
            del self._held[number]
            path_of(self._work, number).unlink(missing_ok=True)
        for number in numbers:
            if number not in self._held:
                self._held[number] = self._fetch(number)
        return [self._held[number] for number in numbers]

    def _fetch(self, number: int) -> Shard:
        path = path_of(self._work, number)
        if not path.exists() and self._make is not None:
            save_shard(path, self._make(number))
        until_s = time.monotonic() + LONGEST_WAIT_S
        while not path.exists():
            if time.monotonic() > until_s:
                raise TimeoutError(f"{path} was not made within {LONGEST_WAIT_S:.0f} s; see what its maker said above")
            time.sleep(0.5)
        return load_shard(path)


TEMPLATES = (*WORLD_TEMPLATES, lambda style, things: f"{things} in {style} style")
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


@dataclass(frozen=True)
class Mix:
    """What a batch is made of. Shares are of the rows that they can apply to; t: training timesteps.

    picture_share: of synthetic pictures, the rest scenes. plain_share: of the scenes' rows, those that are noised
    themselves, at every t. keep_share: of the pictures' rows, those that come out as they came, without a style."""

    rows: int = 32
    large_rows: int = 8
    large_every: int = 4
    picture_share: float = 0.6
    plain_share: float = 0.2
    keep_share: float = 0.06
    grey_share: float = 0.6
    drop_share: float = 0.1
    pair_t: tuple[int, int] = (10, 420)
    focus_t: int = 160
    focus_share: float = 0.85

    def pair_timestep(self, rng: random.Random) -> int:
        """Mostly where the product works, and there mostly at little noise."""
        low, high = self.pair_t
        if rng.random() < self.focus_share:
            return low + int((self.focus_t - low) * rng.random() ** 1.5)
        return rng.randrange(low, high)


def batch_at(shards: Sequence[Shard], seed: int, step: int, mix: Mix) -> Batch:
    """The batch of one step: pieces of the small size, or in every `large_every`-th step whole large pictures."""
    rng = stream_of(seed, 4, step)
    generator = torch.Generator().manual_seed(rng.randrange(2**62))
    large = step % mix.large_every == mix.large_every - 1
    cells = (LARGE_PX if large else SMALL_PX) // 8
    source, target, objects, pair, t, prompts = [], [], [], [], [], []
    for _ in range(mix.large_rows if large else mix.rows):
        shard = rng.choice(shards)
        of_world = rng.random() >= mix.picture_share
        part = shard.pictures if not of_world else shard.large if large else shard.world
        row, looks = rng.randrange(part.look.shape[0]), part.look.shape[1]
        # Even offsets: the lattices of some filters are two cells wide.
        y, x = (2 * rng.randrange((part.latent.shape[-1] - cells) // 2 + 1) for _ in "yx")
        piece = part.latent[row, :, :, y : y + cells, x : x + cells]
        is_pair = not of_world or rng.random() >= mix.plain_share
        to = rng.randrange(looks) if of_world else rng.randrange(1, looks)
        away = to
        if is_pair:
            away = 0 if rng.random() < (mix.grey_share if of_world else 0.85) else rng.randrange(looks)
        if not of_world and rng.random() < mix.keep_share:
            away = to = 0
        source.append(piece[away])
        target.append(piece[to])
        objects.append(part.objects[row, None, y : y + cells, x : x + cells])
        pair.append(is_pair)
        t.append(mix.pair_timestep(rng) if is_pair else rng.randrange(1000))
        dropped = not is_pair and rng.random() < mix.drop_share
        prompts.append("" if dropped else describe(part.things[row][to], int(part.look[row, to]), rng))
    return Batch(
        torch.stack(source).float(),
        torch.stack(target).float(),
        torch.stack(objects).float(),
        torch.tensor(pair),
        torch.tensor(t),
        prompts,
        generator,
    )
