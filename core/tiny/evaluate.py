"""How well the embedded model does its job, measured on scenes that it never saw.

The flat grey render of a scene goes in and the prompt names a style and the objects; the output is judged by a small
classifier that was trained on true renders, by its edges, and by the colours of its objects. Because the world can
render every scene in every style, each judge is first tried on the truth, and its score there is the ceiling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from core.params import Params
from core.stream import StreamConfig
from core.tiny.judge import StyleJudge
from core.tiny.parts import PICTURE_PX
from core.tiny.shards import FIRST_TRAINING_SEED, LATEST_S, stream_of
from core.world import COLOUR_NAMES, COLOURED_STYLES, SHAPES, STYLES, Scenes, caption, scenes_from_seeds
from core.world.scene import SLOT_SHAPES
from core.world.world import View

EDGE_SHARE = 0.06
"""The strongest so many pixels of a picture, by luma gradient, count as its edges."""
EDGE_TOLERANCE_PX = 2
JUDGE_SEED = FIRST_TRAINING_SEED // 2
"""Scenes for the judges start here, those for the evaluation at 10,000: neither is ever trained on."""
EVALUATION_SEED = 10_000


@dataclass(frozen=True)
class Case:
    """One picture to make. source: the grey render; truth: the same scene in the style; both (H, W, 3) uint8."""

    scene: int
    style: int
    prompt: str
    source: Tensor
    truth: Tensor


def _uint8(colour_3HW: Tensor) -> Tensor:
    return (colour_3HW.permute(1, 2, 0) * 255.0 + 0.5).to(torch.uint8).contiguous()


class HeldOut:
    """`count` scenes that training never touches."""

    def __init__(self, count: int, first_seed: int = EVALUATION_SEED) -> None:
        self.scenes: Scenes = scenes_from_seeds(range(first_seed, first_seed + count))
        rng = stream_of(first_seed, 4)
        self.time_s = torch.tensor([rng.random() * LATEST_S for _ in range(count)])
        self.view = View(self.scenes, self.time_s, PICTURE_PX, PICTURE_PX)

    def cases(self) -> Iterator[Case]:
        """Every scene in every style."""
        source = self.view.shade("grey")
        for style, name in enumerate(STYLES):
            truth = self.view.shade(name)
            for scene in range(len(self.scenes)):
                prompt = caption(self.scenes, name, scene)
                yield Case(scene, style, prompt, _uint8(source[scene]), _uint8(truth[scene]))

    def object_masks(self) -> Tensor:
        """(count, shapes, H, W) bool: where each kind of object is seen."""
        kinds = self.view.instance().long() - 2
        shapes = torch.tensor(SLOT_SHAPES)[kinds.clamp(min=0)]
        return torch.stack([(shapes == i) & (kinds >= 0) for i in range(len(SHAPES))], dim=1)


Painting = Callable[[Case], Tensor]


def painter(model: Any, params: Params) -> Painting:
    """Paints single pictures with the real stream, in latency mode (which equals the stream batch)."""
    stream = model.stream(StreamConfig(PICTURE_PX, PICTURE_PX))
    params = params.with_values(mode="latency")

    def paint(case: Case) -> Tensor:
        plan = stream.plan(params.with_values(prompt=case.prompt))
        picture = stream.step(case.source[None], case.scene, plan)
        return picture.frame_FHWC[0, ..., :3]

    return paint


def labelled(held_out: HeldOut) -> tuple[Tensor, Tensor]:
    """True renders (B, H, W, 3) and their styles (B,)."""
    cases = list(held_out.cases())
    return torch.stack([c.truth for c in cases]), torch.tensor([c.style for c in cases])


def edges(picture_HWC: Tensor) -> Tensor:
    """(H, W) bool: the `EDGE_SHARE` of pixels with the largest Sobel magnitude of luma (Rec. 601)."""
    luma = (picture_HWC[..., :3].float() @ torch.tensor([0.299, 0.587, 0.114]))[None, None]
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    padded = nnf.pad(luma, (1, 1, 1, 1), mode="replicate")
    gradient = nnf.conv2d(padded, torch.stack((sobel, sobel.T))[:, None])[0]
    strength = gradient.pow(2).sum(0)
    count = int(EDGE_SHARE * strength.numel())
    marked = torch.zeros(strength.numel(), dtype=torch.bool)
    marked[strength.flatten().topk(count).indices] = True
    return marked.view_as(strength)


def edge_f1(first_HWC: Tensor, second_HWC: Tensor) -> float:
    """Agreement of two pictures' edges, 0..1: F1 with a tolerance of `EDGE_TOLERANCE_PX` pixels."""
    a, b = edges(first_HWC), edges(second_HWC)
    side = 2 * EDGE_TOLERANCE_PX + 1

    def near(x: Tensor) -> Tensor:
        return nnf.max_pool2d(x[None, None].float(), side, 1, EDGE_TOLERANCE_PX)[0, 0] > 0

    precision = float((b & near(a)).sum() / b.sum())
    recall = float((a & near(b)).sum() / a.sum())
    return 2.0 * precision * recall / (precision + recall) if precision + recall else 0.0


