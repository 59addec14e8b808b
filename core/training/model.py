"""A model from nothing but captioned pictures, or one tuned further: the embedded model's kind of U-Net and text
encoder on the latents of its autoencoder, trained for any of `core.training.objectives`.

Whatever it is trained for, its U-Net sees the noise levels of Stable Diffusion and answers with v (arXiv 2202.00512):
every path a x + b n is one of those levels but for a factor, and clean picture and noise follow from v. So a flow or a
few-step model is an ordinary model folder, which the host runs with its own schedule.

Few-step training starts from a model that diffusion or flow made. Guidance is baked in on the way: what was drawn as
picture and noise is moved by the guide's opinion with the caption less that without, which keeps their noised mixture
as it was; one call per step then does what guided models need two for (as in arXiv 2310.04378, section 4.2).

Shapes: N pictures, B rows of D = c h w numbers, T tokens.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.folder import ModelError, read_json
from core.pairing import PAIRINGS, TrainingSet, fitted
from core.schedule import NoiseSchedule
from core.tiny.batches import seed_of
from core.tiny.parts import PICTURE_PX, SCHEDULER, save_folder
from core.tiny.shards import Encode, tokens_of
from core.tiny.stage import Log, write
from core.tiny.together import Alone
from core.tiny.train_painter import Painter, encoder_of, load_autoencoder, load_painter
from core.training.curves import save_picture
from core.training.datasets import DataError
from core.training.folder import Captioned
from core.training.lora import adapted, merged
from core.training.objectives import OBJECTIVES, Objective
from core.training.work import bound, draw_curve, opened, sheet_of

WARM_UP = 100
SHEET = 8
"""Captions of a sheet of samples, each by few calls of the network and by `MANY_CALLS`."""
FEW_CALLS, MANY_CALLS = (1, 4), 16
ENCODED_AT_ONCE = 32


@dataclass(frozen=True)
class ModelSettings:
    """All that the result depends on beside the pictures. objective, pairing: by name. steps, minutes: of training at
    most, whichever are over first. size: side of the pictures in pixels, a multiple of 16. dropped: share of rows
    without a caption. guidance: how far the guide's opinion moves, 0 without. rank: of low-rank matrices instead of all
    weights (`core.training.lora`), or 0. average: how slowly the averaged weights follow."""

    objective: str = "flow"
    pairing: str = "none"
    seed: int = 0
    steps: int = 20_000
    minutes: float = 60.0
    lr: float = 1e-3
    rows: int = 64
    size: int = PICTURE_PX
    dropped: float = 0.1
    guidance: float = 0.0
    rank: int = 0
    average: float = 0.999
    sheet_every: int = 500
    checkpoint_s: float = 60.0


CHANGEABLE = ("steps", "minutes", "sheet_every", "checkpoint_s")


class Timesteps:
    """Stable Diffusion's noise levels by their ratio of noise to signal."""

    def __init__(self, device: torch.device) -> None:
        alpha_bar = NoiseSchedule.from_config(SCHEDULER).alphas_cumprod_T.double()
        self._log_ratio = (0.5 * ((1.0 - alpha_bar) / alpha_bar).log()).float().to(device)

    def of(self, a: Tensor, b: Tensor) -> Tensor:
        """Where noise over signal is b over a, between whole timesteps too; the first or last one beyond them."""
        wanted = (b.clamp(min=1e-6) / a.clamp(min=1e-6)).log()
        above = torch.searchsorted(self._log_ratio, wanted).clamp(1, len(self._log_ratio) - 1)
        low, high = self._log_ratio[above - 1], self._log_ratio[above]
        return above - 1 + ((wanted - low) / (high - low)).clamp(0.0, 1.0)


