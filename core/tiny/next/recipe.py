"""The recipe of the next version's painter: U-Net and text encoder, on the latents of a finished autoencoder.

Most rows are pairs: a picture, and the same picture in the look that the prompt names. The source is noised,
x = a z_source + b e, and the network answers with z_target itself ("sample" prediction): the very job of image-to-image
at a timestep t, with exact pairs from filters and from a renderer. One forward per step and no guidance then obey the
prompt. The other rows are scenes that are noised and have to come out themselves, at every t: text-to-image.

In `own_share` of the pairs the source is what the model itself makes of them, noised less: what the second and later
steps of a run meet. Objects weigh more than the ground they stand on. Some rows are also decoded, and compared as
pictures: what a latent's error costs differs between its channels.

Everything is resumable: a checkpoint holds weights, averages and optimizer, and batches depend on the step alone.
"""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.tiny.autoencoder import PatchAutoencoder
from core.tiny.next.parts import NEXT_SCHEDULER, TOKENS, build_unet, tokenizer
from core.tiny.next.shards import Batch, Encode, Mix, Shard, Shards, Sizes, batch_at, make_shard, path_of, save_shard
from core.tiny.parts import build_text_encoder, save_folder
from core.tiny.stage import Levels, Log, Stage, autocast


@dataclass(frozen=True)
class Settings:
    """All that the result depends on. steps, minutes: of training at most, whichever are over first; the learning rate
    follows."""

    seed: int = 0
    steps: int = 12_000
    minutes: float = 1e9
    lr: float = 1.5e-3
    own_share: float = 0.1
    own_t_low: int = 15
    object_weight: float = 2.0
    absolute: float = 0.2
    decoded_rows: int = 6
    decoded_weight: float = 1.0
    average: float = 0.999
    checkpoint_s: float = 120.0
    mix: Mix = field(default_factory=Mix)
    sizes: Sizes = field(default_factory=Sizes)


def _rate(step: int, done: float, peak: float, warm_up: int = 100) -> float:
    """Linear warm-up, then a cosine down to 2 % at done = 1."""
    return peak * min(1.0, (step + 1) / warm_up) * (0.02 + 0.49 * (1.0 + math.cos(math.pi * min(1.0, done))))


def load_autoencoder(folder: Path, device: torch.device) -> PatchAutoencoder:
    """Frozen."""
    vae = PatchAutoencoder.from_pretrained(folder, torch_dtype=torch.float32, low_cpu_mem_usage=False)
    return vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def encoder_of(vae: PatchAutoencoder, device: torch.device) -> Encode:
    """Pictures in 0..1 to latents on the CPU."""

    @torch.no_grad()
    def encode(picture: Tensor) -> Tensor:
        with autocast(device):
            return vae.encode(picture.to(device) * 2.0 - 1.0)[0].float().cpu()

    return encode


def produce(autoencoder: Path, work: Path, settings: Settings, device: str) -> None:
    """Make the shards of a whole run ahead of it, some at a time, until they are all made or this process is ended."""
    if device == "cpu":
        torch.set_num_threads(1)
    encode = encoder_of(load_autoencoder(autoencoder, torch.device(device)), torch.device(device))
    sizes, ahead = settings.sizes, 6
    for number in range(sizes.used_at(settings.steps).stop):
        newest = max((int(p.stem.split("_")[1]) for p in work.glob("shard_*.pt")), default=-1)
        if number < newest - sizes.window or path_of(work, number).exists():
            continue
        # The oldest that is there tells how far the training is.
        while number >= sizes.window and path_of(work, max(0, number - sizes.window - ahead)).exists():
            time.sleep(1.0)
        save_shard(path_of(work, number), make_shard(settings.seed, number, sizes, encode))


class Painter(torch.nn.Module):
    """U-Net and text encoder as one trainable module: the clean latents behind noisy ones, under prompts."""

    def __init__(self) -> None:
        super().__init__()
        self._tokenizer = tokenizer()
        self.unet = build_unet()
        self.encoder = build_text_encoder(self._tokenizer, TOKENS)

    def forward(self, x_Bchw: Tensor, t_B: Tensor, prompts: list[str]) -> Tensor:
        """z, float32, of the shape of x."""
        tokens = self._tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        with autocast(x_Bchw.device):
            text = self.encoder(tokens.input_ids.to(x_Bchw.device))[0]
            out = self.unet(x_Bchw, t_B, encoder_hidden_states=text, return_dict=False)[0]
        return out.float()


def _noised(batch: Batch, levels: Levels, device: torch.device) -> tuple[Tensor, Tensor]:
    """x_t and t."""
    t_B = batch.t.to(device)
    a, b = levels(t_B)
    noise = torch.randn(batch.source.shape, generator=batch.generator).to(device)
    x = a * batch.source.to(device) + b * noise
    return x.contiguous(memory_format=torch.channels_last), t_B


