"""Judge of text-to-image: which kinds of object a picture shows, and in which colour each.

A small convolutional network names kind and colour of every cell of a picture, and by them which kinds are there. It is
trained here and now on true renders in the styles that keep colours, in colours drawn anew, of scenes that neither
training nor evaluation knows; what it says of unseen true renders is how far it can be relied on.

Shapes: B pictures, uint8 (B, H, W, 3) of `PICTURE_PX`; h w cells of `CELL_PX` pixels; S kinds of object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from core.params import Params
from core.stream import StreamConfig
from core.tiny.evaluate import JUDGE_SEED, HeldOut
from core.tiny.judge import as_bytes
from core.tiny.parts import PICTURE_PX
from core.tiny.shards import stream_of
from core.tiny.stage import autocast
from core.world import COLOUR_NAMES, COLOURED_STYLES, SHAPES, caption
from core.world.scene import SLOT_SHAPES

CELL_PX = 4
SEEN_PX = 160
"""Of a kind of object in a true render, to be judged; of fewer pixels, but some, nothing is asked."""
WIDTHS = (32, 64, 128)
"""Of the judge, at a half, a quarter and an eighth of the side."""
DILATIONS = (1, 2, 4, 1)
GROUND_WEIGHT = 0.1
"""Of a cell without a thing in the judge's training; one with a thing counts 1."""
RATE = 4e-3
TOGETHER = 48
"""Scenes that are rendered at once."""
STYLES_EACH = 3
"""Of every scene that the judge learns from."""
ABSENT = -1


@dataclass(frozen=True)
class Shown:
    """True renders. kind_Bhw: of each cell, 0 for none, else 1 + index into SHAPES. colour_BS: of each kind, into
    COLOUR_NAMES, ABSENT where the scene has none. pixels_BS: how many it covers."""

    picture_BHWC: Tensor
    kind_Bhw: Tensor
    colour_BS: Tensor
    pixels_BS: Tensor


def colours_of(held_out: HeldOut, colour_BK: Tensor) -> Tensor:
    """(B, S) of objects in such colours (as `Scenes.colour`), ABSENT where there is none."""
    colours = torch.full((len(held_out.scenes), len(SHAPES)), ABSENT)
    for slot, kind in enumerate(SLOT_SHAPES):
        present = held_out.scenes.present[:, slot]
        colours[present, kind] = colour_BK[present, slot]
    return colours


def shown(held_out: HeldOut, styles: Sequence[str] = COLOURED_STYLES, seed: int = 0) -> Shown:
    """Every scene in every style, each with colours of its own."""
    rng, count = stream_of(seed, 31), len(held_out.scenes)
    masks = held_out.object_masks()
    centre = CELL_PX // 2
    kinds = (masks * torch.arange(1, 1 + len(SHAPES))[:, None, None]).sum(1)[:, centre::CELL_PX, centre::CELL_PX]
    pictures, colours = [], []
    for style in styles:
        dyes = [rng.sample(range(len(COLOUR_NAMES)), len(SHAPES)) for _ in range(count)]
        colour_BK = torch.tensor(dyes)[:, torch.tensor(SLOT_SHAPES)]
        pictures.append(as_bytes(held_out.view.in_colours(colour_BK).shade(style)))
        colours.append(colours_of(held_out, colour_BK))
    times = len(styles)
    pixels = masks.flatten(2).sum(2)
    return Shown(torch.cat(pictures), kinds.repeat(times, 1, 1), torch.cat(colours), pixels.repeat(times, 1))


def examples(scenes: int) -> Shown:
    """True renders to learn from, of so many scenes, each in `STYLES_EACH` styles."""
    rng, parts = stream_of(JUDGE_SEED, 32), []
    for first in range(0, scenes, TOGETHER):
        held_out = HeldOut(min(TOGETHER, scenes - first), JUDGE_SEED + first)
        parts.append(shown(held_out, rng.sample(COLOURED_STYLES, STYLES_EACH), first))
    return Shown(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Shown)))


