"""One small model trained with one noise pairing for one objective, looked at on its way: what the pairings are
compared by.

From the same seed the weights, the order of the pictures, the timesteps and the noise that is drawn are the same for
every pairing; only who gets which noise differs.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.pairing import PAIRINGS, TrainingSet, best_draw
from core.tiny.shards import stream_of
from core.tiny.stage import Stage
from core.training.frechet import Classifier, frechet_distance
from core.training.mixer import Mixer
from core.training.objectives import OBJECTIVES, Objective

WARM_UP = 50


@dataclass(frozen=True)
class Trial:
    """What is trained. looks: so often it is looked at, evenly. made: pictures for a distance. average: how slowly the
    averaged weights follow."""

    objective: str
    pairing: str
    conditional: bool
    seed: int
    steps: int = 300
    batch: int = 64
    lr: float = 2e-3
    width: int = 64
    blocks: int = 3
    looks: int = 3
    made: int = 512
    average: float = 0.99

    @property
    def name(self) -> str:
        """Of its files."""
        kind = "conditional" if self.conditional else "unconditional"
        return f"{self.objective}-{kind}-{self.pairing}-{self.seed}"


EVALUATIONS = {"diffusion": (8, 2, 4, 16), "flow": (8, 2, 4, 16), "few-step": (1, 2, 4)}
"""Calls of the network per picture: the first is that of the curves, all are taken at the end."""


@dataclass(frozen=True)
class Measure:
    """What pictures are measured by: a classifier, and the features (B, F) of pictures that nothing is trained on."""

    classifier: Classifier
    reference: Tensor


def _seed(*key: int) -> int:
    return stream_of(*key).randrange(2**62)


def _constant(step: int, done: float, peak: float) -> float:
    """After a warm-up the same to the end, so that the averaged weights of every look are those of a whole training."""
    return peak * min(1.0, (step + 1) / WARM_UP)


@torch.no_grad()
def looked_at(
    objective: Objective, net: Mixer, captions: Tensor, measure: Measure, evaluations: int, conditional: bool
) -> dict[str, float]:
    """Of pictures made from noise drawn blindly: the Fréchet distance to the reference, and the share that the
    classifier finds as prompted (conditional only)."""
    generator = torch.Generator().manual_seed(_seed(7, evaluations))
    width = 3 * net.side**2
    noise = torch.randn((len(captions), width), generator=generator)
    asked = captions if conditional else torch.full_like(captions, net.caption.num_embeddings - 1)
    made = objective.made(net, noise, asked, evaluations, generator)
    found = {"distance": frechet_distance(measure.classifier.features(made), measure.reference)}
    if conditional:
        found["prompted"] = float((measure.classifier(made).argmax(1) == captions).float().mean())
    return found


@dataclass(frozen=True)
class Repainting:
    """Scenes that nothing is trained on: before, and wanted with the captions after; rows of D numbers each."""

    before: Tensor
    wanted: Tensor
    caption: Tensor


REPAINTED_FROM, REPAINTED_IN = 0.6, 4
"""Time that image-to-image starts at, and calls of the network."""
DRAWS = (1, 4, 16)
"""Of noise per picture, of which the best is taken; 1 is blind."""


@torch.no_grad()
def repainted(objective: Objective, net: Mixer, given: Repainting, measure: Measure, draws: int) -> dict[str, float]:
    """Image-to-image with the best of so many draws of noise for each picture (as `core.matched`). error: root
    mean square difference from the same scene in the wanted style; distance, prompted: as `looked_at`."""
    generator = torch.Generator().manual_seed(_seed(11))
    # The first draw is the same for any number of them.
    drawn = torch.stack([torch.randn(given.before.shape, generator=generator) for _ in range(max(DRAWS))])[:draws]
    planes = given.before.view(len(given.before), 3, -1)
    best = best_draw(drawn[:, None], (planes - planes.mean(2, keepdim=True)).flatten(1))[0]
    noise = drawn[best, torch.arange(len(best))]
    start = torch.full((len(best),), REPAINTED_FROM)
    noised = objective.noised(given.before, noise, start)
    made = objective.made(net, noised, given.caption, REPAINTED_IN, generator, REPAINTED_FROM)
    return {
        "error": float((made - given.wanted).square().mean().sqrt()),
        "distance": frechet_distance(measure.classifier.features(made), measure.reference),
        "prompted": float((measure.classifier(made).argmax(1) == given.caption).float().mean()),
    }


def train_trial(trial: Trial, data: TrainingSet, side: int, measure: Measure) -> tuple[dict[str, Any], Mixer]:
    """The averaged weights, and a record of how they came about. curve: (step, distance) at every look; final: by calls
    of the network per picture; pairing_s, step_s: seconds of this thread's processor time per step."""
    objective = OBJECTIVES[trial.objective]
    captions = int(data.caption_N.max()) + 1
    torch.manual_seed(_seed(8, trial.seed))
    net = Mixer(side, captions, width=trial.width, blocks=trial.blocks)
    pairing = PAIRINGS[trial.pairing]
    spent = {"pairing": 0.0, "all": 0.0}
    # What the pairings may tell captions by is what the network is told.
    known = data if trial.conditional else TrainingSet(data.x_ND, torch.zeros_like(data.caption_N), data.potential_N)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Any]]:
        generator = torch.Generator().manual_seed(_seed(9, trial.seed, step))
        rows = torch.randint(len(data.x_ND), (trial.batch,), generator=generator)
        t = torch.rand((trial.batch,), generator=generator)
        before = time.thread_time()
        paired = pairing(known, rows, generator)
        spent["pairing"] += time.thread_time() - before
        told = data.caption_N[paired.rows_B] if trial.conditional else torch.full_like(rows, captions)
        x = data.x_ND[paired.rows_B]
        return objective.loss(objective, net, x, paired.noise_BD, told, t, step / trial.steps), {}

    averaged = Mixer(side, captions, width=trial.width, blocks=trial.blocks).eval()
    generator = torch.Generator().manual_seed(_seed(10, trial.seed))
    asked = torch.randint(captions, (trial.made,), generator=generator)
    curve = []
    first, *others = EVALUATIONS[trial.objective]
    with tempfile.TemporaryDirectory() as work:
        stage = Stage(
            "trial", Path(work), net, lambda line: None, rate=_constant, average=trial.average, checkpoint_s=1e9
        )
        for look in range(1, trial.looks + 1):
            until = trial.steps * look // trial.looks
            before = time.thread_time()
            stage.run(until, trial.lr, loss_at)
            spent["all"] += time.thread_time() - before
            averaged.load_state_dict(stage.progress.average)
            found = looked_at(objective, averaged, asked, measure, first, trial.conditional)
            curve.append((until, found["distance"]))
    final = {str(first): found}
    for evaluations in others:
        final[str(evaluations)] = looked_at(objective, averaged, asked, measure, evaluations, trial.conditional)
    per_step = {name: seconds / trial.steps for name, seconds in spent.items()}
    return {"curve": curve, "final": final, "pairing_s": per_step["pairing"], "step_s": per_step["all"]}, averaged