@torch.no_grad()
def _on_own_estimates(
    painter: Painter, batch: Batch, levels: Levels, settings: Settings, device: torch.device
) -> Batch:
    """The batch with the source of its first pairs replaced by what the model makes of them, to be noised less.

    It is what the second and later steps of a run meet. Trained on true pictures alone they would keep whatever the
    first step got wrong."""
    count = round(settings.own_share * len(batch.prompts))
    rows = torch.nonzero(batch.pair)[:count, 0]
    if len(rows) == 0:
        return batch
    source, t = batch.source.clone(), batch.t.clone()
    part = replace(batch, source=source[rows], t=t[rows])
    x, t_B = _noised(part, levels, device)
    source[rows] = painter(x, t_B, [batch.prompts[int(i)] for i in rows]).cpu()
    share = torch.rand(len(rows), generator=batch.generator)
    t[rows] = (settings.own_t_low + share * (t[rows] - settings.own_t_low).clamp(min=1)).long()
    return replace(batch, source=source, t=t)


def _as_pictures(vae: PatchAutoencoder, out: Tensor, target: Tensor, device: torch.device) -> Tensor:
    """Absolute difference of the decoded pictures, and of the steps between their pixels (edges)."""
    with autocast(device):
        with torch.no_grad():
            wanted = vae.decode(target)[0]
        off = (vae.decode(out)[0] - wanted).float()
    return off.abs().mean() + sum(off.diff(dim=d).abs().mean() for d in (-1, -2))


def train_painter(
    settings: Settings, work: Path, shards: Shards, vae: PatchAutoencoder, device: torch.device, log: Log
) -> Painter:
    """The averaged weights after all steps."""
    torch.manual_seed(settings.seed + 1)
    painter = Painter().to(device)
    painter.unet.to(memory_format=torch.channels_last)
    levels = Levels(device)
    stage = Stage(
        "painter",
        work,
        painter,
        log,
        rate=_rate,
        average=settings.average,
        checkpoint_s=settings.checkpoint_s,
        minutes=settings.minutes,
    )

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = batch_at(shards.at(step), settings.seed, step, settings.mix)
        batch = _on_own_estimates(painter, batch, levels, settings, device)
        x, t_B = _noised(batch, levels, device)
        target, pair = batch.target.to(device), batch.pair.to(device)
        weight = 1.0 + settings.object_weight * batch.objects.to(device)
        out = painter(x, t_B, batch.prompts)
        off = out - target
        error = (off.square() * weight).mean((1, 2, 3))
        loss = error.mean() + settings.absolute * (off.abs() * weight).mean()
        figures = {}
        rows = torch.nonzero(pair)[-settings.decoded_rows :, 0]
        rows = rows[: max(1, settings.decoded_rows * settings.mix.large_rows // len(pair))] if len(rows) else rows
        if len(rows):
            picture = _as_pictures(vae, out[rows], target[rows], device)
            loss = loss + settings.decoded_weight * picture
            figures["picture"] = float(picture.detach())
        with torch.no_grad():
            for name, of in (("plain", ~pair), ("pair", pair)):
                if bool(of.any()):
                    figures[name] = float(error[of].mean())
        return loss, figures

    stage.run(settings.steps, settings.lr, loss_at)
    painter.load_state_dict(stage.progress.average)
    return painter


def train(
    settings: Settings,
    autoencoder: Path,
    work: Path,
    out: Path,
    device: torch.device,
    log: Log,
    *,
    produced: bool = False,
) -> None:
    """The painter, and the model folder with it. autoencoder: a folder of weights. work keeps shards and checkpoints,
    so that an interrupted run goes on. produced: another process makes the shards (`produce`)."""
    work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    vae = load_autoencoder(autoencoder, device)
    encode = encoder_of(vae, device)

    def make(number: int) -> Shard:
        return make_shard(settings.seed, number, settings.sizes, encode)

    painter = train_painter(settings, work, Shards(work, settings.sizes, None if produced else make), vae, device, log)
    export(settings, work, out, vae, painter, time.monotonic() - started)
    log(f"written to {out}")


def export(settings: Settings, work: Path, out: Path, vae: Any, painter: Painter, seconds: float) -> None:
    """Write the model folder with its recipe and loss curves."""
    unet, autoencoder, encoder = (copy.deepcopy(part).cpu() for part in (painter.unet, vae, painter.encoder))
    save_folder(out, unet, autoencoder, encoder, tokenizer(), NEXT_SCHEDULER)
    recipe = {"settings": asdict(settings), "seconds_of_last_run": round(seconds), "torch": torch.__version__}
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    for curve in sorted(work.glob("*.csv")):
        (out / f"curve_{curve.name}").write_text(curve.read_text(encoding="utf-8"), encoding="utf-8")
