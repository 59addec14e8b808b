"""The recipe of the painter: U-Net and text encoder, on the latents of a finished autoencoder.

Most rows are pairs: a picture, and the same picture in the look that the prompt names. The source is noised,
x = a z_source + b e, and the network answers with z_target itself ("sample" prediction): the very job of image-to-image
at a timestep t, with exact pairs from filters and from a renderer. One forward per step and no guidance then obey the
prompt. The other rows are scenes that are noised and have to come out themselves: text-to-image, whose most noise is of
arranged scenes alone (`core.tiny.arranged`).

In `own_share` of the pairs the source is what the model itself makes of them, noised less: what the second and later
steps of a run meet. Where a training goes on from finished weights, `kept` has the pairs answered as those answer them:
what they do well is then neither lost nor learnt again. Objects weigh more than the ground they stand on. Some rows are
also decoded, and compared as pictures: what a latent's error costs differs between its channels.

Everything is resumable: a checkpoint holds weights, averages and optimizer, and batches depend on the step alone.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.folder import ModelError, network
from core.tiny.autoencoder import PatchAutoencoder
from core.tiny.batches import Batch, Mix, Shards, draw, seed_of
from core.tiny.parts import PICTURE_PX, build_text_encoder, build_unet, save_folder
from core.tiny.shards import Encode, Shard, Sizes, make_shard, path_of, save_shard
from core.tiny.stage import Levels, Log, Stage, autocast
from core.tiny.vocabulary import build_tokenizer


@dataclass(frozen=True)
class PainterSettings:
    """All that the result depends on. steps, minutes: of training at most, whichever are over first; the learning rate
    follows. kept: see the module."""

    seed: int = 0
    steps: int = 12_000
    minutes: float = 1e9
    lr: float = 1.5e-3
    own_share: float = 0.1
    own_t_low: int = 15
    object_weight: float = 2.0
    absolute: float = 0.2
    decoded_share: float = 0.4
    decoded_weight: float = 1.0
    average: float = 0.999
    kept: bool = False
    checkpoint_s: float = 120.0
    mix: Mix = field(default_factory=Mix)
    sizes: Sizes = field(default_factory=Sizes)


ON_A_CARD = PainterSettings(
    steps=60_000,
    lr=1.2e-3,
    decoded_share=0.25,
    mix=Mix(rows=256, large_rows=64, picture_share=0.5, plain_share=0.3),
    sizes=Sizes(pictures=30, world=64, large=16, first=36, window=800, steps_per_shard=110),
)
"""Batches that keep a card busy; data is made by as many processes as there are cores, and all of it is kept."""


KEPT: Mapping[str, Any] = {
    "kept": True,
    "lr": 6e-4,
    "object_weight": 3.0,
    "decoded_share": 0.3,
    "average": 0.998,
    "mix": Mix(rows=32, large_rows=6, large_every=6, picture_share=0.25, arranged_share=0.4, plain_share=0.15),
    "sizes": Sizes(pictures=20, world=48, large=10, large_arranged=8, steps_per_shard=350),
}
"""Where weights that repaint well learn text-to-image: some hundred steps of a processor core."""


def settings_for(device: torch.device, keep: bool = False) -> PainterSettings:
    """The recipe as it is meant for a processor or a card. keep: what the weights that it starts from do in pairs."""
    settings = ON_A_CARD if device.type == "cuda" else PainterSettings()
    return replace(settings, **KEPT) if keep else settings


def _rate(step: int, done: float, peak: float, warm_up: int = 100) -> float:
    """Linear warm-up, then a cosine down to 2 % at done = 1."""
    return peak * min(1.0, (step + 1) / warm_up) * (0.02 + 0.49 * (1.0 + math.cos(math.pi * min(1.0, done))))


def load_autoencoder(folder: Path, device: torch.device) -> PatchAutoencoder:
    """Frozen. Raises `core.folder.ModelError`."""
    vae = network(folder, PatchAutoencoder, torch_dtype=torch.float32, low_cpu_mem_usage=False)
    return vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def encoder_of(vae: PatchAutoencoder, device: torch.device) -> Encode:
    """Pictures in 0..1 to latents on the CPU."""

    @torch.no_grad()
    def encode(picture: Tensor) -> Tensor:
        with autocast(device):
            return vae.encode(picture.to(device) * 2.0 - 1.0)[0].float().cpu()

    return encode


def produce(
    autoencoder: Path, work: Path, settings: PainterSettings, device: str, first: int = 0, every: int = 1, nice: int = 0
) -> None:
    """Make the shards of a whole run ahead of it, some at a time, until they are all made or this process is ended.

    first, every: which, where several processes share the work. nice: how much they stand back behind the training."""
    if nice and hasattr(os, "nice"):
        os.nice(nice)
    torch.set_num_threads(1)
    on = torch.device(device)
    encode = encoder_of(load_autoencoder(autoencoder, on), on)
    sizes, ahead = settings.sizes, 6
    for number in range(first, sizes.used_at(settings.steps).stop, every):
        newest = max((int(p.stem.split("_")[1]) for p in work.glob("shard_*.pt")), default=-1)
        if number < newest - sizes.window or path_of(work, number).exists():
            continue
        # The oldest that is there tells how far the training is.
        while number >= sizes.window and path_of(work, max(0, number - sizes.window - ahead)).exists():
            time.sleep(1.0)
        save_shard(path_of(work, number), make_shard(settings.seed, number, sizes, encode, on))


class Painter(torch.nn.Module):
    """U-Net and text encoder as one trainable module: the clean latents behind noisy ones, under prompts."""

    def __init__(self, side_px: int = PICTURE_PX) -> None:
        super().__init__()
        self.unet = build_unet(side_px)
        self.encoder = build_text_encoder(build_tokenizer())

    def forward(self, x_Bchw: Tensor, t_B: Tensor, tokens_BT: Tensor) -> Tensor:
        """z, float32, of the shape of x."""
        with autocast(x_Bchw.device):
            text = self.encoder(tokens_BT)[0]
            out = self.unet(x_Bchw, t_B, encoder_hidden_states=text, return_dict=False)[0]
        return out.float()


Paint = Callable[[Tensor, Tensor, Tensor], Tensor]
"""As `Painter.forward`."""


def _noised(source: Tensor, t_B: Tensor, levels: Levels, generator: torch.Generator) -> Tensor:
    """x_t."""
    a, b = levels(t_B)
    noise = torch.randn(source.shape, generator=generator, device=source.device)
    return (a * source + b * noise).contiguous(memory_format=torch.channels_last)


def _evenly(rows: int, count: int) -> slice:
    """`count` of so many rows, or one or two more, evenly spread over all kinds; none for 0."""
    return slice(0, rows, max(1, rows // count)) if count else slice(0)


@torch.no_grad()
def _on_own_estimates(
    paint: Paint, batch: Batch, levels: Levels, settings: PainterSettings, generator: torch.Generator
) -> Batch:
    """The batch with the source of some rows replaced by what the model makes of them, to be noised less.

    It is what the second and later steps of a run meet. Trained on true pictures alone they would keep whatever the
    first step got wrong."""
    rows = _evenly(len(batch.t), round(settings.own_share * len(batch.t)))
    t = batch.t[rows]
    if len(t) == 0:
        return batch
    source, less = batch.source.clone(), batch.t.clone()
    source[rows] = paint(_noised(batch.source[rows], t, levels, generator), t, batch.tokens[rows])
    share = torch.rand(t.shape, generator=generator, device=t.device)
    less[rows] = (settings.own_t_low + share * (t - settings.own_t_low).clamp(min=1)).long()
    return replace(batch, source=source, t=less)


@torch.no_grad()
def _as_before(before: Paint, batch: Batch, noised: Tensor, arranged: int) -> Batch:
    """The batch with what `before` answers as the targets of its pairs. arranged: rows at its end, no pairs."""
    rows = slice(len(noised) - arranged)
    answer = before(noised[rows], batch.t[rows], batch.tokens[rows])
    kept = torch.where(batch.pair[rows, None, None, None], answer, batch.target[rows])
    return replace(batch, target=torch.cat([kept, batch.target[len(kept) :]]))


def _as_pictures(vae: PatchAutoencoder, out: Tensor, target: Tensor) -> Tensor:
    """Absolute difference of the decoded pictures, and of the steps between their pixels (edges)."""
    with autocast(out.device):
        with torch.no_grad():
            wanted = vae.decode(target)[0]
        off = (vae.decode(out)[0] - wanted).float()
    return off.abs().mean() + sum(off.diff(dim=d).abs().mean() for d in (-1, -2))


def load_painter(painter: Painter, folder: Path) -> None:
    """The weights of a model folder of the same architecture, to go on from. Raises `core.folder.ModelError`."""
    from core.libraries import CLIPTextModel, UNet2DConditionModel

    parts = (("unet", painter.unet, UNet2DConditionModel), ("text_encoder", painter.encoder, CLIPTextModel))
    for name, module, kind in parts:
        weights = network(folder / name, kind, torch_dtype=torch.float32).state_dict()
        try:
            module.load_state_dict(weights)
        except RuntimeError:
            raise ModelError(
                f"{folder / name} is of another architecture than the painter; choose another one"
            ) from None


_KINDS = (False, True)
"""Of batches: small, large."""
Turn = Callable[[], tuple[Tensor, dict[str, Tensor]]]
"""Draws a batch; the loss, and figures to print."""


class _Recorded:
    """A turn and its backward pass, recorded by a card once and replayed then: the network is so small that starting
    its kernels one by one takes several times as long as they run."""

    def __init__(self, turn: Turn, parameters: list[torch.nn.Parameter], generator: torch.Generator) -> None:
        self._parameters = parameters
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                turn()[0].backward()
                self._hand_over([None] * len(parameters))
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(generator)
        with torch.cuda.graph(self._graph):
            loss, self._figures = turn()
            loss.backward()
        self._loss = loss.detach()
        self._gradients = [parameter.grad for parameter in parameters]

    def _hand_over(self, gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient

    def __call__(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, without a graph; the gradients are on the parameters."""
        self._graph.replay()
        self._hand_over(self._gradients)
        return self._loss, self._figures


