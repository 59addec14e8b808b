"""The recipe of `PatchAutoencoder`: synthetic pictures and renders of the world alone, no photograph.

Resumable: stopped at any moment it goes on from its last checkpoint, a minute or less ago, and sees what it would have
seen; pictures and batches depend on seed and step alone. The learning rate follows a cosine over the steps or the
minutes, whichever are over first; minutes count over all parts.

Loss: absolute and squared difference, absolute difference of horizontal and vertical steps between pixels (edges), and
a pull of each latent channel towards mean 0 and deviation 1. A little noise on the latents makes the decoder forgive
what a diffusion model gets slightly wrong.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.folder import network
from core.tiny.autoencoder import PatchAutoencoder
from core.tiny.batches import seed_of
from core.tiny.pictures import dead_leaves
from core.tiny.shards import stream_of
from core.tiny.stage import Stage, autocast, write
from core.world.filters import FILTERS, filtered

PICTURE_PX, CROP_PX, BATCH = 128, 128, 8
"""Crops of 64 px are seen from their margins everywhere, and lattices were learnt from there: away from a margin they
then faded."""
POOL, RENDERS = 1536, 512
REFRESH_EVERY, REFRESH = 24, 8
LR, WARM_UP = 1.5e-3, 200
FILTERED = 0.6
LATENT_NOISE = 0.06
AVERAGE = 0.999
CHECKPOINT_S = 60.0


def renders(count: int) -> Tensor:
    """Pictures of the world in every style, uint8 (count, 3, PICTURE_PX, PICTURE_PX)."""
    from core.world import World
    from core.world.shade import STYLES

    styles = list(STYLES)
    pictures = [
        World(seed=10_000 + i // len(styles)).render(
            time_s=0.37 * i, width=PICTURE_PX, height=PICTURE_PX, style=styles[i % len(styles)]
        )["colour"]
        for i in range(count)
    ]
    return torch.stack([torch.as_tensor(p)[..., :3].permute(2, 0, 1) for p in pictures]).contiguous()


def _stored(pictures: Tensor) -> Tensor:
    return (pictures * 255.0).round().to(torch.uint8)


def drawn_on(x: Tensor, generator: torch.Generator) -> Tensor:
    """Some pictures of a batch (0..1) as drawings: lines where they have edges, or a few tones."""
    dx = (x - x.roll(1, -1)).abs().amax(1, keepdim=True)
    dy = (x - x.roll(1, -2)).abs().amax(1, keepdim=True)

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        drawn = torch.rand((x.shape[0], channels, 1, 1), generator=generator, device=x.device)
        return low + (high - low) * drawn

    line = (uniform(1.0, 5.0) * (dx + dy) - 0.05).clamp(0.0, 1.0)
    ink, paper = uniform(0.0, 0.3, 3), uniform(0.7, 1.0, 3)
    swap = uniform(0.0, 1.0) < 0.4
    ink, paper = torch.where(swap, paper, ink), torch.where(swap, ink, paper)
    drawing = paper + (ink - paper) * line
    levels = uniform(2.0, 6.0).round()
    tones = (x * levels).round() / levels
    pick = uniform(0.0, 1.0)
    return torch.where(pick < 0.15, drawing, torch.where(pick < 0.25, tones, x))


def filtered_some(x: Tensor, generator: torch.Generator) -> Tensor:
    """Some pictures of a batch (0..1) in one of the styles: their line work and lattices are what the model will have
    to paint. A crop starts on a cell of the latents, and so does the lattice of its filter."""
    styles = list(FILTERS)
    count = round(FILTERED * x.shape[0])
    picked = [styles[int(i)] for i in torch.randint(len(styles), (count,), generator=generator)]
    return torch.cat([*(filtered(x[i : i + 1], style) for i, style in enumerate(picked)), x[count:]])


def batch_of(pool: Tensor, generator: torch.Generator) -> Tensor:
    """Crops (BATCH, 3, CROP_PX, CROP_PX) in -1..1, turned over and recoloured at random."""

    def dice(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    crops = []
    for _ in range(BATCH):
        top, left = dice(PICTURE_PX - CROP_PX + 1), dice(PICTURE_PX - CROP_PX + 1)
        crop = pool[dice(pool.shape[0]), :, top : top + CROP_PX, left : left + CROP_PX]
        crop = crop[torch.randperm(3, generator=generator)]
        if dice(2):
            crop = crop.flip(-1)
        crops.append(crop.transpose(-1, -2) if dice(2) else crop)
    pictures = drawn_on(torch.stack(crops).to(torch.float32) / 255.0, generator)
    return filtered_some(pictures, generator) * 2.0 - 1.0


def loss_of(model: PatchAutoencoder, x: Tensor, generator: torch.Generator) -> Tensor:
    """See the module."""
    z = model.encode(x)[0]
    noise = torch.randn(z.shape, generator=generator, device=z.device) * LATENT_NOISE
    back = model.decode(z + noise)[0]
    off = (back - x).to(torch.float32)
    edges = sum((off.diff(dim=dim)).abs().mean() for dim in (-1, -2))
    z = z.to(torch.float32)
    spread = z.mean((0, 2, 3)).square().mean() + (z.std((0, 2, 3)) - 1.0).square().mean()
    return off.abs().mean() + off.square().mean() + edges + 0.02 * spread


class Pool:
    """Dead leaves and renders of the world, uint8 (POOL + RENDERS, 3, PICTURE_PX, PICTURE_PX), as they are at a step:
    every REFRESH_EVERY steps the oldest REFRESH of the dead leaves give way to new ones."""

    def __init__(self, seed: int, step: int, world: Tensor) -> None:
        self._seed = seed
        self._groups = POOL // REFRESH
        self._made = self._until(step)
        latest = [slot + (self._made - 1 - slot) // self._groups * self._groups for slot in range(self._groups)]
        self.pictures = torch.cat([*(self._group(number) for number in latest), world])

    def _until(self, step: int) -> int:
        """How many groups there have been."""
        return self._groups + step // REFRESH_EVERY

    def _group(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(stream_of(self._seed, 6, number).randrange(2**62))
        return _stored(dead_leaves(REFRESH, PICTURE_PX, generator))

    def go_to(self, step: int) -> Tensor:
        """The pictures at a step not before the last one."""
        while self._made < self._until(step):
            at = self._made % self._groups * REFRESH
            self.pictures[at : at + REFRESH] = self._group(self._made)
            self._made += 1
        return self.pictures


def _rate(step: int, done: float, peak: float) -> float:
    return peak * min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.49 * (1.0 + math.cos(math.pi * min(1.0, done))))


def train(
    work: Path,
    steps: int,
    minutes: float,
    seed: int = 0,
    log: Callable[[str], None] = print,
    start: Path | None = None,
    lr: float = LR,
) -> PatchAutoencoder:
    """The averaged weights after so many steps or minutes, latents normalised. work: where it goes on from. start: a
    folder of weights to begin with. Raises `core.folder.ModelError`, `core.tiny.stage.Diverged` and `OSError`."""
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = PatchAutoencoder() if start is None else network(start, PatchAutoencoder, low_cpu_mem_usage=False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stage = Stage(
        *("autoencoder", work, model, log),
        rate=_rate,
        average=AVERAGE,
        checkpoint_s=CHECKPOINT_S,
        minutes=minutes,
        tensorboard=True,
    )
    world = work / "renders.pt"
    if not world.exists():
        write(world, renders(RENDERS))
    pool = Pool(seed, stage.progress.step, torch.load(world, weights_only=True))

    def drawn(step: int) -> tuple[Tensor, torch.Generator]:
        generator = torch.Generator().manual_seed(seed_of(seed, step))
        return batch_of(pool.go_to(step), generator).contiguous(memory_format=torch.channels_last), generator

    def loss_at(step: int) -> tuple[Tensor, dict[str, Any]]:
        x, generator = drawn(step)
        with autocast(torch.device("cpu")):
            return loss_of(model, x, generator), {}

    stage.run(steps, lr, loss_at)
    average = copy.deepcopy(model).eval()
    average.load_state_dict(stage.progress.average)
    at = stage.progress.step
    with torch.no_grad():
        z = torch.cat([average.encode(drawn(at + i)[0])[0] for i in range(16)])
    average.normalise(z.mean((0, 2, 3)), z.std((0, 2, 3)))
    return average
