"""Teaching the embedded painter a look: from pictures that have it, with captions that name it.

There are no pairs (picture, the same picture in the look), so they are made the other way round: each picture of the
look is the target, and its sources are the same picture through filters of other styles, in grey, and blurred. What was
recorded beside the pictures, one source for each, takes their place where it is given. Half of the rows rehearse what
the painter knows: synthetic pictures and scenes in the old styles, or it would forget them in minutes.

Shapes: N pictures, L looks of each (0: the target), c h w latents; B rows, T tokens.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.tiny.batches import seed_of
from core.tiny.parts import save_folder
from core.tiny.shards import (
    LARGE_PX,
    PROMPTS,
    SMALL_PX,
    Encode,
    ShardPart,
    picture_part,
    stream_of,
    tokens_of,
    world_part,
)
from core.tiny.stage import Levels, Log, write
from core.tiny.together import Alone
from core.tiny.train_painter import Painter, encoder_of, load_autoencoder, load_painter
from core.training.curves import save_picture
from core.training.datasets import DataError
from core.training.folder import Captioned
from core.training.lora import adapted, merged
from core.training.work import bound, draw_curve, opened, sheet_of
from core.world.filters import FILTERS, blurred, filtered, luma

CELLS = SMALL_PX // 8
"""Latent cells of the pieces that are trained on."""
WARM_UP = 30


@dataclass(frozen=True)
class LookSettings:
    """All that the result depends on beside the pictures. steps, minutes: of training at most, whichever are over
    first. rank: of the matrices beside each layer (`core.training.lora`); 0: all weights are tuned. taught_share: rows
    of the new look. sources: of each picture. rehearsed: synthetic pictures, and scenes, to rehearse on. low_t, high_t:
    timesteps. sheet_every: steps between two sheets of samples."""

    seed: int = 0
    steps: int = 600
    minutes: float = 10.0
    lr: float = 4e-4
    rank: int = 0
    rows: int = 16
    taught_share: float = 0.5
    sources: int = 4
    rehearsed: int = 40
    low_t: int = 15
    high_t: int = 420
    average: float = 0.99
    sheet_every: int = 200
    checkpoint_s: float = 30.0


def _sources(picture: Tensor, count: int, rng: random.Random) -> list[Tensor]:
    """(1, 3, H, W) in 0..1 in so many other looks."""
    grey = luma(picture).expand_as(picture)
    soft = blurred(picture, rng.uniform(1.0, 3.0))
    drawn = [filtered(picture, style) for style in rng.sample(list(FILTERS), max(0, count - 2))]
    return [grey, grey + (soft - grey) * rng.random(), *drawn][:count]


def taught_part(given: Captioned, sources: Captioned | None, settings: LookSettings, encode: Encode) -> ShardPart:
    """Latents of the pictures and of their sources; a caption for each picture."""
    rng = stream_of(settings.seed, 21)
    latents = []
    for row, picture in enumerate(given.pictures):
        x = picture.permute(2, 0, 1)[None].float() / 255.0
        if sources is None:
            others = _sources(x, settings.sources, rng)
        else:
            others = [sources.pictures[row].permute(2, 0, 1)[None].float() / 255.0]
        latents.append(encode(torch.cat([x, *others])).half())
    latent = torch.stack(latents)
    count, looks = latent.shape[:2]
    tokens = tokens_of(list(given.captions))[:, None, None].expand(count, looks, PROMPTS, -1).contiguous()
    return ShardPart(
        latent, torch.zeros((count, looks), dtype=torch.int64), torch.zeros(count, *latent.shape[-2:]), tokens
    )


class _Rows:
    """Rows of one part: pieces of (source, target), tokens."""

    def __init__(self, part: ShardPart, generator: torch.Generator, rows: int, *, taught: bool) -> None:
        count, looks, _, side, _ = part.latent.shape

        def below(high: int) -> Tensor:
            return torch.randint(high, (rows,), generator=generator)

        row = below(count)
        target = torch.zeros_like(row) if taught else 1 + below(looks - 1)
        # From the other looks; when rehearsing mostly from the picture as it came.
        source = 1 + below(looks - 1) if taught else below(looks) * (torch.rand((rows,), generator=generator) < 0.3)
        cells = torch.arange(CELLS)
        y, x = (2 * below((side - CELLS) // 2 + 1)[:, None] + cells for _ in "yx")
        channels = torch.arange(part.latent.shape[2])[:, None, None]

        def piece(look: Tensor) -> Tensor:
            first = (row[:, None, None, None], look[:, None, None, None])
            return part.latent[(*first, channels, y[:, None, :, None], x[:, None, None, :])].float()

        self.source, self.target = piece(source), piece(target)
        self.tokens = part.tokens[row, target, below(PROMPTS)].long()


def _loss(
    painter: Painter,
    parts: dict[str, ShardPart],
    levels: Levels,
    settings: LookSettings,
    generator: torch.Generator,
    together: Alone,
) -> tuple[Tensor, dict[str, Any]]:
    taught = round(settings.taught_share * settings.rows)
    scenes = (settings.rows - taught) // 3
    drawn_rows = [
        _Rows(parts["taught"], generator, taught, taught=True),
        _Rows(parts["pictures"], generator, settings.rows - taught - scenes, taught=False),
        _Rows(parts["world"], generator, scenes, taught=False),
    ]
    source, target, tokens = (torch.cat([getattr(r, name) for r in drawn_rows]) for name in vars(drawn_rows[0]))
    share = torch.rand((len(source),), generator=generator)
    t = (settings.low_t + (settings.high_t - settings.low_t) * share**2).long()
    noise = torch.randn(source.shape, generator=generator)
    new = (torch.arange(len(source)) < taught).float()
    device = next(painter.parameters()).device
    source, target, tokens, t, noise, new = (
        together.rows(value).to(device) for value in (source, target, tokens, t, noise, new)
    )
    a, b = levels(t)
    off = painter((a * source + b * noise).contiguous(memory_format=torch.channels_last), t, tokens) - target
    error = (off.square() + 0.2 * off.abs()).mean((1, 2, 3))
    known, seen = error.detach(), 1.0 - new
    figures = {
        "taught": (known * new).sum() / new.sum().clamp(min=1.0),
        "rehearsed": (known * seen).sum() / seen.sum().clamp(min=1.0),
    }
    return error.mean(), figures


def _rate(step: int, done: float, peak: float) -> float:
    return peak * min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.49 * (1.0 + math.cos(math.pi * min(1.0, done))))


def _make_parts(
    path: Path, given: Captioned, sources: Captioned | None, settings: LookSettings, encode: Encode, log: Log
) -> None:
    """What is trained on, made once."""
    if not path.exists():
        log(f"{len(given.names)} pictures; making what is rehearsed")
        made = {
            "taught": taught_part(given, sources, settings, encode),
            "pictures": picture_part(settings.seed, 0, settings.rehearsed, 6, encode),
            "world": world_part(settings.seed, 0, settings.rehearsed, 6, SMALL_PX, encode),
        }
        write(path, {name: vars(part) for name, part in made.items()})


@torch.no_grad()
def _sheet(path: Path, painter: Painter, vae: Any, part: ShardPart, prompts: Sequence[str], levels: Levels) -> Tensor:
    """Rows of pictures: sources as they came, then under each prompt, in one step from little noise."""
    source = part.latent[:6, -1, :, :CELLS, :CELLS].float()
    t = torch.full((len(source),), 99)
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
    device = next(painter.parameters()).device
    source, t, noise = source.to(device), t.to(device), noise.to(device)
    a, b = levels(t)
    noised = (a * source + b * noise).contiguous(memory_format=torch.channels_last)
    rows = [source]
    for prompt in prompts:
        tokens = tokens_of([prompt] * len(source)).long().to(device)
        rows.append(painter(noised, t, tokens))
    sheet = sheet_of([vae.decode(z)[0] for z in rows])
    save_picture(path, sheet.numpy())
    return sheet


def teach(
    settings: LookSettings,
    given: Captioned,
    start: Path,
    work: Path,
    out: Path,
    device: torch.device,
    log: Log,
    sources: Captioned | None = None,
    together: Alone | None = None,
) -> None:
    """Write the model folder `out`: the painter of `start`, which knows the look besides.

    work keeps checkpoints, samples and curves; the same call goes on where an interrupted one ended, and its result
    depends on the settings and pictures alone (and, where `minutes` end it, on the time). sources: pictures that
    `given` were made from, one each. together: with which other processes. Raises `DataError`,
    `core.tiny.stage.Diverged` and `OSError`.
    """
    if sources is not None and sources.names != given.names:
        raise DataError("pictures and sources have to come in pairs of the same name")
    together = together or Alone()
    first = together.rank == 0
    work.mkdir(parents=True, exist_ok=True)
    about = {"pictures": list(given.names), "captions": list(given.captions), "start": str(start)}
    if first:
        bound(work, asdict(settings), about, ("steps", "minutes", "sheet_every", "checkpoint_s"))
    started = time.monotonic()
    try:
        vae = load_autoencoder(start / "vae", device)
        torch.manual_seed(settings.seed)
        painter = Painter()
        load_painter(painter, start)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{start} is no painter of the embedded model's kind: {error}") from error
    painter.to(device)
    painter.unet.to(memory_format=torch.channels_last)
    if settings.rank:
        adapted(painter, settings.rank)
    if first:
        _make_parts(work / "data.pt", given, sources, settings, encoder_of(vae, device), log)
    together.wait()
    parts = {name: ShardPart(**part) for name, part in torch.load(work / "data.pt", weights_only=True).items()}
    levels = Levels(device)
    stage = opened(
        *("look", work, painter, log),
        rate=_rate,
        average=settings.average,
        checkpoint_s=settings.checkpoint_s,
        minutes=settings.minutes,
        together=together,
    )
    prompts = [given.captions[0], "neon style", "watercolour style"]

    def loss_at(step: int) -> tuple[Tensor, dict[str, Any]]:
        if first and step and step % settings.sheet_every == 0:
            sheet = _sheet(work / f"samples_{step:06d}.png", painter, vae, parts["taught"], prompts, levels)
            stage.events.picture(step, "samples", sheet)
        # Torch's own generator belongs to the painter's dropout, of which it has none; the rows have theirs.
        generator = torch.Generator().manual_seed(seed_of(settings.seed, step))
        return _loss(painter, parts, levels, settings, generator, together)

    stage.run(settings.steps, settings.lr, loss_at)
    if not first:
        return
    painter.load_state_dict(stage.progress.average)
    merged(painter)
    _sheet(work / "samples.png", painter, vae, parts["taught"], prompts, levels)
    draw_curve(work / "look.csv", work / "curve.png")
    unet, autoencoder, encoder = (copy.deepcopy(part).cpu() for part in (painter.unet, vae, painter.encoder))
    recipe = {
        "look": sorted(set(given.captions))[:20],
        "pictures": len(given.names),
        "settings": asdict(settings),
        "steps": stage.progress.step,
        "seconds_of_last_run": round(time.monotonic() - started),
        "torch": torch.__version__,
    }
    save_folder(out, unet, autoencoder, encoder, {"recipe.json": json.dumps(recipe, indent=2) + "\n"})
    log(f"written to {out}")


PICTURE_PX = LARGE_PX
"""Side of the pictures that `teach` wants."""
