"""Training data: scenes rendered in several looks, their latents, and prompts that describe them.

Every batch is a pure function of (seed, step), so a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.tiny.parts import PICTURE_PX
from core.tiny.vocabulary import STYLES
from core.world import COLOUR_NAMES, SHAPES, Scenes, scenes_from_seeds
from core.world.scene import SLOT_SHAPES
from core.world.trace import FIRST_OBJECT
from core.world.world import View

GREY = STYLES.index("grey")
FIRST_TRAINING_SEED = 1_000_000
"""Scenes below this seed are never trained on: the demo and the evaluation use them."""
LATEST_S = 20.0
"""Scenes are seen at times from 0 to this."""


def stream_of(*key: int) -> random.Random:
    """A random stream of its own for each key."""
    return random.Random(":".join(map(str, key)))


def crops(seed: int, step: int, scenes: int, looks: int, side_px: int) -> Tensor:
    """Square pieces of renders for the autoencoder: (scenes * looks, 3, side, side), 0..1."""
    rng = stream_of(seed, 1, step)
    batch = scenes_from_seeds([rng.randrange(FIRST_TRAINING_SEED, 2**31) for _ in range(scenes)])
    time_s = torch.tensor([rng.random() * LATEST_S for _ in range(scenes)])
    corner = [torch.tensor([rng.randrange(PICTURE_PX - side_px + 1) for _ in range(scenes)]) for _ in "xy"]
    view = View(batch, time_s, PICTURE_PX, PICTURE_PX, (corner[0], corner[1], side_px, side_px))
    return torch.cat([view.shade(style) for style in rng.sample(STYLES, looks)])


@dataclass(frozen=True)
class Pool:
    """S scenes in L looks each. latent: (S, L, c, h, w), float16. look: (S, L) into STYLES, look 0 is always grey.

    colour: (S, L, slots), as `Scenes.colour`: every look has its objects in other colours, or the model could learn
    the colours of each scene by heart instead of reading them in the prompt. objects: (S, h, w), float16, the share of
    each latent cell that objects cover.
    """

    scenes: Scenes
    latent: Tensor
    look: Tensor
    colour: Tensor
    objects: Tensor


def build_pool(
    seed: int, count: int, looks: int, encode: Callable[[Tensor], Tensor], log: Callable[[str], None], batch: int = 16
) -> Pool:
    """Render and encode `count` scenes in grey and `looks` - 1 other styles each."""
    rng = stream_of(seed, 2)
    seeds = [rng.randrange(FIRST_TRAINING_SEED, 2**31) for _ in range(count)]
    time_s = torch.tensor([rng.random() * LATEST_S for _ in range(count)])
    others = [i for i in range(len(STYLES)) if i != GREY]
    scenes = scenes_from_seeds(seeds)
    latent, look, colour, objects = [], [], [], []
    slots = torch.tensor(SLOT_SHAPES)
    for start in range(0, count, batch):
        rows = slice(start, min(start + batch, count))
        view = View(scenes[rows], time_s[rows], PICTURE_PX, PICTURE_PX)
        picked = [GREY, *rng.sample(others, looks - 1)]
        dyes = [
            torch.tensor([rng.sample(range(len(COLOUR_NAMES)), len(SHAPES)) for _ in range(len(view.scenes))])[:, slots]
            for _ in picked
        ]
        looks_of = [encode(view.in_colours(dye).shade(STYLES[i])).half() for i, dye in zip(picked, dyes, strict=True)]
        latent.append(torch.stack(looks_of, dim=1))
        look.append(torch.tensor(picked).expand(rows.stop - rows.start, -1))
        colour.append(torch.stack(dyes, dim=1))
        body = (view.instance() >= FIRST_OBJECT).float()
        objects.append(nnf.adaptive_avg_pool2d(body, (latent[-1].shape[-2], latent[-1].shape[-1])).half())
        if start // batch % 25 == 0:
            log(f"pool: {rows.stop} of {count} scenes")
    return Pool(scenes, torch.cat(latent), torch.cat(look), torch.cat(colour), torch.cat(objects))


TEMPLATES: Sequence[Callable[[str, str], str]] = (
    lambda style, things: f"{style} style, {things}",
    lambda style, things: f"{style} style, {things}",
    lambda style, things: f"{style}, {things}",
    lambda style, things: f"{things}, {style} style",
    lambda style, things: f"a {style} picture of {things}",
    lambda style, things: f"{things} in {style} look",
)


def describe(present: Tensor, colour: Tensor, style: str, rng: random.Random) -> str:
    """A prompt for a scene, of which `present` and `colour` (slots,) are given: objects in any order, now and then one
    left out, now and then an unknown word."""
    kinds = {SLOT_SHAPES[k]: int(colour[k]) for k in range(len(SLOT_SHAPES)) if present[k]}
    things = [f"{COLOUR_NAMES[c]} {SHAPES[kind]}" for kind, c in kinds.items() if rng.random() > 0.05]
    rng.shuffle(things)
    if rng.random() < 0.1:
        noise = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 4)))
        things.insert(rng.randint(0, len(things)), noise)
    joint = rng.choice((", ", ", ", " and "))
    return rng.choice(TEMPLATES)(style, joint.join(things))


@dataclass(frozen=True)
class Batch:
    """Rows for one training step. source is what gets noised, target what has to come out of it; equal where `pair`
    is False. objects: (B, 1, h, w), as in `Pool`. prompts has "" where the prompt was dropped."""

    source: Tensor
    target: Tensor
    objects: Tensor
    pair: Tensor
    t: Tensor
    prompts: list[str]
    generator: torch.Generator


def batch_at(
    pool: Pool,
    seed: int,
    step: int,
    size: int,
    *,
    cells: int,
    pair_share: float,
    pair_t: tuple[int, int],
    drop_share: float,
    timesteps: Sequence[int],
) -> Batch:
    """The batch of one step. cells: side in latent cells of the random piece that is taken of each picture."""
    rng = stream_of(seed, 3, step)
    generator = torch.Generator().manual_seed((seed << 24) + step)
    count, looks = pool.look.shape
    side = pool.latent.shape[-1]
    source, target, objects, pair, t, prompts = [], [], [], [], [], []
    allowed = [v for v in timesteps if pair_t[0] <= v < pair_t[1]]
    for _ in range(size):
        row, to = rng.randrange(count), rng.randrange(looks)
        is_pair = rng.random() < pair_share
        away = to
        if is_pair:
            away = 0 if rng.random() < 0.75 else rng.randrange(looks)
        y, x = rng.randrange(side - cells + 1), rng.randrange(side - cells + 1)
        piece = pool.latent[row, :, :, y : y + cells, x : x + cells]
        source.append(piece[away])
        target.append(piece[to])
        objects.append(pool.objects[row, None, y : y + cells, x : x + cells])
        pair.append(is_pair)
        t.append(rng.choice(allowed if is_pair else timesteps))
        dropped = not is_pair and rng.random() < drop_share
        style = STYLES[int(pool.look[row, to])]
        prompts.append("" if dropped else describe(pool.scenes.present[row], pool.colour[row, to], style, rng))
    return Batch(
        torch.stack(source).float(),
        torch.stack(target).float(),
        torch.stack(objects).float(),
        torch.tensor(pair),
        torch.tensor(t),
        prompts,
        generator,
    )


def save_pool(pool: Pool) -> dict[str, Any]:
    """A plain dict for torch.save."""
    return {**vars(pool), "scenes": vars(pool.scenes)}


def load_pool(saved: dict[str, Any]) -> Pool:
    """The inverse of `save_pool`."""
    return Pool(**{**saved, "scenes": Scenes(**saved["scenes"])})