def _convolution(into: int, out: int, side: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(into, out, side, stride, side // 2 * dilation, dilation)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())


class ObjectJudge(nn.Module):
    """Three halvings, convolutions that see ever farther, and back to cells. A kind of object is there or not by the
    share of the picture that its cells take, so that what is told apart is whole pictures and not cells alone."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter, eighth = WIDTHS
        self.enter = nn.Sequential(
            *(_convolution(3, half, 5, stride=2), _convolution(half, quarter, 3, stride=2)),
            _convolution(quarter, quarter, 3),
        )
        self.down = _convolution(quarter, eighth, 3, stride=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(_convolution(eighth, eighth, 3, dilation=d), nn.Conv2d(eighth, eighth, 3, padding=1))
            for d in DILATIONS
        )
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(eighth, quarter, 1))
        self.leave = nn.Sequential(
            _convolution(quarter, quarter, 3), nn.Conv2d(quarter, 1 + len(SHAPES) + len(COLOUR_NAMES), 1)
        )
        self.there = nn.Parameter(torch.tensor([1.0, 4.0]).repeat(len(SHAPES), 1))

    def forward(self, picture_BHWC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B, 1 + S, h, w) of kinds and (B, colours, h, w) of colours, and (B, S) of a kind being there."""
        at_cells = self.enter(picture_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1.0)
        x = self.down(at_cells)
        for block in self.blocks:
            x = nnf.relu(x + block(x))
        kind, colour = self.leave(at_cells + self.up(x)).float().split((1 + len(SHAPES), len(COLOUR_NAMES)), 1)
        share = kind.softmax(1)[:, 1:].mean((2, 3))
        return kind, colour, self.there[:, 0] * (share + 1e-4).log() + self.there[:, 1]

    @torch.no_grad()
    def found(self, picture_BHWC: Tensor) -> Tensor:
        """(B, S): the colour of each kind of object, into COLOUR_NAMES; ABSENT where it is not there."""
        rows = []
        for pictures in picture_BHWC.split(64):
            kind, colour, there = self(pictures)
            which = torch.einsum("bshw,bchw->bsc", kind.softmax(1)[:, 1:], colour.log_softmax(1)).argmax(2)
            rows.append(torch.where(there > 0.0, which, ABSENT))
        return torch.cat(rows)


def trained_object_judge(learnt: Shown, steps: int = 1500, batch: int = 32) -> ObjectJudge:
    """Always the same for the same examples."""
    torch.manual_seed(0)
    judge = ObjectJudge().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(judge.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    # What is hard is to tell one kind from another, not from the ground, which is nearly all there is.
    weights = torch.tensor([GROUND_WEIGHT] + [1.0] * len(SHAPES))
    judged = (learnt.colour_BS == ABSENT) | (learnt.pixels_BS >= SEEN_PX)
    for _ in range(steps):
        rows = torch.randint(len(learnt.picture_BHWC), (batch,), generator=generator)
        pictures, kinds = learnt.picture_BHWC[rows], learnt.kind_Bhw[rows]
        if bool(torch.randint(2, (1,), generator=generator)):
            pictures, kinds = pictures.flip(2), kinds.flip(2)
        with autocast(pictures.device):
            kind, colour, there = judge(pictures)
        # The colour of a cell is that of its kind of object; cells of none are not asked for one.
        wanted = torch.cat([torch.full((batch, 1), ABSENT), learnt.colour_BS[rows]], 1)
        wanted = wanted.gather(1, kinds.flatten(1)).view_as(kinds)
        present = (learnt.colour_BS[rows] != ABSENT).float()
        loss = nnf.cross_entropy(kind, kinds, weights) + nnf.cross_entropy(colour, wanted, ignore_index=ABSENT)
        loss = loss + nnf.binary_cross_entropy_with_logits(there, present, judged[rows].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval().requires_grad_(False)


def reliability(judge: ObjectJudge, unseen: Shown) -> tuple[float, float]:
    """Of true renders, shares of (objects found in their colour, kinds that a scene lacks found to be absent)."""
    found = judge.found(unseen.picture_BHWC)
    there, absent = unseen.pixels_BS >= SEEN_PX, unseen.colour_BS == ABSENT
    right = found == unseen.colour_BS
    return float(right[there].float().mean()), float(right[absent].float().mean())


@dataclass(frozen=True)
class Named:
    """named: the share of objects named in the prompts that were found in their colour, named_by: in each style.
    by_chance: the share found in the pictures of other prompts of the same style. kinds: found in whatever colour."""

    named: float
    named_by: dict[str, float]
    by_chance: float
    kinds: float


def evaluate_text(
    model: Any, params: Params, held_out: HeldOut, judge: ObjectJudge, styles: Sequence[str] = COLOURED_STYLES
) -> tuple[Named, dict[str, Tensor]]:
    """Pictures made from the captions of the scenes alone, by the real stream, each from noise of its own; and they
    themselves (B, H, W, 3) by style."""
    stream = model.stream(StreamConfig(PICTURE_PX, PICTURE_PX))
    # From the noisiest level: there the picture that noise takes the place of is nearly gone.
    params = params.with_values(task="txt2img", mode="latency", strength=1.0)
    empty = torch.zeros((1, PICTURE_PX, PICTURE_PX, 3), dtype=torch.uint8)
    asked = colours_of(held_out, held_out.scenes.colour)
    named = asked != ABSENT
    # Every prompt is held against the pictures of the one before as well.
    others = asked.roll(1, 0)
    pictures, hits, chance, kinds = {}, {}, [], []
    for style in styles:
        made = []
        for scene in range(len(asked)):
            plan = stream.plan(params.with_values(prompt=caption(held_out.scenes, style, scene), seed=scene))
            made.append(stream.step(empty, scene, plan).frame_FHWC[0, ..., :3].cpu())
        pictures[style] = torch.stack(made)
        found = judge.found(pictures[style])
        hits[style] = float((found == asked)[named].float().mean())
        chance.append(float((found == others)[others != ABSENT].float().mean()))
        kinds.append(float((found != ABSENT)[named].float().mean()))
    named_share = sum(hits.values()) / len(hits)
    return Named(named_share, hits, sum(chance) / len(chance), sum(kinds) / len(kinds)), pictures
