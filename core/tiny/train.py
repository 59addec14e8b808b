"""The recipe of the embedded model: autoencoder, then the U-Net with its text encoder in two phases.

Phase 1 is v-prediction diffusion (Salimans and Ho 2022) with one addition: the world can render one scene in two
looks, so in a share of the rows the picture that is noised is not the one that has to come out. x_t = a z_source +
b e, and the v that leads to the target is v = (a x_t - z_target) / b. This is the very job of image-to-image at a
timestep t. It is only asked for where b is well away from 0: towards small t the formula asks for ever larger v, and
there the picture should no longer change its look anyway.

Phase 2 makes one forward per step enough: below t = 600 the student regresses on the guided prediction of the frozen
phase-1 model (guidance distillation), above it on the consistency target of a DDIM step of that model (LCM, arXiv
2310.04378), so that the chain ends at the guided denoiser at t = 599. The paired rows go on.

Everything is resumable: a checkpoint holds weights, averages and optimizer, and batches depend on the step alone.
"""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.tiny.parts import build_autoencoder, build_text_encoder, build_unet, save_folder
from core.tiny.pool import Batch, Pool, batch_at, build_pool, crops, load_pool, save_pool
from core.tiny.stage import Levels, Log, Stage, autocast, write
from core.tiny.vocabulary import build_tokenizer

SPLIT_T = 600
GRID = tuple(20 * i + 19 for i in range(50))
SKIP = 40
HUBER_C = 1e-3


@dataclass(frozen=True)
class Settings:
    """All that the result depends on. Steps are optimizer steps; sides in pixels or latent cells."""

    seed: int = 0
    autoencoder_steps: int = 8400
    autoencoder_scenes: int = 8
    autoencoder_looks: int = 4
    autoencoder_side_px: int = 64
    autoencoder_lr: float = 1.5e-3
    latent_noise: float = 0.07
    pool_scenes: int = 5000
    pool_looks: int = 5
    small_steps: int = 2150
    small_batch: int = 64
    small_cells: int = 8
    full_steps: int = 10650
    full_batch: int = 16
    tune_steps: int = 0
    tune_batch: int = 16
    lr: float = 1e-3
    tune_lr: float = 3e-4
    pair_share: float = 0.7
    pair_t_low: int = 40
    pair_t_high: int = 420
    focus_t: int = 160
    own_share: float = 0.25
    own_t_low: int = 15
    object_weight: float = 2.0
    drop_share: float = 0.1
    guidance: float = 1.0
    average: float = 0.999
    checkpoint_s: float = 120.0


def _rate(step: int, done: float, peak: float, warm_up: int = 100) -> float:
    """Linear warm-up, then a cosine down to 5 % at done = 1."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (0.05 + 0.475 * (1.0 + math.cos(math.pi * done)))


def _of(settings: Settings) -> dict[str, Any]:
    return {"rate": _rate, "average": settings.average, "checkpoint_s": settings.checkpoint_s}


def train_autoencoder(settings: Settings, work: Path, device: torch.device, log: Log) -> Any:
    """Stage 1. Losses on pixels, areas (colour) and differences (thin lines); latents held at mean 0, deviation 1."""
    torch.manual_seed(settings.seed)
    vae = build_autoencoder().to(device, memory_format=torch.channels_last)
    stage = Stage("autoencoder", work, vae, log, **_of(settings))

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        picture = crops(
            settings.seed,
            step,
            settings.autoencoder_scenes,
            settings.autoencoder_looks,
            settings.autoencoder_side_px,
        )
        x = (picture.to(device) * 2.0 - 1.0).contiguous(memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed((settings.seed << 24) + step)
        with autocast(device):
            z = vae.encoder(x).float()
            jitter = torch.randn(z.shape, generator=generator).to(device)
            y = vae.decoder(z + settings.latent_noise * jitter).float()
        mean, deviation = z.mean((0, 2, 3)), z.var((0, 2, 3)).add(1e-6).sqrt()
        moments = (mean**2).mean() + ((deviation - 1.0) ** 2).mean()
        # The decoder's own clamp saturates towards 3; latents beyond it could not be told apart.
        far = torch.relu(z.abs() - 2.7).pow(2).mean()
        edges = sum((x.diff(dim=d) - y.diff(dim=d)).abs().mean() for d in (2, 3))
        # Colour first: on its own, a loss on small differences leaves wide areas in wrong colours for long.
        areas = nnf.mse_loss(nnf.avg_pool2d(y, 4), nnf.avg_pool2d(x, 4))
        loss = (y - x).abs().mean() + 4.0 * areas + 0.25 * edges + 0.1 * moments + 0.01 * far
        error = float(((y - x) / 2.0).detach().pow(2).mean())
        return loss, {"psnr_db": -10.0 * math.log10(error)}

    stage.run(settings.autoencoder_steps, settings.autoencoder_lr, loss_at)
    vae.load_state_dict(stage.progress.average)
    return vae.eval().requires_grad_(False)


def make_pool(settings: Settings, work: Path, vae: Any, device: torch.device, log: Log) -> Pool:
    """Latents of rendered scenes, computed once."""
    path = work / "pool.pt"
    if path.exists():
        return load_pool(torch.load(path, weights_only=True))

    @torch.no_grad()
    def encode(picture: Tensor) -> Tensor:
        with autocast(device):
            x = (picture.to(device) * 2.0 - 1.0).contiguous(memory_format=torch.channels_last)
            return vae.encoder(x).float().cpu()

    pool = build_pool(settings.seed, settings.pool_scenes, settings.pool_looks, encode, log)
    write(path, save_pool(pool))
    return pool


class Painter(torch.nn.Module):
    """U-Net and text encoder as one trainable module: v of noisy latents under prompts."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.unet = build_unet()
        self.encoder = build_text_encoder(tokenizer)
        self._tokenizer = tokenizer

    def forward(self, x_Bchw: Tensor, t_B: Tensor, prompts: list[str]) -> Tensor:
        """v, float32, of the shape of x."""
        tokens = self._tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        with autocast(x_Bchw.device, small=True):
            text = self.encoder(tokens.input_ids.to(x_Bchw.device))[0]
            out = self.unet(x_Bchw, t_B, encoder_hidden_states=text, return_dict=False)[0]
        return out.float()