class ColourJudge:
    """Tells which colour an object was painted in, by the nearest mean colour among true renders in all colours."""

    def __init__(self, held_out: HeldOut) -> None:
        self._masks = held_out.object_masks()
        self._held_out = held_out
        colour = held_out.scenes.colour
        self._renders: dict[int, list[Tensor]] = {}
        self._recoloured = [held_out.view.in_colours(torch.full_like(colour, c)) for c in range(len(COLOUR_NAMES))]

    def _in_all_colours(self, style: int) -> list[Tensor]:
        if style not in self._renders:
            self._renders = {style: [view.shade(STYLES[style]) for view in self._recoloured]}
        return self._renders[style]

    def right(self, case: Case, picture_HWC: Tensor) -> tuple[int, int]:
        """(objects painted in their prompted colour, objects judged). Objects of under 40 pixels are not judged."""
        if STYLES[case.style] not in COLOURED_STYLES:
            return 0, 0
        good = judged = 0
        scenes = self._held_out.scenes
        for shape in range(len(SHAPES)):
            mask = self._masks[case.scene, shape]
            if int(mask.sum()) < 40:
                continue
            wanted = next(
                int(scenes.colour[case.scene, k])
                for k, kind in enumerate(SLOT_SHAPES)
                if kind == shape and bool(scenes.present[case.scene, k])
            )
            got = picture_HWC[mask].float().mean(0) / 255.0
            choices = torch.stack([r[case.scene][:, mask].mean(1) for r in self._in_all_colours(case.style)])
            judged += 1
            good += int((choices - got).norm(dim=1).argmin()) == wanted
        return good, judged


@dataclass(frozen=True)
class Score:
    """Shares 0..1. style_by: the share per style. edges: mean F1 with the grey input, edges_by of each style.
    edges_truth, edges_truth_by: what the true renders reach, whose own textures and outlines count as edges too;
    edges_of_truth: the share of that."""

    style: float
    style_by: dict[str, float]
    edges: float
    edges_by: dict[str, float]
    edges_truth: float
    edges_truth_by: dict[str, float]
    edges_of_truth: float
    colours: float


def evaluate(held_out: HeldOut, paint: Painting, judge: StyleJudge, colours: ColourJudge) -> tuple[Score, list[Tensor]]:
    """Scores of all cases, and the pictures in the order of `HeldOut.cases`."""
    hits, f1, f1_truth = ({name: list[float]() for name in STYLES} for _ in range(3))
    pictures = []
    good = judged = 0
    for case in held_out.cases():
        picture = paint(case)
        pictures.append(picture)
        name = STYLES[case.style]
        hits[name].append(float(int(judge.styles(picture[None])) == case.style))
        f1[name].append(edge_f1(case.source, picture))
        f1_truth[name].append(edge_f1(case.source, case.truth))
        right, of = colours.right(case, picture)
        good, judged = good + right, judged + of
    style_by, edges_by, truth_by = (
        {name: sum(values) / len(values) for name, values in by.items()} for by in (hits, f1, f1_truth)
    )
    style, edge, truth = (sum(by.values()) / len(by) for by in (style_by, edges_by, truth_by))
    score = Score(
        style=style,
        style_by=style_by,
        edges=edge,
        edges_by=edges_by,
        edges_truth=truth,
        edges_truth_by=truth_by,
        edges_of_truth=edge / truth,
        colours=good / judged if judged else 0.0,
    )
    return score, pictures