def _loss(
    painter: Painter,
    vae: PatchAutoencoder,
    shards: Shards,
    levels: Levels,
    settings: PainterSettings,
    generator: torch.Generator,
    large: bool,
    before: Paint | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Of a batch that is drawn here. before: whose answers to pairs are to be kept."""
    batch = draw(shards, generator, settings.mix, large)
    batch = _on_own_estimates(painter, batch, levels, settings, generator)
    noised = _noised(batch.source, batch.t, levels, generator)
    if before is not None:
        batch = _as_before(before, batch, noised, settings.mix.arranged_rows(large))
    out = painter(noised, batch.t, batch.tokens)
    off = out - batch.target
    weight = 1.0 + settings.object_weight * batch.objects
    error = (off.square() * weight).mean((1, 2, 3))
    rows = _evenly(len(out), math.ceil(settings.decoded_share * len(out)))
    picture = _as_pictures(vae, out[rows], batch.target[rows])
    loss = error.mean() + settings.absolute * (off.abs() * weight).mean() + settings.decoded_weight * picture
    figures = {"picture": picture.detach()}
    for name, of in (("plain", ~batch.pair), ("pair", batch.pair)):
        figures[name] = (error.detach() * of).sum() / of.sum().clamp(min=1)
    return loss, figures


def _turns(
    turn: Callable[[torch.Generator, bool], Any], module: torch.nn.Module, device: torch.device, log: Log
) -> tuple[torch.Generator, list[Turn]]:
    """The turns of small and of large batches, and what their random numbers come from."""
    if device.type == "cuda":
        generator = torch.Generator(device)
        try:
            parameters = list(module.parameters())
            return generator, [_Recorded(partial(turn, generator, large), parameters, generator) for large in _KINDS]
        except RuntimeError as error:
            log(f"not recorded, kernels are started one by one: {str(error).splitlines()[0]}")
    generator = torch.Generator(device)
    return generator, [partial(turn, generator, large) for large in _KINDS]


def train_painter(
    settings: PainterSettings,
    work: Path,
    shards: Shards,
    vae: PatchAutoencoder,
    device: torch.device,
    log: Log,
    start: Path | None = None,
) -> Painter:
    """The averaged weights after all steps. start: a model folder to go on from instead of random weights."""
    torch.manual_seed(settings.seed + 1)
    painter, before = Painter(), None
    if start is not None:
        load_painter(painter, start)
    painter.to(device)
    painter.unet.to(memory_format=torch.channels_last)
    if settings.kept:
        before = copy.deepcopy(painter).eval().requires_grad_(False)
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
        tensorboard=True,
    )
    shards.go_to(stage.progress.step)
    generator, turns = _turns(
        partial(_loss, painter, vae, shards, levels, settings, before=before), painter, device, log
    )

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        shards.go_to(step)
        generator.manual_seed(seed_of(settings.seed, step))
        return turns[settings.mix.is_large(step)]()

    stage.run(settings.steps, settings.lr, loss_at)
    painter.load_state_dict(stage.progress.average)
    return painter


def train(
    settings: PainterSettings,
    autoencoder: Path,
    work: Path,
    out: Path,
    device: torch.device,
    log: Log,
    *,
    produced: bool = False,
    start: Path | None = None,
) -> None:
    """The painter, and the model folder with it. autoencoder: a folder of weights. work keeps shards and checkpoints,
    so that an interrupted run goes on. produced: other processes make the shards (`produce`). start: a model folder to
    go on from instead of random weights."""
    work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    vae = load_autoencoder(autoencoder, device)
    encode = encoder_of(vae, device)

    def make(number: int) -> Shard:
        return make_shard(settings.seed, number, settings.sizes, encode, device)

    shards = Shards(work, settings.sizes, None if produced else make, device)
    painter = train_painter(settings, work, shards, vae, device, log, start)
    export(settings, work, out, vae, painter, time.monotonic() - started)
    log(f"written to {out}")


def export(settings: PainterSettings, work: Path, out: Path, vae: Any, painter: Painter, seconds: float) -> None:
    """Write the model folder with its recipe and loss curves."""
    unet, autoencoder, encoder = (copy.deepcopy(part).cpu() for part in (painter.unet, vae, painter.encoder))
    recipe = {"settings": asdict(settings), "seconds_of_last_run": round(seconds), "torch": torch.__version__}
    curves = {f"curve_{curve.name}": curve.read_text(encoding="utf-8") for curve in sorted(work.glob("*.csv"))}
    save_folder(out, unet, autoencoder, encoder, {"recipe.json": json.dumps(recipe, indent=2) + "\n", **curves})