def _noised(batch: Batch, levels: Levels, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_t, the v that leads to the target, t, and the noise."""
    t_B = batch.t.to(device)
    a, b = levels(t_B)
    noise = torch.randn(batch.source.shape, generator=batch.generator).to(device)
    x = a * batch.source.to(device) + b * noise
    v = torch.where(
        batch.pair.to(device).view(-1, 1, 1, 1),
        (a * x - batch.target.to(device)) / b.clamp(min=0.2),
        a * noise - b * batch.target.to(device),
    )
    return x, v, t_B, noise


@torch.no_grad()
def _on_own_estimates(
    painter: Painter, batch: Batch, levels: Levels, settings: Settings, device: torch.device
) -> Batch:
    """The batch with the source of its first rows replaced by what the model makes of them, to be noised less.

    It is what the second and later steps of a run meet. Trained on true pictures alone they would keep whatever the
    first step got wrong."""
    count = round(settings.own_share * len(batch.prompts))
    rows = torch.nonzero(batch.pair)[:count, 0]
    if len(rows) == 0:
        return batch
    source, t = batch.source.clone(), batch.t.clone()
    noise = torch.randn(source[rows].shape, generator=batch.generator)
    t_B = t[rows].to(device)
    a, b = levels(t_B)
    x = a * source[rows].to(device) + b * noise.to(device)
    source[rows] = (a * x - b * painter(x, t_B, [batch.prompts[int(i)] for i in rows])).cpu()
    share = torch.rand(len(rows), generator=batch.generator)
    t[rows] = (settings.own_t_low + share * (t[rows] - settings.own_t_low).clamp(min=1)).long()
    return replace(batch, source=source, t=t)


def train_painter(settings: Settings, work: Path, pool: Pool, device: torch.device, log: Log) -> Painter:
    """Stages 2 (small pieces, then whole pictures) and 3 (tuning for one forward per step)."""
    torch.manual_seed(settings.seed + 1)
    painter = Painter(build_tokenizer()).to(device)
    painter.unet.to(memory_format=torch.channels_last)
    levels = Levels(device)
    stage = Stage("painter", work, painter, log, **_of(settings))
    # Most of the training where the product works.
    every_t = (
        *(*range(settings.focus_t),) * 8,
        *(*range(settings.focus_t, settings.pair_t_high),) * 2,
        *range(settings.pair_t_high, 1000),
    )

    def plain_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        small = step < settings.small_steps
        batch = batch_at(
            pool,
            settings.seed,
            step,
            settings.small_batch if small else settings.full_batch,
            cells=settings.small_cells if small else pool.latent.shape[-1],
            pair_share=settings.pair_share,
            pair_t=(settings.pair_t_low, settings.pair_t_high),
            drop_share=settings.drop_share,
            timesteps=every_t,
        )
        batch = _on_own_estimates(painter, batch, levels, settings, device)
        x, v, t_B, _ = _noised(batch, levels, device)
        _, b = levels(t_B)
        # An error of v is an error of the picture times 1 / b: not allowed to outweigh all else where b is small.
        weight = (b / 0.5).clamp(max=1.0).pow(2) * (1.0 + settings.object_weight * batch.objects.to(device))
        error = ((painter(x, t_B, batch.prompts) - v).pow(2) * weight).mean((1, 2, 3))
        pair = batch.pair.to(device)
        with torch.no_grad():
            figures = {"plain": float(error[~pair].mean()), "pair": float(error[pair].mean())}
        return error.mean(), figures

    stage.run(settings.small_steps + settings.full_steps, settings.lr, plain_loss)
    painter.load_state_dict(stage.progress.average)
    if settings.tune_steps == 0:
        return painter
    return _tune(settings, work, pool, painter, levels, device, log)


def _tune(
    settings: Settings, work: Path, pool: Pool, painter: Painter, levels: Levels, device: torch.device, log: Log
) -> Painter:
    teacher = copy.deepcopy(painter).eval().requires_grad_(False)
    follower = copy.deepcopy(painter).eval().requires_grad_(False)
    stage = Stage("tuned", work, painter, log, **_of(settings), beside=follower)

    @torch.no_grad()
    def guided(x: Tensor, t_B: Tensor, prompts: list[str]) -> Tensor:
        both = teacher(torch.cat((x, x)), torch.cat((t_B, t_B)), [*prompts, *([""] * len(prompts))])
        conditional, free = both.chunk(2)
        return free + (1.0 + settings.guidance) * (conditional - free)

    def tune_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = batch_at(
            pool,
            settings.seed + 1,
            step,
            settings.tune_batch,
            cells=pool.latent.shape[-1],
            pair_share=settings.pair_share,
            pair_t=(settings.pair_t_low, settings.pair_t_high),
            drop_share=0.0,
            timesteps=GRID,
        )
        x, v, t_B, _ = _noised(batch, levels, device)
        out = painter(x, t_B, batch.prompts)
        pair = batch.pair.to(device)
        low, high = ~pair & (t_B < SPLIT_T), ~pair & (t_B >= SPLIT_T)
        paired = (out - v)[pair].pow(2).mean()
        distilled = consistent = out.new_zeros(())
        plain = torch.nonzero(~pair)[:, 0]
        if len(plain):
            names = [batch.prompts[int(i)] for i in plain]
            wanted_v = torch.zeros_like(v)
            wanted_v[plain] = guided(x[plain], t_B[plain], names)
            if low.any():
                distilled = (out - wanted_v)[low].pow(2).mean()
            if high.any():
                with torch.no_grad():
                    a, b = levels(t_B[high])
                    clean = a * x[high] - b * wanted_v[high]
                    noise = a * wanted_v[high] + b * x[high]
                    t_next = t_B[high] - SKIP
                    a2, b2 = levels(t_next)
                    x_next = a2 * clean + b2 * noise
                    rows = [batch.prompts[int(i)] for i in torch.nonzero(high)[:, 0]]
                    # Below the split the chain ends at the guided denoiser itself.
                    v_next = torch.where(
                        (t_next >= SPLIT_T).view(-1, 1, 1, 1),
                        follower(x_next, t_next, rows),
                        guided(x_next, t_next, rows),
                    )
                    target = a2 * x_next - b2 * v_next
                a, b = levels(t_B[high])
                got = a * x[high] - b * out[high]
                consistent = (nnf.mse_loss(got, target, reduction="none") + HUBER_C**2).sqrt().sub(HUBER_C).mean()
        loss = paired + distilled + consistent
        with torch.no_grad():
            for slow, fast in zip(follower.parameters(), painter.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
        return loss, {
            "pair": float(paired.detach()),
            "guided": float(distilled.detach()),
            "consistent": float(consistent.detach()),
        }

    stage.run(settings.tune_steps, settings.tune_lr, tune_loss)
    painter.load_state_dict(stage.progress.average)
    return painter


def train(settings: Settings, work: Path, out: Path, device: torch.device, log: Log) -> None:
    """The whole recipe. `work` keeps checkpoints, so that an interrupted run goes on; `out` gets the model folder."""
    work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    vae = train_autoencoder(settings, work, device, log)
    pool = make_pool(settings, work, vae, device, log)
    painter = train_painter(settings, work, pool, device, log)
    export(settings, work, out, vae, painter, time.monotonic() - started)
    log(f"written to {out}")


def export(settings: Settings, work: Path, out: Path, vae: Any, painter: Painter, seconds: float) -> None:
    """Write the model folder with its recipe and loss curves."""
    save_folder(out, copy.deepcopy(painter.unet).cpu(), copy.deepcopy(vae).cpu(), copy.deepcopy(painter.encoder).cpu())
    recipe = {"settings": asdict(settings), "seconds_of_last_run": round(seconds), "torch": torch.__version__}
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    for curve in sorted(work.glob("*.csv")):
        (out / f"curve_{curve.name}").write_text(curve.read_text(encoding="utf-8"), encoding="utf-8")