class ByObjective:
    """A painter that answers with v, as a network of an objective (`core.training.objectives.Network`). shape: (c, h,
    w) of latents. tokens_CT: of every caption; the last is that of none."""

    def __init__(self, painter: Painter, objective: Objective, shape: tuple[int, ...], tokens_CT: Tensor) -> None:
        self._painter, self._objective, self._shape, self._tokens_CT = painter, objective, shape, tokens_CT
        self._timesteps = Timesteps(tokens_CT.device)

    def estimates(self, x_BD: Tensor, t_B: Tensor, caption_B: Tensor) -> tuple[Tensor, Tensor]:
        """The clean picture and the noise, (B, D) each."""
        a, b = self._objective.levels(t_B)
        timestep, size = self._timesteps.of(a, b), (a.square() + b.square()).sqrt()[:, None]
        x = (x_BD / size).view(-1, *self._shape).contiguous(memory_format=torch.channels_last)
        v = self._painter(x, timestep, self._tokens_CT[caption_B]).flatten(1)
        a, b = a[:, None] / size, b[:, None] / size
        return a * x.flatten(1) - b * v, b * x.flatten(1) + a * v

    def __call__(self, x_BD: Tensor, t_B: Tensor, caption_B: Tensor) -> Tensor:
        """What the objective wants."""
        clean, noise = self.estimates(x_BD, t_B, caption_B)
        return self._objective.target(clean, noise, t_B[:, None])


