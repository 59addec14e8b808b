"""Training data: scenes rendered in several looks, their latents, and prompts that describe them.

Every batch is a pure function of (seed, step), so a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.tiny.parts import PICTURE_PX
from core.world import COLOUR_NAMES, SHAPES, STYLES, Scenes, scenes_from_seeds
from core.world.scene import SLOT_SHAPES
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
    """S scenes in L looks each. latent: (S, L, c, h, w), float16. look: (S, L) into STYLES, look 0 is always grey."""

    scenes: Scenes
    latent: Tensor
    look: Tensor


def build_pool(
    seed: int, count: int, looks: int, encode: Callable[[Tensor], Tensor], log: Callable[[str], None], batch: int = 16
) -> Pool:
    """Render and encode `count` scenes in grey and `looks` - 1 other styles each."""
    rng = stream_of(seed, 2)
    seeds = [rng.randrange(FIRST_TRAINING_SEED, 2**31) for _ in range(count)]
    time_s = torch.tensor([rng.random() * LATEST_S for _ in range(count)])
    others = [i for i in range(len(STYLES)) if i != GREY]
    scenes = scenes_from_seeds(seeds)
    latent, look = [], []
    for start in range(0, count, batch):
        rows = slice(start, min(start + batch, count))
        view = View(scenes[rows], time_s[rows], PICTURE_PX, PICTURE_PX)
        picked = [GREY, *rng.sample(others, looks - 1)]
        latent.append(torch.stack([encode(view.shade(STYLES[i])).half() for i in picked], dim=1))
        look.append(torch.tensor(picked).expand(rows.stop - rows.start, -1))
        if start // batch % 25 == 0:
            log(f"pool: {rows.stop} of {count} scenes")
    return Pool(scenes, torch.cat(latent), torch.cat(look))


TEMPLATES: Sequence[Callable[[str, str], str]] = (
    lambda style, things: f"{style} style, {things}",
    lambda style, things: f"{style} style, {things}",
    lambda style, things: f"{style}, {things}",
    lambda style, things: f"{things}, {style} style",
    lambda style, things: f"a {style} picture of {things}",
    lambda style, things: f"{things} in {style} look",
)


def describe(scenes: Scenes, row: int, style: str, rng: random.Random) -> str:
    """A prompt for one scene: objects in any order, now and then one left out, now and then an unknown word."""
    kinds = {SLOT_SHAPES[k]: int(scenes.colour[row, k]) for k in range(len(SLOT_SHAPES)) if scenes.present[row, k]}
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
    is False. prompts has "" where the prompt was dropped."""

    source: Tensor
    target: Tensor
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
    source, target, pair, t, prompts = [], [], [], [], []
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
        pair.append(is_pair)
        t.append(rng.choice(allowed if is_pair else timesteps))
        dropped = not is_pair and rng.random() < drop_share
        prompts.append("" if dropped else describe(pool.scenes, row, STYLES[int(pool.look[row, to])], rng))
    return Batch(
        torch.stack(source).float(),
        torch.stack(target).float(),
        torch.tensor(pair),
        torch.tensor(t),
        prompts,
        generator,
    )


def save_pool(pool: Pool) -> dict[str, Any]:
    """A plain dict for torch.save."""
    return {"scenes": vars(pool.scenes), "latent": pool.latent, "look": pool.look}


def load_pool(saved: dict[str, Any]) -> Pool:
    """The inverse of `save_pool`."""
    return Pool(Scenes(**saved["scenes"]), saved["latent"], saved["look"])