@torch.no_grad()
def guided(
    guide: ByObjective, objective: Objective, x: Tensor, noise: Tensor, caption_B: Tensor, t_B: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Picture and noise moved by `scale` times the guide's estimates with the caption less those without: the same
    noised mixture at t, guided targets."""
    noised = objective.noised(x, noise, t_B)
    none = torch.full_like(caption_B, len(guide._tokens_CT) - 1)
    told, untold = (guide.estimates(noised, t_B, captions) for captions in (caption_B, none))
    return x + scale * (told[0] - untold[0]), noise + scale * (told[1] - untold[1])


def _latents(given: Captioned, size: int, encode: Encode) -> Tensor:
    """(N, c, h, w), float16."""
    found = []
    for pictures in given.pictures.split(ENCODED_AT_ONCE):
        x = pictures.permute(0, 3, 1, 2).float() / 255.0
        if x.shape[-1] != size:
            x = nnf.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp(0.0, 1.0)
        found.append(encode(x).half())
    return torch.cat(found)


def _rate(step: int, done: float, peak: float) -> float:
    return peak * min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.49 * (1.0 + math.cos(math.pi * min(1.0, done))))


def _painter(settings: ModelSettings, start: Path | None) -> Painter:
    torch.manual_seed(settings.seed)
    painter = Painter(settings.size)
    if start is not None:
        try:
            load_painter(painter, start)
            scheduler = read_json(start / "scheduler" / "scheduler_config.json")
        except (ModelError, OSError, RuntimeError, ValueError) as error:
            raise DataError(f"{start} is no model of this kind: {error}") from error
        prediction = scheduler.get("prediction_type")
        if prediction != "v_prediction":
            raise DataError(f"{start} answers with {prediction}; begin with a model that train model made")
    return painter


def _checked(settings: ModelSettings, start: Path | None) -> None:
    if settings.size % 16 or not 32 <= settings.size <= 512:
        raise DataError(f"size {settings.size}: use a multiple of 16 from 32 to 512")
    if start is None and (settings.guidance or settings.rank):
        raise DataError("guidance and low-rank matrices need a trained model to start from")


def _made(net: ByObjective, objective: Objective, shape: tuple[int, ...], captions: int) -> Callable[[int], Tensor]:
    """Latents of the first captions by so many calls, always from the same noise."""
    device = net._tokens_CT.device
    asked = torch.arange(min(SHEET, captions), device=device)

    def made(calls: int) -> Tensor:
        noise = torch.randn((len(asked), math.prod(shape)), generator=torch.Generator().manual_seed(0)).to(device)
        fresh = torch.Generator(device).manual_seed(seed_of(0, calls))
        return objective.made(net, noise, asked, calls, fresh).view(-1, *shape)

    return made


def train_model(
    settings: ModelSettings,
    given: Captioned,
    autoencoder: Path,
    work: Path,
    out: Path,
    device: torch.device,
    log: Log,
    start: Path | None = None,
    together: Alone | None = None,
) -> None:
    """Write the model folder `out`.

    work keeps latents, checkpoints, samples and curves; the same call goes on where an interrupted one ended, and its
    result depends on the settings and pictures alone (and, where `minutes` end it, on the time). start: a folder that
    this made, to tune further; it is the guide, too. Raises `DataError`, `core.tiny.stage.Diverged` and `OSError`.
    """
    _checked(settings, start)
    together = together or Alone()
    first, started = together.rank == 0, time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    about = {"names": list(given.names), "captions": list(given.captions), "start": str(start)}
    if first:
        bound(work, asdict(settings), {**about, "autoencoder": str(autoencoder)}, CHANGEABLE)
    painter = _painter(settings, start)
    try:
        vae = load_autoencoder(autoencoder, device)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{autoencoder} is no autoencoder of the embedded model's kind: {error}") from error
    latent_path = work / "latents.pt"
    if first and not latent_path.exists():
        log(f"{len(given.names)} pictures to latents")
        write(latent_path, _latents(given, settings.size, encoder_of(vae, device)))
    together.wait()
    latent = torch.load(latent_path, weights_only=True).float()
    shape = tuple(latent.shape[1:])
    captions = list(dict.fromkeys(given.captions))
    number = {caption: i for i, caption in enumerate(captions)}
    data = TrainingSet(latent.flatten(1), torch.tensor([number[caption] for caption in given.captions]))
    if settings.pairing.startswith("semi-discrete"):
        generator = torch.Generator().manual_seed(seed_of(settings.seed, -1))
        data = fitted(data, generator, within_captions=settings.pairing.endswith("by-caption"))
    tokens_CT = tokens_of([*captions, ""]).long().to(device)
    objective, pairing = OBJECTIVES[settings.objective], PAIRINGS[settings.pairing]
    painter.to(device).unet.to(memory_format=torch.channels_last)
    guide = ByObjective(copy.deepcopy(painter).requires_grad_(False), objective, shape, tokens_CT)
    if settings.rank:
        adapted(painter, settings.rank)
    net = ByObjective(painter, objective, shape, tokens_CT)
    stage = opened(
        *("model", work, painter, log),
        rate=_rate,
        average=settings.average,
        checkpoint_s=settings.checkpoint_s,
        minutes=settings.minutes,
        together=together,
    )
    calls = FEW_CALLS if objective.restart else (FEW_CALLS[-1], MANY_CALLS)
    made = _made(net, objective, shape, len(captions))

    @torch.no_grad()
    def sheet(path: Path) -> None:
        picture = sheet_of([vae.decode(made(count))[0] for count in calls])
        save_picture(path, picture.numpy())
        stage.events.picture(stage.progress.step, "samples", picture)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Any]]:
        if first and step and step % settings.sheet_every == 0:
            sheet(work / f"samples_{step:06d}.png")
        generator = torch.Generator().manual_seed(seed_of(settings.seed, step))
        rows = torch.randint(len(data.x_ND), (settings.rows,), generator=generator)
        t = torch.rand((settings.rows,), generator=generator)
        dropped = torch.rand((settings.rows,), generator=generator) < settings.dropped
        paired = pairing(data, rows, generator)
        caption = torch.where(dropped, len(captions), data.caption_N[paired.rows_B])
        x, noise, caption, t = (
            together.rows(value).to(device) for value in (data.x_ND[paired.rows_B], paired.noise_BD, caption, t)
        )
        if settings.guidance:
            x, noise = guided(guide, objective, x, noise, caption, t, settings.guidance)
        return objective.loss(objective, net, x, noise, caption, t, stage.done(settings.steps)), {}

    stage.run(settings.steps, settings.lr, loss_at)
    if not first:
        return
    painter.load_state_dict(stage.progress.average)
    merged(painter)
    sheet(work / "samples.png")
    draw_curve(work / "model.csv", work / "curve.png")
    unet, codec, encoder = (copy.deepcopy(part).cpu() for part in (painter.unet, vae, painter.encoder))
    recipe = {
        "settings": asdict(settings),
        "pictures": len(given.names),
        "captions": captions[:20],
        "start": None if start is None else start.name,
        "steps": stage.progress.step,
        "seconds_of_last_run": round(time.monotonic() - started),
        "torch": torch.__version__,
    }
    save_folder(out, unet, codec, encoder, {"recipe.json": json.dumps(recipe, indent=2) + "\n"}, "v_prediction")
    log(f"written to {out}")
